//! Uploading blobs: look, mount, stream, commit; replayed, resumed or sent another way when it
//! breaks.
//!
//! `image` pushes many blobs, `course` brings one there over all its tries, `open` begins a
//! session, `session` sends its bytes by way of `request`, `commit` ends it. `pump` and `reader`
//! read and hash the source; `ladder`, `tries` and `journal` remember.

mod commit;
mod course;
mod frontier;
mod image;
mod journal;
mod ladder;
mod open;
mod pump;
mod reader;
mod request;
mod session;
mod shared;
mod tries;

use std::time::Duration;

use http::{Method, StatusCode};
use oci_spec::image::{Descriptor, Digest};
use tokio::sync::watch;

use ladder::Refusal;

use crate::auth::Scope;
use crate::blob::{Blob, Event, Progress};
use crate::error::{Error, ErrorKind, Result};
use crate::transport::{Call, Transport};

pub(crate) use image::push_all;
pub(crate) use shared::Shared;

pub(crate) const STAGE: &str = "push blob";

/// Why a try ended.
pub(crate) enum Failure {
    /// Trying again would end the same way.
    Fatal(Error),
    /// It may pass; the registry may have asked for a pause.
    Again(Error, Option<Duration>),
    /// The session is gone; a new one may do better.
    Gone(Error),
    /// The registry found other bytes than were hashed here.
    Differs(Error),
    /// The registry does not take the bytes in this way.
    Refused(Error, Refusal),
}

impl Failure {
    /// The failure of a request that was sent once only.
    pub(crate) fn of_one_try(error: Error) -> Self {
        if error.is_retryable() {
            Self::Again(error, None)
        } else {
            Self::Fatal(error)
        }
    }
}

/// What comes as an error from below has been tried as often as it is to be.
impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Fatal(error)
    }
}

/// Pushes `blob`, unless the registry has it.
pub(crate) async fn push(
    transport: &Transport,
    blob: &Blob,
    index: usize,
    progress: Progress<'_>,
) -> Result<Descriptor> {
    let (_running, stop) = watch::channel(false);
    let upload = Upload::new(transport, blob, index, progress, stop);
    upload.check_size()?;
    if upload.is_there().await? {
        return upload.descriptor();
    }
    upload.send().await
}

/// Whether the registry has the blob `digest`.
pub(crate) async fn exists(transport: &Transport, digest: &Digest, scope: &Scope) -> Result<bool> {
    let call = Call::new(
        "look up blob",
        Method::HEAD,
        transport.endpoint.blob(digest),
        scope,
    );
    let response = transport.send(&call).await?;
    match response.status() {
        StatusCode::NOT_FOUND => Ok(false),
        status if status.is_success() => Ok(true),
        _ => {
            let object = format!("{}@{digest}", transport.endpoint.name());
            Err(transport.unexpected(response, "look up blob", object).await)
        }
    }
}

/// One blob on its way to one repository.
pub(crate) struct Upload<'a> {
    transport: &'a Transport,
    blob: &'a Blob,
    index: usize,
    progress: Progress<'a>,
    scope: Scope,
    /// Turns true when another blob of the image has failed.
    stop: watch::Receiver<bool>,
}

impl<'a> Upload<'a> {
    fn new(
        transport: &'a Transport,
        blob: &'a Blob,
        index: usize,
        progress: Progress<'a>,
        stop: watch::Receiver<bool>,
    ) -> Self {
        Self {
            transport,
            blob,
            index,
            progress,
            scope: Scope::push(transport.endpoint.repository()),
            stop,
        }
    }

    /// Refuses a blob that the registry will not take, before a byte of it is read.
    fn check_size(&self) -> Result<()> {
        let profile = &self.transport.uploads.profile;
        let (size, max) = (self.blob.size(), profile.blob_max.unwrap_or(u64::MAX));
        if size <= max {
            return Ok(());
        }
        let detail = format!(
            "its {size} bytes are more than the {max} that this registry ({}) takes in one blob",
            profile.name
        );
        Err(
            Error::new(ErrorKind::Unsupported, STAGE, self.object(), detail)
                .with_hint("split the model into several files, each of which becomes a layer"),
        )
    }

    async fn exists(&self, digest: &Digest) -> Result<bool> {
        exists(self.transport, digest, &self.scope).await
    }

    /// Whether the registry has the blob, as far as that can be asked; if so it is reported.
    async fn is_there(&self) -> Result<bool> {
        let Some(digest) = self.blob.digest() else {
            return Ok(false);
        };
        let there = self.exists(digest).await?;
        if there {
            report_exists(self.blob, digest, self.index, self.progress);
        }
        Ok(there)
    }

    /// Sends the blob when there is room for it.
    async fn send(&self) -> Result<Descriptor> {
        let _room = self.transport.uploads.admit(self.blob).await;
        let digest = course::run(self).await?;
        Ok(self.blob.descriptor(digest))
    }

    /// The descriptor of a blob whose digest is known.
    fn descriptor(&self) -> Result<Descriptor> {
        let digest = self.blob.digest().cloned();
        let missing = || Error::new(ErrorKind::Invalid, STAGE, self.object(), "has no digest");
        Ok(self.blob.descriptor(digest.ok_or_else(missing)?))
    }

    /// What errors name: the blob's digest, or its place when that is not known yet.
    fn object(&self) -> String {
        let name = self.transport.endpoint.name();
        match self.blob.digest() {
            Some(digest) => format!("{name}@{digest}"),
            None => format!("{name} blob {}", self.index),
        }
    }

    fn error(&self, kind: ErrorKind, detail: impl Into<String>) -> Error {
        Error::new(kind, STAGE, self.object(), detail)
    }

    fn report_retry(&self, attempt: u32, error: &Error) {
        (self.progress)(Event::Retrying {
            blob: self.index,
            attempt,
            reason: error.to_string(),
        });
    }

    /// Ends when this upload is to stop.
    async fn stopped(&self) {
        let mut stop = self.stop.clone();
        if stop.wait_for(|stop| *stop).await.is_err() {
            // Nobody is left who could stop it.
            std::future::pending::<()>().await;
        }
    }

    fn stop_error(&self) -> Error {
        self.error(ErrorKind::Unreachable, "stopped, since another blob failed")
    }
}

/// Reports a blob that need not be sent.
pub(crate) fn report_exists(blob: &Blob, digest: &Digest, index: usize, progress: Progress<'_>) {
    progress(Event::Exists {
        blob: index,
        digest: digest.clone(),
        size: blob.size(),
    });
}
