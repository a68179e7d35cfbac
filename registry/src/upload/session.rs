//! One upload session: its bytes, its status, its end.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode, header};
use oci_spec::image::Digest;
use url::Url;

use super::journal::Journal;
use super::ladder::Rung;
use super::pump::Pump;
use super::request::Span;
use super::tries::Tries;
use super::{Failure, STAGE, Upload};
use crate::auth::Scope;
use crate::blob::Event;
use crate::endpoint::with_digest;
use crate::error::{Error, ErrorKind, Result};
use crate::profile::Resume;
use crate::transport::Call;

/// A session and the bytes that go into it.
pub(super) struct Transfer<'a> {
    pub(super) upload: &'a Upload<'a>,
    pub(super) pump: &'a Pump,
    pub(super) session: Url,
    pub(super) journal: Option<&'a Arc<Journal>>,
}

impl Transfer<'_> {
    /// Sends what lies from `at` on, and commits it.
    pub(super) async fn run(
        &mut self,
        rung: Rung,
        at: u64,
        tries: &mut Tries<'_>,
    ) -> Result<Digest, Failure> {
        match rung {
            Rung::Whole => self.put_whole().await,
            Rung::Stream => self.patch_and_commit(at, None, tries).await,
            Rung::Chunks(size) => self.patch_and_commit(at, Some(size), tries).await,
        }
    }

    /// The whole blob in one PUT (distribution-spec, POST then PUT). A source of unknown digest
    /// is read once before.
    async fn put_whole(&mut self) -> Result<Digest, Failure> {
        let (upload, size) = (self.upload, self.upload.blob.size());
        let digest = match upload.blob.digest() {
            Some(digest) if size > 0 => digest.clone(),
            // Nothing to send is nothing to check on the way.
            _ => self.digest().await?,
        };
        let url = with_digest(&self.session, &digest);
        let span = Span {
            from: 0,
            to: size,
            ranged: false,
        };
        let sent = match self.stream(Method::PUT, &url, &span).await {
            Err(Failure::Fatal(error)) => return Err(Failure::Fatal(error)),
            sent => sent,
        };
        if size > 0 && self.pump.has_reached(size) {
            // Other bytes than declared are an error even where the registry takes them.
            self.digest().await?;
        }
        let failure = match sent {
            Ok(response) if response.status().is_success() => {
                self.check_commit(&response, &digest)?;
                return Ok(digest);
            }
            Ok(response) => self.verdict(response, &Method::PUT, 0).await,
            Err(failure) => failure,
        };
        self.or_committed(digest, failure).await
    }

    /// One streaming PATCH, or several where the registry wants that, then the commit by the
    /// digest found on the way.
    async fn patch_and_commit(
        &mut self,
        mut at: u64,
        chunk: Option<u64>,
        tries: &mut Tries<'_>,
    ) -> Result<Digest, Failure> {
        let size = self.upload.blob.size();
        while at < size {
            let to = chunk.map_or(size, |chunk| size.min(at.saturating_add(chunk.max(1))));
            let span = Span {
                from: at,
                to,
                ranged: chunk.is_some() || at > 0,
            };
            match self.patch(&span).await {
                Ok(()) => {
                    tries.gained(to - at);
                    at = to;
                }
                Err(Failure::Again(error, asked)) => {
                    at = match self.resume(at, &error, asked, tries).await? {
                        Some(have) => have,
                        None => return Err(Failure::Again(error, asked)),
                    };
                }
                Err(failure) => return Err(failure),
            }
        }
        let digest = self.digest().await?;
        self.commit(digest, tries).await
    }

    /// The digest of the source, which must be the declared one.
    async fn digest(&self) -> Result<Digest, Failure> {
        let upload = self.upload;
        let Some(found) = self.pump.digest().await else {
            let fallback = || Failure::Fatal(upload.error(ErrorKind::Source, "the source failed"));
            return Err(self.source_failure().unwrap_or_else(fallback));
        };
        match upload.blob.digest() {
            Some(expected) if *expected != found => {
                let detail = format!("the bytes have digest {found}, expected {expected}");
                let error = upload.error(ErrorKind::DigestMismatch, detail).with_hint(
                    "the source is not what it was when its digest was taken; measure it again",
                );
                // What was hashed by an earlier process is not to be blamed on this one.
                Err(if self.pump.is_inherited() {
                    Failure::Differs(error)
                } else {
                    Failure::Fatal(error)
                })
            }
            _ => Ok(found),
        }
    }

    async fn patch(&mut self, span: &Span) -> Result<(), Failure> {
        let url = self.session.clone();
        let response = self.stream(Method::PATCH, &url, span).await?;
        let status = response.status();
        // 202 by the specification; some registries say 201 or 204.
        if status.is_success() && self.pump.has_reached(span.to) {
            if response.headers().contains_key(header::LOCATION) {
                let moved = self.upload.transport.location(&response, STAGE)?;
                self.move_to(moved).await;
            }
            return Ok(());
        }
        if status.is_success() {
            let detail = "the registry answered before it had all bytes";
            let error = self.upload.error(ErrorKind::Protocol, detail);
            return Err(Failure::Again(error, None));
        }
        Err(self.verdict(response, &Method::PATCH, span.from).await)
    }

    async fn move_to(&mut self, session: Url) {
        if let Some(journal) = self.journal
            && session != self.session
        {
            journal.moved(&session).await;
        }
        self.session = session;
    }

    /// After a break: where the registry stands, if the session lives and may go on from there.
    async fn resume(
        &mut self,
        at: u64,
        error: &Error,
        asked: Option<Duration>,
        tries: &mut Tries<'_>,
    ) -> Result<Option<u64>> {
        let Some(pause) = tries.pause(asked) else {
            return Ok(None);
        };
        let have = match self.upload.transport.uploads.profile.resume {
            Resume::Never => return Ok(None),
            Resume::Acknowledged => {
                tokio::time::sleep(pause).await;
                at
            }
            Resume::Status => {
                tokio::time::sleep(pause).await;
                let Some((session, have)) = status(self.upload, &self.session).await? else {
                    return Ok(None);
                };
                self.move_to(session).await;
                have
            }
        };
        // `0-0` may mean no byte or one. Less than a finished request left there is a stale
        // answer, seen from ECR.
        if have <= 1 || have < at || have > self.upload.blob.size() {
            return Ok(None);
        }
        self.upload.report_retry(tries.number(), error);
        report_resumed(self.upload, have);
        tries.fail();
        tries.gained(have - at);
        Ok(Some(have))
    }

    /// Ends a session that will not be committed, so that the registry need not keep its bytes
    /// until it expires. A failure here changes nothing.
    pub(super) async fn cancel(&self) {
        // After a break some registries know the session by a newer address only.
        if self.end(&self.session).await == Some(StatusCode::RANGE_NOT_SATISFIABLE)
            && let Ok(Some((session, _))) = status(self.upload, &self.session).await
        {
            self.end(&session).await;
        }
    }

    async fn end(&self, session: &Url) -> Option<StatusCode> {
        let transport = self.upload.transport;
        // Registries that give out tokens count this as a deletion.
        let scope = Scope::delete(transport.endpoint.repository());
        let call = Call::new("cancel upload", Method::DELETE, session.clone(), &scope);
        let response = transport.once(&call).await.ok()?;
        Some(response.status())
    }
}

/// Asks the registry where a session stands: its address from now on, and the bytes it has. None
/// when it does not say. A registry that can not be reached is an error: the session may live on,
/// and a new one would be no nearer.
pub(super) async fn status(upload: &Upload<'_>, session: &Url) -> Result<Option<(Url, u64)>> {
    let (transport, url) = (upload.transport, session.clone());
    let call = Call::new("resume upload", Method::GET, url, &upload.scope);
    let response = match transport.send(&call).await {
        Ok(response) if response.status().is_success() => response,
        Err(error) if matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Timeout) => {
            return Err(error);
        }
        _ => return Ok(None),
    };
    let located = response.headers().contains_key(header::LOCATION);
    let session = if located {
        transport.location(&response, STAGE).ok()
    } else {
        Some(session.clone())
    };
    Ok(session.zip(received(response.headers())))
}

pub(super) fn report_resumed(upload: &Upload<'_>, offset: u64) {
    (upload.progress)(Event::Resumed {
        blob: upload.index,
        offset,
    });
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
