//! Signed requests to one repository.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use reqwest::{RequestBuilder, Response};
use serde::Deserialize;
use url::Url;

use crate::auth::{Auth, Authorization, Scope};
use crate::endpoint::Endpoint;
use crate::error::{Error, ErrorKind, Result};
use crate::net::{self, Net};
use crate::upload;

/// An error body is read up to this length.
const ERROR_BODY_MAX: usize = 64 << 10;
/// A request is signed at most this often: without, with the held token, with a new one,
/// and once more for a registry whose servers do not agree yet.
const SIGNATURES_MAX: u32 = 4;

/// One request whose body, if any, is in memory.
pub(crate) struct Call<'a> {
    pub(crate) stage: &'static str,
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) scope: &'a Scope,
    pub(crate) accept: Option<&'static str>,
    /// Further headers.
    pub(crate) headers: HeaderMap,
    pub(crate) body: Option<(&'a str, Bytes)>,
}

impl<'a> Call<'a> {
    pub(crate) fn new(stage: &'static str, method: Method, url: Url, scope: &'a Scope) -> Self {
        Self {
            stage,
            method,
            url,
            scope,
            accept: None,
            headers: HeaderMap::new(),
            body: None,
        }
    }
}

/// The client of one repository: network, identity, addresses.
#[derive(Clone, Debug)]
pub(crate) struct Transport {
    pub(crate) net: Net,
    pub(crate) auth: Arc<Auth>,
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) uploads: Arc<upload::Shared>,
}

impl Transport {
    /// Sends `call`, again while the failure may pass. Neither 401 nor 403 nor a transient
    /// status is among the answers; those are errors.
    pub(crate) async fn send(&self, call: &Call<'_>) -> Result<Response> {
        self.net
            .retrying(call.stage, &self.endpoint.name(), || self.once(call))
            .await
    }

    /// Sends `call` once, signing it as often as the registry's answers call for.
    pub(crate) async fn once(&self, call: &Call<'_>) -> Result<Response> {
        let mut signatures = 1;
        loop {
            let (request, used) = self.sign(self.build(call), &call.url, call.scope).await?;
            let response = self.net.once(call.stage, &call.url, request).await?;
            // What another host says, after a redirect, is not about our credentials.
            if !self.endpoint.owns(&call.url) || !self.endpoint.owns(response.url()) {
                return Ok(response);
            }
            match response.status() {
                StatusCode::UNAUTHORIZED => {
                    let again = self
                        .auth
                        .refused(&used, response.headers(), call.scope)
                        .await;
                    if !again || signatures == SIGNATURES_MAX {
                        return Err(self.auth.denied(call.stage, response.headers()));
                    }
                    signatures += 1;
                }
                StatusCode::FORBIDDEN => return Err(self.auth.forbidden(call.stage)),
                _ => return Ok(response),
            }
        }
    }

    fn build(&self, call: &Call<'_>) -> RequestBuilder {
        let mut request = self
            .net
            .client
            .request(call.method.clone(), call.url.clone())
            .headers(call.headers.clone());
        if let Some(accept) = call.accept {
            request = request.header(header::ACCEPT, accept);
        }
        match &call.body {
            Some((media_type, bytes)) => request
                .header(header::CONTENT_TYPE, *media_type)
                .body(bytes.clone()),
            // Some registries insist on a stated length even where there is no body.
            None if call.method == Method::POST || call.method == Method::PUT => {
                request.header(header::CONTENT_LENGTH, 0)
            }
            None => request,
        }
    }

    /// Signs a request to `url`, if it is of this registry: an upload or storage URL on another
    /// host carries its own authority and must not see ours.
    pub(crate) async fn sign(
        &self,
        request: RequestBuilder,
        url: &Url,
        scope: &Scope,
    ) -> Result<(RequestBuilder, Authorization)> {
        if !self.endpoint.owns(url) {
            return Ok((request, Authorization::None));
        }
        let used = self.auth.authorization(scope).await?;
        let request = match used.header() {
            Some(value) => request.header(header::AUTHORIZATION, value),
            None => request,
        };
        Ok((request, used))
    }

