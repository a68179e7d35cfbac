//! One upload session: the streaming requests, its status, its commit, its end.

use std::pin::pin;

use http::{Method, StatusCode, header};
use oci_spec::image::Digest;
use reqwest::{Body, Response};
use tokio::sync::watch;
use url::Url;

use super::pump::Pump;
use super::{Failure, STAGE, Upload};
use crate::auth::Authorization;
use crate::blob::Event;
use crate::endpoint::with_digest;
use crate::error::{Error, ErrorKind, Result};
use crate::net;
use crate::retry;
use crate::transport::Call;

/// A resume that gained less than this counts as a failed try.
const GAIN_MIN: u64 = 1 << 20;

/// A blob the registry has accepted.
pub(crate) struct Commit {
    pub(crate) digest: Digest,
}

/// A session and the bytes that go into it.
pub(crate) struct Transfer<'a> {
    pub(crate) upload: &'a Upload<'a>,
    pub(crate) pump: &'a Pump,
    pub(crate) session: Url,
}

/// The span of one streaming request, in bytes from the start of the blob.
struct Span {
    from: u64,
    to: u64,
    /// Whether to say so in `Content-Range`. A whole blob goes without: the registries agree on
    /// that form only (distribution-spec, "streamed" upload).
    ranged: bool,
}

