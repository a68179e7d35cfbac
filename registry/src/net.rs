//! The HTTP client: trust, redirects, the retry loop, and errors without URLs in them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Response};
use url::Url;

use crate::endpoint::{host_port, may_redirect};
use crate::error::{Error, ErrorKind, Result};
use crate::options::RegistryOptions;
use crate::retry;

/// Names us to a registry.
pub(crate) const USER_AGENT: &str = concat!("modelship-registry/", env!("CARGO_PKG_VERSION"));
const REDIRECTS_MAX: usize = 5;

/// The client and the options it is used with.
#[derive(Clone)]
pub(crate) struct Net {
    pub(crate) client: Client,
    pub(crate) options: Arc<RegistryOptions>,
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Net")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Net {
    pub(crate) fn new(options: RegistryOptions) -> Result<Self> {
        let bad = |what: &str, error: reqwest::Error| {
            Error::new(
                ErrorKind::Invalid,
                "open repository",
                what,
                "cannot be used",
            )
            .with_source(error.without_url())
        };
        let mut builder = Client::builder()
            // One connection per upload: a lost stream must not stall its neighbours.
            .http1_only()
            .connect_timeout(options.connect_timeout)
            .redirect(Policy::custom(|attempt| {
                let first = attempt.previous().first();
                let safe = first.is_some_and(|first| may_redirect(first, attempt.url()));
                if safe && attempt.previous().len() <= REDIRECTS_MAX {
                    // reqwest drops Authorization when a redirect leaves the origin.
                    attempt.follow()
                } else {
                    attempt.stop()
                }
            }))
            .user_agent(USER_AGENT);
        let mut roots = Vec::new();
        for pem in certificates(&options.extra_ca_pem)? {
            roots.push(
                reqwest::Certificate::from_pem(&pem)
                    .map_err(|error| bad("extra root certificate", error))?,
            );
        }
        builder = builder.tls_certs_merge(roots);
        builder = match &options.proxy {
            // Without this the client would read the environment, which is not ours to read.
            None => builder.no_proxy(),
            Some(proxy) => {
                let exempt = options
                    .no_proxy
                    .as_deref()
                    .and_then(reqwest::NoProxy::from_string);
                let proxy = reqwest::Proxy::all(proxy).map_err(|error| bad("proxy", error))?;
                builder.proxy(proxy.no_proxy(exempt))
            }
        };
        let client = builder.build().map_err(|error| bad("http client", error))?;
        Ok(Self {
            client,
            options: Arc::new(options),
        })
    }

    /// Runs `send` again while its failure may pass. The answer may have any status that is
    /// not transient.
    pub(crate) async fn retrying<F: Future<Output = Result<Response>>>(
        &self,
        stage: &'static str,
        object: &str,
        send: impl Fn() -> F,
    ) -> Result<Response> {
        let mut attempt = 1;
        loop {
            let (error, asked) = match send().await {
                Ok(response) if retry::is_transient(response.status()) => (
                    status_error(stage, object, response.status()),
                    retry::retry_after(response.headers()),
                ),
                Ok(response) => return Ok(response),
                Err(error) if error.is_retryable() => (error, None),
                Err(error) => return Err(error),
            };
            match retry::pause(&self.options, attempt, asked) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(error),
            }
            attempt += 1;
        }
    }

    /// Sends one request within the time limit for requests.
    pub(crate) async fn once(
        &self,
        stage: &'static str,
        url: &Url,
        request: RequestBuilder,
    ) -> Result<Response> {
        match tokio::time::timeout(self.options.request_timeout, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(transport_error(stage, url, error)),
            Err(_) => Err(timeout_error(stage, url, self.options.request_timeout)),
        }
    }
}

/// Splits PEM bundles into single certificates.
pub(crate) fn certificates(bundles: &[Vec<u8>]) -> Result<Vec<Vec<u8>>> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let mut found = Vec::new();
    for bundle in bundles {
        let text = String::from_utf8_lossy(bundle);
        let before = found.len();
        for part in text.split(BEGIN).skip(1) {
            if let Some((body, _)) = part.split_once(END) {
                found.push(format!("{BEGIN}{body}{END}\n").into_bytes());
            }
        }
        if found.len() == before {
            return Err(Error::new(
                ErrorKind::Invalid,
                "open repository",
                "extra root certificate",
                "holds no PEM certificate",
            ));
        }
    }
    Ok(found)
}

/// Reads a small body, at most `limit` bytes.
pub(crate) async fn read_body(
    mut response: Response,
    stage: &'static str,
    limit: usize,
    within: Duration,
) -> Result<Bytes> {
    let url = response.url().clone();
    let read = async {
        let mut body = BytesMut::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() > limit => {
                    return Err(Error::new(
                        ErrorKind::Protocol,
                        stage,
                        host_port(&url),
                        format!("the answer is longer than {limit} bytes"),
                    ));
                }
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => return Ok(body.freeze()),
                Err(error) => return Err(transport_error(stage, &url, error)),
            }
        }
    };
    match tokio::time::timeout(within, read).await {
        Ok(result) => result,
        Err(_) => Err(timeout_error(stage, &url, within)),
    }
}

/// An error for a transient status that did not pass.
pub(crate) fn status_error(stage: &'static str, object: &str, status: http::StatusCode) -> Error {
    let kind = match status.as_u16() {
        429 => ErrorKind::Throttled,
        408 | 425 | 504 => ErrorKind::Timeout,
        500..=599 => ErrorKind::Server,
        404 => ErrorKind::NotFound,
        _ => ErrorKind::Protocol,
    };
    Error::new(
        kind,
        stage,
        object,
        format!("the registry answered {status}"),
    )
}

pub(crate) fn timeout_error(stage: &'static str, url: &Url, limit: Duration) -> Error {
    let detail = format!("no answer in {limit:?}");
    Error::new(ErrorKind::Timeout, stage, host_port(url), detail)
}

/// Tells apart the ways a connection fails. The URL is left out: its query may be a signature.
pub(crate) fn transport_error(stage: &'static str, url: &Url, error: reqwest::Error) -> Error {
    let place = error.url().map_or_else(|| host_port(url), host_port);
    let is_connect = error.is_connect();
    let is_timeout = error.is_timeout();
    let error = error.without_url();
    // The TLS library's error is wrapped in types that do not let it be found by type.
    let text = format!("{error:?}").to_ascii_lowercase();
    let tls = text.contains("certificate")
        || text.contains("corruptmessage")
        || text.contains("invalidcontenttype");
    let found = if is_connect && tls {
        Error::new(ErrorKind::Untrusted, stage, place, "the TLS handshake failed").with_hint(
            "give the registry's root certificate as an extra CA; if it speaks plain HTTP, allow that explicitly",
        )
    } else if is_timeout {
        Error::new(
            ErrorKind::Timeout,
            stage,
            place,
            "no connection or answer in time",
        )
    } else if is_connect {
        Error::new(ErrorKind::Unreachable, stage, place, "cannot connect")
            .with_hint("check the host and port, and whether a firewall or proxy is between")
    } else {
        Error::new(ErrorKind::Unreachable, stage, place, "the connection broke")
    };
    found.with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bundles_split_into_certificates() {
        let one = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n";
        let bundle = format!("comment\n{one}{one}").into_bytes();
        assert_eq!(
            certificates(&[bundle]).unwrap(),
            [one.as_bytes(), one.as_bytes()]
        );
        assert_eq!(
            certificates(&[b"junk".to_vec()]).unwrap_err().kind(),
            ErrorKind::Invalid
        );
    }
}
