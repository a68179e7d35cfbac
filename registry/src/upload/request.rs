//! The requests that carry a blob's bytes: sent, watched, and judged.

use std::pin::pin;

use http::{Method, StatusCode, header};
use reqwest::{Body, Response};
use tokio::sync::watch;
use url::Url;

use super::ladder::Refusal;
use super::session::Transfer;
use super::{Failure, STAGE};
use crate::auth::Authorization;
use crate::blob::Event;
use crate::error::{ErrorKind, Result};
use crate::net;
use crate::retry;

/// Other addresses a registry may name for one request.
const REDIRECTS_MAX: usize = 3;

/// The span of one streaming request, in bytes from the start of the blob.
pub(super) struct Span {
    pub(super) from: u64,
    pub(super) to: u64,
    /// Whether to say so in `Content-Range`. A whole blob goes without: the registries agree on
    /// that form only (distribution-spec, "streamed" upload).
    pub(super) ranged: bool,
}

impl Transfer<'_> {
    /// Sends a span as one request. A redirect that keeps the method (RFC 9110 15.4.8) is
    /// followed by sending the span again: the client underneath can not replay a stream.
    pub(super) async fn stream(
        &self,
        method: Method,
        url: &Url,
        span: &Span,
    ) -> Result<Response, Failure> {
        let mut url = url.clone();
        for _ in 0..REDIRECTS_MAX {
            let response = self.stream_once(method.clone(), &url, span).await?;
            if !matches!(response.status().as_u16(), 307 | 308) {
                return Ok(response);
            }
            url = self.upload.transport.location(&response, STAGE)?;
        }
        self.stream_once(method, &url, span).await
    }

    async fn stream_once(
        &self,
        method: Method,
        url: &Url,
        span: &Span,
    ) -> Result<Response, Failure> {
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
        if let Some(failure) = self.source_failure() {
            return Err(failure);
        }
        let response = sent.map_err(Failure::of_one_try)?;
        if response.status() == StatusCode::UNAUTHORIZED && transport.endpoint.owns(url) {
            return Err(self.refused(&used, &response).await);
        }
        Ok(response)
    }

    /// What the source did wrong during the last request. One that has changed may be sent anew,
    /// whole.
    pub(super) fn source_failure(&self) -> Option<Failure> {
        let error = self.pump.failure(STAGE, &self.upload.object())?;
        Some(match error.kind() {
            ErrorKind::DigestMismatch => Failure::Differs(error),
            _ => Failure::Fatal(error),
        })
    }

    /// Waits for the answer, watching that bytes keep moving.
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

    pub(super) async fn refused(&self, used: &Authorization, response: &Response) -> Failure {
        let auth = &self.upload.transport.auth;
        let error = auth.unauthorized(STAGE);
        let headers = response.headers();
        if auth.refused(used, headers, &self.upload.scope).await {
            Failure::Again(error, None)
        } else {
            Failure::Fatal(error)
        }
    }

    /// Judges an answer that is not a success, to a request for the bytes from `from` on.
    pub(super) async fn verdict(&self, response: Response, method: &Method, from: u64) -> Failure {
        let status = response.status();
        let asked = retry::retry_after(response.headers());
        let transport = self.upload.transport;
        let error = transport
            .unexpected(response, STAGE, self.upload.object())
            .await;
        let patch = *method == Method::PATCH;
        match status.as_u16() {
            413 => Failure::Refused(error, Refusal::TooLarge),
            405 | 501 if patch => Failure::Refused(error, Refusal::NoPatch),
            400 if error.to_string().contains("DIGEST_INVALID") => {
                let detail = "the registry found other bytes than were read here";
                let error = self
                    .upload
                    .error(ErrorKind::DigestMismatch, detail)
                    .with_hint("the source may have changed between two tries; push again")
                    .with_source(error);
                Failure::Differs(error)
            }
            400 if patch && from == 0 => Failure::Refused(error, Refusal::BadPatch),
            416 if patch && from == 0 => {
                Failure::Refused(of_protocol(self, error), Refusal::OutOfRange)
            }
            400 | 416 if patch => Failure::Again(error, asked),
            // Out of step or gone; a new session may do better.
            404 | 416 => Failure::Gone(error),
            _ if retry::is_transient(status) => Failure::Again(error, asked),
            _ if status.is_redirection() => Failure::Fatal(
                error.with_hint("the registry redirects uploads; name its final host instead"),
            ),
            _ => Failure::Fatal(error),
        }
    }
}

/// What the registry said, as a thing that may pass with another session.
fn of_protocol(transfer: &Transfer<'_>, said: crate::Error) -> crate::Error {
    let detail = "the registry says that the first byte is out of range";
    transfer
        .upload
        .error(ErrorKind::Protocol, detail)
        .with_source(said)
}