    /// Follows the `Location` of an answer.
    pub(crate) fn location(&self, response: &Response, stage: &'static str) -> Result<Url> {
        let missing = || {
            let detail = "the registry's answer has no Location";
            Error::new(ErrorKind::Protocol, stage, self.endpoint.name(), detail)
        };
        let value = response
            .headers()
            .get(header::LOCATION)
            .ok_or_else(missing)?;
        let text = value.to_str().map_err(|_| missing())?;
        self.endpoint.resolve(response.url(), text)
    }

    /// Makes an error of an answer that was not expected, quoting the registry's own words.
    pub(crate) async fn unexpected(
        &self,
        response: Response,
        stage: &'static str,
        object: impl Into<String>,
    ) -> Error {
        let status = response.status();
        let limit = self.net.options.request_timeout;
        let body = net::read_body(response, stage, ERROR_BODY_MAX, limit).await;
        let mut detail = format!("the registry answered {status}");
        if let Some(words) = body.ok().and_then(|body| registry_words(&body)) {
            detail = format!("{detail}: {words}");
        }
        let kind = match status.as_u16() {
            404 => ErrorKind::NotFound,
            401 => ErrorKind::Unauthorized,
            403 => ErrorKind::Forbidden,
            429 => ErrorKind::Throttled,
            405 | 413 | 415 | 501 => ErrorKind::Unsupported,
            400..=499 => ErrorKind::Invalid,
            500..=599 => ErrorKind::Server,
            _ => ErrorKind::Protocol,
        };
        Error::new(kind, stage, object, detail)
    }
}

#[derive(Deserialize)]
struct Envelope {
    errors: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    code: String,
    #[serde(default)]
    message: String,
}

/// Words of a registry that are longer are left out: they may be a token it echoes.
const WORD_MAX: usize = 120;

/// Code and message of the first error in an error body (distribution-spec, error codes),
/// printable and short, without what may be a secret.
fn registry_words(body: &[u8]) -> Option<String> {
    let envelope: Envelope = serde_json::from_slice(body).ok()?;
    let first = envelope.errors.into_iter().next()?;
    let clean = |text: &str, limit: usize| -> String {
        let text: String = text.chars().filter(|letter| !letter.is_control()).collect();
        let words: Vec<&str> = text.split(' ').map(harmless).collect();
        words.join(" ").chars().take(limit).collect()
    };
    let code = clean(&first.code, 40);
    let message = clean(&first.message, 200);
    Some(if message.is_empty() {
        code
    } else {
        format!("{code} ({message})")
    })
}

/// A word without the query of a URL and without its user, and no word that is long.
fn harmless(word: &str) -> &str {
    let word = word.split(['?', '#']).next().unwrap_or_default();
    let has_user = word.contains("://") && word.contains('@');
    if has_user || word.len() > WORD_MAX {
        "…"
    } else {
        word
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registrys_words_are_cleaned() {
        let body = b"{\"errors\":[{\"code\":\"DENIED\",\"message\":\"no\\u001b[31m \\nway\",\"detail\":{}}]}";
        assert_eq!(registry_words(body).unwrap(), "DENIED (no[31m way)");
        let body = format!(
            r#"{{"errors":[{{"code":"X","message":"bad token {} at https://s.invalid/b?sig=hunter2 of https://me:hunter2@s.invalid"}}]}}"#,
            "ey".repeat(61)
        );
        assert_eq!(
            registry_words(body.as_bytes()).unwrap(),
            "X (bad token … at https://s.invalid/b of …)"
        );
        assert_eq!(registry_words(b"<html>"), None);
        assert_eq!(registry_words(br#"{"errors":[]}"#), None);
    }
}
