//! The issuer's end points: who asks, what is granted, and the answer.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{Credentials, Issuing, Scope, TokenRequest, jwt};
use crate::http::{Answer, Body, Headers, Request, Wire, parse_query};

/// The longest form that is read.
const FORM_BYTES: usize = 64 * 1024;
/// The user of a password that is ACR's refresh token.
const NULL_GUID: &str = "00000000-0000-0000-0000-000000000000";

pub(super) async fn listen(socket: TcpListener, issuing: Arc<Issuing>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if let Ok((stream, _)) = socket.accept().await {
            connections.spawn(serve(stream, Arc::clone(&issuing)));
        }
    }
}

async fn serve(stream: TcpStream, issuing: Arc<Issuing>) {
    let mut client = Wire::new(stream);
    while let Ok(Some(head)) = client.reader().head().await {
        let Ok(mut request) = Request::parse(&head) else {
            return client.reset();
        };
        let mut form = Vec::new();
        while let Ok(Some(data)) = request.body.next(&mut client.reader(), u64::MAX).await {
            form.extend_from_slice(&data);
            if form.len() > FORM_BYTES {
                return client.reset();
            }
        }
        let (status, body) = issuing.answer(&request, &form);
        let body = body.to_string();
        let mut headers = Headers::default();
        headers.set("Content-Type", "application/json");
        headers.set("Content-Length", body.len().to_string());
        let answer = Answer {
            status,
            headers,
            body: Body::Done,
        };
        if client.writer().send(answer.write() + &body).await.is_err() || request.closes() {
            return client.linger().await;
        }
    }
}

/// A request for a token, read.
struct Asked {
    path: String,
    post: bool,
    fields: Vec<(String, String)>,
    authorization: Option<(String, String)>,
}

impl Asked {
    fn read(request: &Request, form: &[u8]) -> Self {
        let (path, query) = request
            .target
            .split_once('?')
            .unwrap_or((&request.target, ""));
        let mut fields = parse_query(query);
        fields.extend(parse_query(&String::from_utf8_lossy(form)));
        let authorization = request.headers.get("authorization").and_then(jwt::basic);
        Self {
            path: path.to_owned(),
            post: request.method == "POST",
            fields,
            authorization,
        }
    }

    fn field(&self, name: &str) -> Option<&str> {
        let same = |(known, _): &&(String, String)| known == name;
        self.fields
            .iter()
            .find(same)
            .map(|(_, value)| value.as_str())
    }

    /// The scopes, of one field with spaces or of several (Docker's token specification).
    fn scopes(&self) -> Vec<String> {
        let scopes = self.fields.iter().filter(|(name, _)| name == "scope");
        let scopes = scopes.flat_map(|(_, value)| value.split(' '));
        scopes
            .filter(|scope| !scope.is_empty())
            .map(str::to_owned)
            .collect()
    }

    fn credentials(&self) -> Credentials {
        let kind = self.field("grant_type").filter(|_| self.post);
        match (kind, &self.authorization) {
            (Some("refresh_token"), _) => Credentials::RefreshToken,
            (Some("password"), _) => Credentials::Password,
            (Some("access_token"), _) => Credentials::AccessToken,
            (_, Some(_)) => Credentials::Basic,
            (_, None) => Credentials::None,
        }
    }
}

impl Issuing {
    fn answer(&self, request: &Request, form: &[u8]) -> (u16, Value) {
        let asked = Asked::read(request, form);
        let (status, body) = self.decide(&asked);
        let mut seen = self.seen();
        seen.push(TokenRequest {
            method: request.method.clone(),
            path: asked.path.clone(),
            grant_type: asked.field("grant_type").map(str::to_owned),
            service: asked.field("service").map(str::to_owned),
            scopes: asked.scopes(),
            credentials: asked.credentials(),
            status,
        });
        (status, body)
    }

    fn decide(&self, asked: &Asked) -> (u16, Value) {
        if self.seen().len() < self.options.fail_first {
            return (503, error("UNAVAILABLE", "a fault of the issuer"));
        }
        let refused = (401, error("UNAUTHORIZED", "authentication required"));
        match asked.path.as_str() {
            "/token" | "/oauth2/token" => {
                let Some(user) = self.user(asked) else {
                    return refused;
                };
                self.issue(asked, user.as_deref())
            }
            "/oauth2/exchange" if asked.post => {
                let known = asked.field("access_token") == Some(self.aad_token.as_str());
                let named = asked.field("service") == Some(super::SERVICE);
                let granted = asked.field("grant_type") == Some("access_token");
                if !(known && named && granted) {
                    return refused;
                }
                (200, json!({ "refresh_token": self.refresh_token }))
            }
            _ => (404, error("NOT_FOUND", "no such end point")),
        }
    }

    /// Who asks: nobody known, somebody not named, or a user.
    fn user(&self, asked: &Asked) -> Option<Option<String>> {
        let known = |user: &str, password: &str| {
            let users = &mut self.options.users.iter();
            let same = users.any(|(name, secret)| name == user && secret == password);
            let token = password == self.refresh_token && user == NULL_GUID;
            (same || token).then(|| Some(user.to_owned()))
        };
        match asked.credentials() {
            Credentials::None => self.options.anonymous.then_some(None),
            Credentials::Basic => {
                let (user, password) = asked.authorization.as_ref()?;
                known(user, password)
            }
            Credentials::Password => known(asked.field("username")?, asked.field("password")?),
            Credentials::RefreshToken => {
                let same = asked.field("refresh_token") == Some(self.refresh_token.as_str());
                same.then(|| Some("bearer".to_owned()))
            }
            Credentials::AccessToken => None,
        }
    }

    fn issue(&self, asked: &Asked, user: Option<&str>) -> (u16, Value) {
        let scopes = asked.scopes();
        let scopes: Vec<Scope> = scopes
            .iter()
            .filter_map(|scope| Scope::parse(scope))
            .collect();
        let read = self.options.reads.of(&scopes);
        let granted: Vec<Scope> = read
            .iter()
            .map(|scope| scope.clone().with((self.options.grant)(scope, user)))
            .filter(|scope| !scope.actions.is_empty())
            .collect();
        let (life, names) = (self.options.life_seconds, (super::NAME, super::SERVICE));
        let token = self
            .signer
            .token(names, user.unwrap_or_default(), &granted, life);
        let Ok(token) = token else {
            return (500, error("UNKNOWN", "the token could not be signed"));
        };
        let mut body = json!({ "access_token": token, "expires_in": life });
        if !asked.post && asked.path == "/token" {
            body["token"] = body["access_token"].clone();
        }
        let offline = asked.field("offline_token") == Some("true")
            || asked.field("access_type") == Some("offline");
        if offline && user.is_some() {
            body["refresh_token"] = json!(self.refresh_token);
        }
        if asked.post {
            let text = granted.iter().map(ToString::to_string);
            body["scope"] = json!(text.collect::<Vec<_>>().join(" "));
        }
        (200, body)
    }
}

fn error(code: &str, message: &str) -> Value {
    json!({ "errors": [{ "code": code, "message": message }] })
}
