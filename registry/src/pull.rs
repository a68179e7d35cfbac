//! Reading blobs: signed by us, resumed by range, verified at the end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;
use http::{Method, StatusCode, header};
use oci_spec::image::{Descriptor, DigestAlgorithm};
use reqwest::Response;
use sha2::{Digest as _, Sha256};

use crate::auth::Scope;
use crate::blob::{ByteStream, finish};
use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::net;
use crate::retry;
use crate::transport::{Call, Transport};

pub(crate) const STAGE: &str = "pull blob";

/// The blob reader of one repository.
#[derive(Debug)]
pub(crate) struct Puller {
    transport: Transport,
    scope: Scope,
}

/// A body on its way, and how much of it comes before what was asked for.
struct Body {
    response: Response,
    surplus: u64,
}

/// Why a request failed, and the pause the registry asked for.
type Refusal = (Error, Option<Duration>);

impl Puller {
    pub(crate) fn new(transport: Transport) -> Self {
        let scope = Scope::pull(transport.endpoint.repository());
        Self { transport, scope }
    }

    fn object(&self, descriptor: &Descriptor) -> String {
        format!("{}@{}", self.transport.endpoint.name(), descriptor.digest())
    }

    /// Opens the blob at `from` (RFC 9110 14.2). The descriptor's own `urls` are not followed:
    /// they may name any host.
    async fn open(&self, descriptor: &Descriptor, from: u64) -> Result<Body, Refusal> {
        let url = self.transport.endpoint.blob(descriptor.digest());
        let mut call = Call::new(STAGE, Method::GET, url, &self.scope);
        if from > 0
            && let Ok(range) = format!("bytes={from}-").parse()
        {
            call.headers.insert(header::RANGE, range);
        }
        let response = self.transport.once(&call).await;
        let response = response.map_err(|error| (error, None))?;
        let object = self.object(descriptor);
        let status = response.status();
        if retry::is_transient(status) {
            let asked = retry::retry_after(response.headers());
            return Err((net::status_error(STAGE, &object, status), asked));
        }
        if status.is_redirection() {
            let detail = "the registry redirects to a place that is not safe to follow";
            let error = Error::new(ErrorKind::Protocol, STAGE, object, detail).with_hint(
                "a redirect must keep to https and must not name an address of this machine",
            );
            return Err((error, None));
        }
        if !status.is_success() {
            let error = self.transport.unexpected(response, STAGE, object).await;
            return Err((error, None));
        }
        begins(response, descriptor, from)
            .map_err(|(kind, detail)| (Error::new(kind, STAGE, object, detail), None))
    }
}

/// Checks where the body of an answer begins and how long it says it is.
fn begins(
    response: Response,
    descriptor: &Descriptor,
    from: u64,
) -> Result<Body, (ErrorKind, String)> {
    let surplus = match (response.status(), first_byte(response.headers())) {
        (StatusCode::PARTIAL_CONTENT, Some(first)) if first > from => {
            let detail = format!("the registry sent bytes from {first} on, asked was {from}");
            return Err((ErrorKind::Protocol, detail));
        }
        (StatusCode::PARTIAL_CONTENT, first) => from - first.unwrap_or(from),
        _ => from,
    };
    let expected = descriptor.size() - from + surplus;
    match response.content_length() {
        Some(length) if length != expected => {
            let detail = format!("the registry has {length} bytes where {expected} are expected");
            Err((ErrorKind::SizeMismatch, detail))
        }
        _ => Ok(Body { response, surplus }),
    }
}

/// The first offset of `Content-Range: bytes FIRST-LAST/SIZE` (RFC 9110 14.4).
fn first_byte(headers: &http::HeaderMap) -> Option<u64> {
    let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    let range = text.trim().strip_prefix("bytes ")?;
    range.split_once('-')?.0.trim().parse().ok()
}

