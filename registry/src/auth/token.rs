//! Bearer tokens: fetched once per scope, kept until shortly before they expire.

use http::{StatusCode, header};
use serde::Deserialize;
use tokio::time::Instant;
use url::Url;

use crate::auth::credentials::{Credentials, Kind};
use crate::auth::life;
use crate::endpoint::Endpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::net::{self, Net};
use crate::secret::Secret;

pub(crate) const STAGE: &str = "get registry token";
const ANSWER_MAX: usize = 256 << 10;

/// What a token is good for: one or more scopes of the distribution token specification.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Scope(Vec<String>);

impl Scope {
    pub(crate) fn pull(repository: &str) -> Self {
        Self(vec![format!("repository:{repository}:pull")])
    }

    pub(crate) fn push(repository: &str) -> Self {
        Self(vec![format!("repository:{repository}:pull,push")])
    }

    pub(crate) fn delete(repository: &str) -> Self {
        Self(vec![format!("repository:{repository}:delete")])
    }

    /// Adds reading of another repository, which a mount from it needs.
    pub(crate) fn and_pull(mut self, repository: &str) -> Self {
        self.0.push(format!("repository:{repository}:pull"));
        self
    }
}

/// A token and when to renew it.
#[derive(Debug)]
pub(crate) struct Token {
    pub(crate) secret: Secret,
    renew: Instant,
}

impl Token {
    pub(crate) fn is_fresh(&self) -> bool {
        Instant::now() < self.renew
    }
}

/// The answer of a token endpoint (distribution token specification, token response fields).
#[derive(Default, Deserialize)]
pub(crate) struct Answer {
    pub(crate) token: Option<String>,
    pub(crate) access_token: Option<String>,
    pub(crate) refresh_token: Option<String>,
    expires_in: Option<u64>,
    issued_at: Option<String>,
}

/// An answer and when it came.
pub(crate) struct Reply {
    pub(crate) answer: Answer,
    pub(crate) asked_at: Instant,
    date: Option<String>,
}

/// What a token is asked with.
pub(crate) struct Ask<'a> {
    pub(crate) net: &'a Net,
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) credentials: &'a Credentials,
    pub(crate) realm: &'a str,
    pub(crate) service: Option<&'a str>,
}

impl Ask<'_> {
    /// Fetches a token for `scope`: GET with Basic credentials or none, or a POST of a refresh
    /// token.
    pub(crate) async fn fetch(&self, scope: &Scope) -> Result<Token> {
        let realm = self.realm_url()?;
        if let Kind::Refresh(vault) = &self.credentials.kind {
            return vault.token(self, &realm, scope).await;
        }
        let mut url = realm;
        url.query_pairs_mut().extend_pairs(self.fields(scope));
        let reply = self
            .send(STAGE, &url, || {
                let request = self.net.client.get(url.clone());
                match &self.credentials.kind {
                    Kind::Basic { username, password } => {
                        request.basic_auth(username, Some(password.reveal()))
                    }
                    _ => request,
                }
            })
            .await?;
        self.accept(&reply)
    }

    /// `service` and every scope, as a query or a form.
    pub(crate) fn fields<'s>(&'s self, scope: &'s Scope) -> Vec<(&'static str, &'s str)> {
        let service = self.service.map(|service| ("service", service));
        let scopes = scope.0.iter().map(|scope| ("scope", scope.as_str()));
        service.into_iter().chain(scopes).collect()
    }

    /// Sends a request of the token protocol, again while its failure may pass.
    pub(crate) async fn send(
        &self,
        stage: &'static str,
        url: &Url,
        request: impl Fn() -> reqwest::RequestBuilder,
    ) -> Result<Reply> {
        let response = self
            .net
            .retrying(stage, self.endpoint.registry(), || {
                self.net.once(stage, url, request())
            })
            .await?;
        let status = response.status();
        if !status.is_success() {
            return Err(self.refused(stage, status));
        }
        let asked_at = Instant::now();
        let date = response.headers().get(header::DATE);
        let date = date
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        let limit = self.net.options.request_timeout;
        let body = net::read_body(response, stage, ANSWER_MAX, limit).await?;
        // serde's message may quote the answer, which holds a token.
        let answer = serde_json::from_slice(&body).map_err(|_| {
            self.error(
                ErrorKind::Protocol,
                "its token endpoint's answer has no token",
            )
        })?;
        Ok(Reply {
            answer,
            asked_at,
            date,
        })
    }

    /// The access token of an answer.
    pub(crate) fn accept(&self, reply: &Reply) -> Result<Token> {
        let text = reply.answer.access().ok_or_else(|| {
            self.error(
                ErrorKind::Protocol,
                "its token endpoint's answer has no token",
            )
        })?;
        let stated = life::Stated {
            expires_in: reply.answer.expires_in,
            issued_at: reply.answer.issued_at.as_deref(),
            date: reply.date.as_deref(),
        };
        let life = life::left(stated, text).unwrap_or(life::DEFAULT);
        Ok(Token {
            secret: Secret::new(text),
            renew: reply.asked_at + life::usable(life),
        })
    }

    fn realm_url(&self) -> Result<Url> {
        let bad = |detail| self.error(ErrorKind::Protocol, detail);
        let url = Url::parse(self.realm).map_err(|_| bad("its token endpoint is not a URL"))?;
        let has_user = !url.username().is_empty() || url.password().is_some();
        if has_user || !self.endpoint.permits_credentials(&url) {
            return Err(bad("its token endpoint is not safe to send credentials to"));
        }
        Ok(url)
    }

    fn refused(&self, stage: &'static str, status: StatusCode) -> Error {
        let source = self.credentials.source();
        let registry = self.endpoint.registry();
        if matches!(status.as_u16(), 400 | 401 | 403) {
            let detail = format!("the token endpoint refused {source} ({status})");
            return Error::new(ErrorKind::Unauthorized, stage, registry, detail)
                .with_hint(super::advice(self.credentials));
        }
        let detail = format!("the token endpoint cannot be used with {source} ({status})");
        Error::new(ErrorKind::Unsupported, stage, registry, detail)
            .with_hint("the registry may want another kind of credentials, such as a password")
    }

    pub(crate) fn error(&self, kind: ErrorKind, detail: &str) -> Error {
        Error::new(kind, STAGE, self.endpoint.registry(), detail)
    }
}
