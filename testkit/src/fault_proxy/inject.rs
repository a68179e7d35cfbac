//! The faults in which the proxy answers by itself.

use std::io;

use serde_json::json;
use tokio::net::TcpStream;

use super::forward::{Next, Turn};
use super::plan::What;
use super::route::Kind;
use crate::http::{Answer, Headers, Request};
use crate::http::{Body, Wire};

type Fields = Vec<(String, String)>;

impl Turn<'_> {
    /// Answers, if a fault says so; else the request goes to the registry.
    pub(super) async fn answer_itself(&mut self, client: &mut Wire) -> io::Result<Option<Next>> {
        for what in self.faults.clone() {
            let Some((status, fields, early)) = self.reply_of(&what).await? else {
                if what == What::MountRefused && self.route.kind == Kind::Mount {
                    self.apply(&what);
                    self.drop_query();
                }
                continue;
            };
            if !early {
                self.drain(client).await?;
            }
            self.apply(&what);
            return self.reply(client, status, fields, early).await.map(Some);
        }
        Ok(None)
    }

    /// Status, fields, and whether the body is not waited for.
    async fn reply_of(&self, what: &What) -> io::Result<Option<(u16, Fields, bool)>> {
        let kind = self.route.kind;
        let reply = match what {
            What::Answer(reply) => (reply.status, reply.headers.clone(), reply.early),
            What::Unauthorized => {
                let challenge = self.challenge().await?;
                let field = ("WWW-Authenticate".to_owned(), challenge);
                (401, vec![field], false)
            }
            What::RangeNotSatisfiable if matches!(kind, Kind::Patch | Kind::Commit) => {
                (416, Vec::new(), false)
            }
            What::Redirect { foreign } => {
                let host = if *foreign { 1 } else { self.host };
                let location = format!("http://{}{}", self.shared.hosts[host], self.request.target);
                (307, vec![("Location".to_owned(), location)], false)
            }
            What::NoReferrers if kind == Kind::Referrers => (404, Vec::new(), false),
            What::BodyCap { max, status } if self.length() > Some(*max) => {
                (*status, Vec::new(), true)
            }
            What::MinChunk(min) if self.shared.follows_small(&self.route, *min) => {
                (416, Vec::new(), false)
            }
            _ => return Ok(None),
        };
        Ok(Some(reply))
    }

    fn length(&self) -> Option<u64> {
        match self.request.body {
            Body::Length(length) => Some(length),
            _ => None,
        }
    }

    fn drop_query(&mut self) {
        let target = &mut self.request.target;
        target.truncate(target.find('?').unwrap_or(target.len()));
    }

    async fn drain(&mut self, client: &mut Wire) -> io::Result<()> {
        let mut reader = client.reader();
        while let Some(data) = self.request.body.next(&mut reader, u64::MAX).await? {
            let size = data.len() as u64;
            self.shared.took(self.index, &self.route, size, false);
        }
        Ok(())
    }

    /// Answers with an error of the specification's form ("Error Codes").
    pub(super) async fn reply(
        &self,
        client: &Wire,
        status: u16,
        fields: Fields,
        early: bool,
    ) -> io::Result<Next> {
        let code = match status {
            401 => "UNAUTHORIZED",
            403 => "DENIED",
            404 => "NOT_FOUND",
            413 => "SIZE_INVALID",
            416 => "BLOB_UPLOAD_INVALID",
            429 => "TOOMANYREQUESTS",
            _ => "UNKNOWN",
        };
        let text = if status >= 400 {
            let error = json!({ "code": code, "message": "a fault of the proxy" });
            json!({ "errors": [error] }).to_string()
        } else {
            String::new()
        };
        let mut headers = Headers(fields);
        headers.set("Content-Length", text.len().to_string());
        headers.set("Content-Type", "application/json");
        if early {
            headers.set("Connection", "close");
        }
        self.shared.tell(self.index, &self.route, status, &headers);
        let (body, head_only) = (Body::Done, self.request.method == "HEAD");
        let answer = Answer {
            status,
            headers,
            body,
        };
        let text = if head_only { String::new() } else { text };
        client.writer().send(answer.write() + &text).await?;
        let closes = early || self.request.closes();
        Ok(if closes { Next::Close } else { Next::Again })
    }

    /// What the registry asks a client without credentials for.
    async fn challenge(&self) -> io::Result<String> {
        let open = "Basic realm=\"testkit\"".to_owned();
        // Only a registry that refuses strangers is asked with the method of the request.
        let mut challenge = None;
        for (method, target) in [
            ("GET", "/v2/"),
            (&*self.request.method, &*self.request.target),
        ] {
            let asked = self.ask(method, target).await?;
            let Some(value) = asked.headers.get("www-authenticate") else {
                break;
            };
            challenge = Some(value.to_owned());
        }
        Ok(challenge.unwrap_or(open))
    }

    async fn ask(&self, method: &str, target: &str) -> io::Result<Answer> {
        let host = self.shared.hosts[0].clone();
        let fields = [("Host", host), ("Content-Length", "0".to_owned())];
        let fields = fields.map(|(name, value)| (name.to_owned(), value));
        let request = Request {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Headers(fields.to_vec()),
            body: Body::Done,
        };
        let mut upstream = Wire::new(TcpStream::connect(self.shared.upstream).await?);
        upstream.writer().send(request.write()).await?;
        let head = upstream.reader().head().await?;
        let head = head.ok_or(io::ErrorKind::UnexpectedEof)?;
        Answer::parse(&head, method).map_err(io::Error::other)
    }
}