impl Transfer<'_> {
    /// Known digest: the whole blob in one PUT (distribution-spec, POST then PUT).
    pub(crate) async fn put_whole(&mut self, digest: &Digest) -> Result<Commit, Failure> {
        let size = self.upload.blob.size();
        let url = with_digest(&self.session, digest);
        let span = Span {
            from: 0,
            to: size,
            ranged: false,
        };
        let sent = match self.stream(Method::PUT, &url, &span).await {
            Err(Failure::Fatal(error)) => return Err(Failure::Fatal(error)),
            sent => sent,
        };
        if size == 0 || self.pump.has_reached(size) {
            let found = self.digest().await?;
            if found != *digest {
                return Err(self.upload.mismatch(digest, &found));
            }
        }
        let failure = match sent {
            Ok(response) if response.status().is_success() => {
                self.check_commit(&response, digest)?;
                return Ok(Commit {
                    digest: digest.clone(),
                });
            }
            Ok(response) => self.verdict(response).await,
            Err(failure) => failure,
        };
        self.or_committed(digest, failure).await
    }

    /// Unknown digest: one streaming PATCH, or several where the registry wants that, then the
    /// commit by the digest found on the way.
    pub(crate) async fn patch_and_commit(&mut self, chunk: Option<u64>) -> Result<Commit, Failure> {
        let size = self.upload.blob.size();
        let (mut at, mut idle) = (0, 0);
        while at < size {
            let to = chunk.map_or(size, |chunk| size.min(at.saturating_add(chunk.max(1))));
            let span = Span {
                from: at,
                to,
                ranged: chunk.is_some() || at > 0,
            };
            match self.patch(&span).await {
                Ok(()) => at = to,
                Err(Failure::Again(error, asked)) => {
                    idle += 1;
                    let Some(have) = self.resume(at, idle, &error, asked).await else {
                        return Err(Failure::Again(error, asked));
                    };
                    if have >= at + GAIN_MIN {
                        idle = 0;
                    }
                    at = have;
                }
                Err(failure) => return Err(failure),
            }
        }
        let digest = self.digest().await?;
        if let Some(expected) = self
            .upload
            .blob
            .digest()
            .filter(|expected| **expected != digest)
        {
            return Err(self.upload.mismatch(expected, &digest));
        }
        self.commit(digest).await
    }

    async fn digest(&self) -> Result<Digest, Failure> {
        if let Some(digest) = self.pump.digest().await {
            return Ok(digest);
        }
        let fallback = || {
            Error::new(
                ErrorKind::Source,
                STAGE,
                self.upload.object(),
                "the source failed",
            )
        };
        Err(Failure::Fatal(
            self.pump
                .failure(STAGE, &self.upload.object())
                .unwrap_or_else(fallback),
        ))
    }

    async fn patch(&mut self, span: &Span) -> Result<(), Failure> {
        let url = self.session.clone();
        let response = self.stream(Method::PATCH, &url, span).await?;
        let status = response.status();
        // 202 by the specification; some registries say 201 or 204.
        if status.is_success() && self.pump.has_reached(span.to) {
            if response.headers().contains_key(header::LOCATION) {
                self.session = self.upload.transport.location(&response, STAGE)?;
            }
            return Ok(());
        }
        if status.is_success() {
            let detail = "the registry answered before it had all bytes";
            let error = Error::new(ErrorKind::Protocol, STAGE, self.upload.object(), detail);
            return Err(Failure::Again(error, None));
        }
        Err(self.verdict(response).await)
    }

    /// Sends a span as one request, watching that bytes keep moving.
    async fn stream(&self, method: Method, url: &Url, span: &Span) -> Result<Response, Failure> {
        let transport = self.upload.transport;
        let mut request = transport
            .net
            .client
            .request(method, url.clone())
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_LENGTH, span.to - span.from);
        if span.ranged {
            // The bare form of the distribution specification, not that of RFC 9110.
            request = request.header(
                header::CONTENT_RANGE,
                format!("{}-{}", span.from, span.to - 1),
            );
        }
        let (request, used) = transport.sign(request, url, &self.upload.scope).await?;
        let moved = self.pump.watch();
        let body = Body::wrap_stream(self.pump.body(span.from, span.to));
        let sent = self
            .drive(request.body(body).send(), moved, url, span.to)
            .await;
        // A failed source also breaks the request; what it said is the cause.
        if let Some(error) = self.pump.failure(STAGE, &self.upload.object()) {
            return Err(Failure::Fatal(error));
        }
        let response = sent.map_err(Failure::of_one_try)?;
        if response.status() == StatusCode::UNAUTHORIZED && transport.endpoint.owns(url) {
            return Err(self.refused(&used, &response).await);
        }
        Ok(response)
    }

    async fn drive(
        &self,
        send: impl Future<Output = reqwest::Result<Response>>,
        mut moved: watch::Receiver<u64>,
        url: &Url,
        to: u64,
    ) -> Result<Response> {
        let options = &self.upload.transport.net.options;
        let mut send = pin!(send);
        loop {
            let done = *moved.borrow_and_update();
            (self.upload.progress)(Event::Uploading {
                blob: self.upload.index,
                done,
                total: self.upload.blob.size(),
            });
            let limit = if done == to {
                options.commit_timeout
            } else {
                options.stall_timeout
            };
            let step = async {
                tokio::select! {
                    answer = &mut send => Some(answer),
                    Ok(()) = moved.changed() => None,
                }
            };
            match tokio::time::timeout(limit, step).await {
                Ok(None) => {}
                Ok(Some(answer)) => {
                    return answer.map_err(|error| net::transport_error(STAGE, url, error));
                }
                Err(_) => return Err(net::timeout_error(STAGE, url, limit)),
            }
        }
    }

    async fn refused(&self, used: &Authorization, response: &Response) -> Failure {
        let auth = &self.upload.transport.auth;
        let error = auth.unauthorized(STAGE);
        if auth
            .refused(used, response.headers(), &self.upload.scope)
            .await
        {
            Failure::Again(error, None)
        } else {
            Failure::Fatal(error)
        }
    }

    /// Judges an answer that is not a success.
    async fn verdict(&self, response: Response) -> Failure {
        let status = response.status();
        let asked = retry::retry_after(response.headers());
        let redirected = status.is_redirection();
        let error = self
            .upload
            .transport
            .unexpected(response, STAGE, self.upload.object())
            .await;
        match status.as_u16() {
            413 => Failure::TooLarge(error),
            // 404 and 416: the session is gone or out of step; a new one may do better.
            404 | 416 => Failure::Again(error, asked),
            // Our own digest was checked already: the bytes changed on their way.
            400 if error.to_string().contains("DIGEST_INVALID") => Failure::Again(error, asked),
            _ if retry::is_transient(status) => Failure::Again(error, asked),
            _ if redirected => Failure::Fatal(
                error.with_hint("the registry redirects uploads; name its final host instead"),
            ),
            _ => Failure::Fatal(error),
        }
    }

    /// After a break: where the registry stands, if the session lives and may go on from there.
    async fn resume(
        &mut self,
        at: u64,
        idle: u32,
        error: &Error,
        asked: Option<std::time::Duration>,
    ) -> Option<u64> {
        let transport = self.upload.transport;
        let pause = retry::pause(&transport.net.options, idle, asked)?;
        tokio::time::sleep(pause).await;
        let call = Call::new(
            "resume upload",
            Method::GET,
            self.session.clone(),
            &self.upload.scope,
        );
        let response = transport.once(&call).await.ok()?;
        if !response.status().is_success() {
            return None;
        }
        let have = received(response.headers())?;
        // `0-0` may mean no byte or one. Less than a finished request left there is a stale
        // answer, seen from ECR.
        if have <= 1 || have < at || have > self.upload.blob.size() {
            return None;
        }
        if response.headers().contains_key(header::LOCATION) {
            self.session = transport.location(&response, STAGE).ok()?;
        }
        self.upload.report_retry(idle, error);
        Some(have)
    }

    /// Commits the session. An answer that is lost or late is settled by looking for the blob.
    async fn commit(&self, digest: Digest) -> Result<Commit, Failure> {
        let transport = self.upload.transport;
        let url = with_digest(&self.session, &digest);
        let scope = &self.upload.scope;
        let (request, used) = transport
            .sign(
                transport
                    .net
                    .client
                    .put(url.clone())
                    .header(header::CONTENT_LENGTH, 0),
                &url,
                scope,
            )
            .await?;
        let limit = transport.net.options.commit_timeout;
        let failure = match tokio::time::timeout(limit, request.send()).await {
            Ok(Ok(response)) if response.status().is_success() => {
                self.check_commit(&response, &digest)?;
                return Ok(Commit { digest });
            }
            Ok(Ok(response)) if response.status() == StatusCode::UNAUTHORIZED => {
                // The token ran out during the transfer; the bytes are there, so ask once more.
                match self.refused(&used, &response).await {
                    Failure::Again(..) => return self.commit_again(digest, url).await,
                    failure => failure,
                }
            }
            Ok(Ok(response)) => self.verdict(response).await,
            Ok(Err(error)) => Failure::of_one_try(net::transport_error(STAGE, &url, error)),
            Err(_) => Failure::of_one_try(net::timeout_error(STAGE, &url, limit)),
        };
        self.or_committed(&digest, failure).await
    }

    async fn commit_again(&self, digest: Digest, url: Url) -> Result<Commit, Failure> {
        let call = Call::new(STAGE, Method::PUT, url, &self.upload.scope);
        let failure = match self.upload.transport.once(&call).await {
            Ok(response) if response.status().is_success() => {
                self.check_commit(&response, &digest)?;
                return Ok(Commit { digest });
            }
            Ok(response) => self.verdict(response).await,
            Err(error) => Failure::of_one_try(error),
        };
        self.or_committed(&digest, failure).await
    }

    /// The commit may have landed although its answer did not.
    async fn or_committed(&self, digest: &Digest, failure: Failure) -> Result<Commit, Failure> {
        match failure {
            Failure::Again(..) if self.upload.exists(digest).await? => Ok(Commit {
                digest: digest.clone(),
            }),
            failure => Err(failure),
        }
    }

    fn check_commit(&self, response: &Response, digest: &Digest) -> Result<(), Failure> {
        let said = response
            .headers()
            .get("docker-content-digest")
            .and_then(|value| value.to_str().ok());
        match said {
            Some(said) if said != digest.as_ref() => {
                let detail = format!("the registry stored {digest} under another digest");
                let error = Error::new(ErrorKind::Protocol, STAGE, self.upload.object(), detail);
                Err(Failure::Fatal(error))
            }
            _ => Ok(()),
        }
    }

    /// Ends a session that will not be committed, so that the registry need not keep its bytes
    /// until it expires. A failure here changes nothing.
    pub(crate) async fn cancel(&self) {
        let call = Call::new(
            "cancel upload",
            Method::DELETE,
            self.session.clone(),
            &self.upload.scope,
        );
        let _ = self.upload.transport.once(&call).await;
    }
}

/// The bytes a registry has of a session, from `Range: 0-LAST` (distribution-spec, upload status).
fn received(headers: &http::HeaderMap) -> Option<u64> {
    let text = headers.get(header::RANGE)?.to_str().ok()?;
    let text = text.trim().trim_start_matches("bytes=");
    let (first, last) = text.split_once('-')?;
    let last: u64 = last.trim().parse().ok()?;
    (first.trim() == "0").then(|| last.checked_add(1)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_range_is_inclusive() {
        let have = |text: &str| {
            let mut headers = http::HeaderMap::new();
            headers.insert(header::RANGE, text.parse().unwrap());
            received(&headers)
        };
        assert_eq!(have("0-99"), Some(100));
        assert_eq!(have("bytes=0-99"), Some(100));
        assert_eq!(have("5-99"), None);
        assert_eq!(have("0--1"), None);
        assert_eq!(have(&format!("0-{}", u64::MAX)), None);
    }
}
