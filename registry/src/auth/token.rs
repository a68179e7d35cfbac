//! Bearer tokens: fetched once per scope, kept until shortly before they expire.

use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;
use url::Url;

use crate::auth::credentials::{Credentials, Kind};
use crate::endpoint::Endpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::net::{self, Net};
use crate::secret::Secret;

pub(crate) const STAGE: &str = "get registry token";
/// A token without a stated life lives this long (distribution token specification).
const LIFE_DEFAULT: Duration = Duration::from_mins(1);
/// No stated life is believed beyond this.
const LIFE_MAX: Duration = Duration::from_hours(24);
/// A token is renewed this long before it expires, so that it does not expire on the way.
const SKEW: Duration = Duration::from_secs(30);
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

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
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
    /// token (`grant_type=refresh_token`).
    pub(crate) async fn fetch(&self, scope: &Scope) -> Result<Token> {
        let realm = self.realm_url()?;
        let response = self
            .net
            .retrying(STAGE, self.endpoint.registry(), || {
                self.net.once(STAGE, &realm, self.request(&realm, scope))
            })
            .await?;
        let status = response.status();
        if !status.is_success() {
            return Err(self.refused(status));
        }
        let asked_at = Instant::now();
        let body = net::read_body(
            response,
            STAGE,
            ANSWER_MAX,
            self.net.options.request_timeout,
        )
        .await?;
        let unusable = || {
            self.error(
                ErrorKind::Protocol,
                "its token endpoint's answer has no token",
            )
        };
        let answer: Answer = serde_json::from_slice(&body).map_err(|_| unusable())?;
        let text = answer
            .token
            .or(answer.access_token)
            .filter(|text| !text.is_empty());
        let life = answer
            .expires_in
            .map_or(LIFE_DEFAULT, Duration::from_secs)
            .clamp(LIFE_DEFAULT, LIFE_MAX);
        Ok(Token {
            secret: Secret::new(text.ok_or_else(unusable)?),
            renew: asked_at + life.saturating_sub(SKEW),
        })
    }

    fn realm_url(&self) -> Result<Url> {
        let bad = |detail| self.error(ErrorKind::Protocol, detail);
        let url = Url::parse(self.realm).map_err(|_| bad("its token endpoint is not a URL"))?;
        if !self.endpoint.permits(&url) || !url.username().is_empty() {
            return Err(bad("its token endpoint is not safe to send credentials to"));
        }
        Ok(url)
    }

    fn request(&self, realm: &Url, scope: &Scope) -> reqwest::RequestBuilder {
        let mut fields: Vec<(&str, &str)> = Vec::new();
        fields.extend(self.service.map(|service| ("service", service)));
        fields.extend(scope.0.iter().map(|scope| ("scope", scope.as_str())));
        if let Kind::Refresh(token) = &self.credentials.kind {
            fields.push(("grant_type", "refresh_token"));
            fields.push(("client_id", "modelship"));
            fields.push(("refresh_token", token.reveal()));
            return self.net.client.post(realm.clone()).form(&fields);
        }
        let mut url = realm.clone();
        url.query_pairs_mut().extend_pairs(fields);
        let request = self.net.client.get(url);
        match &self.credentials.kind {
            Kind::Basic { username, password } => {
                request.basic_auth(username, Some(password.reveal()))
            }
            _ => request,
        }
    }

    fn refused(&self, status: http::StatusCode) -> Error {
        let detail = format!(
            "the token endpoint refused {} ({status})",
            self.credentials.source()
        );
        self.error(ErrorKind::Unauthorized, &detail)
            .with_hint(super::advice(self.credentials))
    }

    fn error(&self, kind: ErrorKind, detail: &str) -> Error {
        Error::new(kind, STAGE, self.endpoint.registry(), detail)
    }
}