/// Drops the first `count` bytes, for a registry that does not do ranges.
fn skip(piece: &mut Bytes, count: &mut u64) {
    let drop = piece
        .len()
        .min(usize::try_from(*count).unwrap_or(usize::MAX));
    *count -= drop as u64;
    *piece = piece.split_off(drop);
}

/// Streams a blob from `from` on; a break is mended by going on from the last byte received.
/// From 0, the end of the stream is an error unless the digest is right.
pub(crate) fn stream(puller: Arc<Puller>, descriptor: Descriptor, from: u64) -> ByteStream {
    let read = Read {
        puller,
        descriptor,
        from,
        pos: from,
        hash: Sha256::new(),
        body: None,
        failures: 0,
    };
    stream::try_unfold(read, async |mut read| {
        let piece = read.next().await.map_err(BoxError::from)?;
        Ok(piece.map(|piece| (piece, read)))
    })
    .boxed()
}

struct Read {
    puller: Arc<Puller>,
    descriptor: Descriptor,
    from: u64,
    pos: u64,
    hash: Sha256,
    body: Option<Body>,
    failures: u32,
}

impl Read {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.descriptor.digest().algorithm() != &DigestAlgorithm::Sha256 {
            return Err(self.error(
                ErrorKind::Unsupported,
                "only sha256 digests can be verified",
            ));
        }
        if self.from > self.descriptor.size() {
            return Err(self.error(ErrorKind::Invalid, "the offset is beyond the end"));
        }
        while self.pos < self.descriptor.size() {
            match self.step().await {
                Ok(piece) if piece.is_empty() => {}
                Ok(piece) => return self.accept(piece).map(Some),
                Err((error, asked)) => self.recover(error, asked).await?,
            }
        }
        self.verify().map(|()| None)
    }

    async fn step(&mut self) -> Result<Bytes, Refusal> {
        if self.body.is_none() {
            self.body = Some(self.puller.open(&self.descriptor, self.pos).await?);
        }
        let Some(body) = self.body.as_mut() else {
            return Ok(Bytes::new());
        };
        let limit = self.puller.transport.net.options.stall_timeout;
        let url = body.response.url().clone();
        let error = match tokio::time::timeout(limit, body.response.chunk()).await {
            Ok(Ok(Some(mut piece))) => {
                skip(&mut piece, &mut body.surplus);
                return Ok(piece);
            }
            Ok(Ok(None)) => self.error(ErrorKind::Unreachable, "the connection ended early"),
            Ok(Err(error)) => net::transport_error(STAGE, &url, error),
            Err(_) => net::timeout_error(STAGE, &url, limit),
        };
        Err((error, None))
    }

    fn accept(&mut self, piece: Bytes) -> Result<Bytes> {
        self.pos += piece.len() as u64;
        if self.pos > self.descriptor.size() {
            return Err(self.error(
                ErrorKind::SizeMismatch,
                "the registry sent more than the blob's length",
            ));
        }
        self.failures = 0;
        self.hash.update(&piece);
        Ok(piece)
    }

    async fn recover(&mut self, error: Error, asked: Option<Duration>) -> Result<()> {
        self.failures += 1;
        self.body = None;
        let pause = retry::pause(&self.puller.transport.net.options, self.failures, asked);
        match pause.filter(|_| error.is_retryable()) {
            Some(pause) => {
                tokio::time::sleep(pause).await;
                Ok(())
            }
            None => Err(error),
        }
    }

    fn verify(&self) -> Result<()> {
        let found = finish(self.hash.clone());
        if self.from == 0 && found != *self.descriptor.digest() {
            let detail = format!("the bytes received have digest {found}");
            return Err(self.error(ErrorKind::DigestMismatch, detail));
        }
        Ok(())
    }

    fn error(&self, kind: ErrorKind, detail: impl Into<String>) -> Error {
        Error::new(kind, STAGE, self.puller.object(&self.descriptor), detail)
    }
}
