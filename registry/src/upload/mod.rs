//! Uploading one blob: look, mount, stream, commit; replayed or resumed when it breaks.

mod pump;
mod session;

use std::time::Duration;

use http::{Method, StatusCode};
use oci_spec::image::{Descriptor, Digest};
use url::Url;

use pump::Pump;
use session::{Commit, Transfer};

use crate::auth::Scope;
use crate::blob::{Blob, Event, Progress};
use crate::error::{Error, ErrorKind, Result};
use crate::retry;
use crate::transport::{Call, Transport};

pub(crate) const STAGE: &str = "push blob";
/// Chunks for a registry that refused a whole blob in one request.
const CHUNK_FALLBACK: u64 = 4 << 20;

/// Why a try ended.
pub(crate) enum Failure {
    /// Trying again would end the same way.
    Fatal(Error),
    /// It may pass; the registry may have asked for a pause.
    Again(Error, Option<Duration>),
    /// The registry does not take so much in one request.
    TooLarge(Error),
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
    let scope = Scope::push(transport.endpoint.repository());
    let upload = Upload {
        transport,
        blob,
        index,
        progress,
        scope,
    };
    if let Some(digest) = blob.digest()
        && upload.exists(digest).await?
    {
        progress(Event::Exists {
            blob: index,
            digest: digest.clone(),
            size: blob.size(),
        });
        return Ok(blob.descriptor(digest.clone()));
    }
    upload.run().await.map(|digest| blob.descriptor(digest))
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
}

enum Begun {
    Mounted(Digest, String),
    Session(Url),
}

impl Upload<'_> {
    async fn exists(&self, digest: &Digest) -> Result<bool> {
        exists(self.transport, digest, &self.scope).await
    }

    /// What errors name: the blob's digest, or its place when that is not known yet.
    fn object(&self) -> String {
        let name = self.transport.endpoint.name();
        match self.blob.digest() {
            Some(digest) => format!("{name}@{digest}"),
            None => format!("{name} blob {}", self.index),
        }
    }

    async fn run(&self) -> Result<Digest> {
        let pump = Pump::new(self.blob);
        let mut chunk = self.transport.net.options.chunk_size;
        let mut attempt = 1;
        loop {
            let (error, asked) = match self.attempt(&pump, chunk).await {
                Ok(digest) => return Ok(digest),
                Err(Failure::Fatal(error)) => return Err(error),
                Err(Failure::TooLarge(error))
                    if chunk.is_some_and(|size| size <= CHUNK_FALLBACK) =>
                {
                    return Err(error);
                }
                Err(Failure::TooLarge(error)) => {
                    chunk = Some(CHUNK_FALLBACK);
                    (error, None)
                }
                Err(Failure::Again(error, asked)) => (error, asked),
            };
            let Some(pause) = retry::pause(&self.transport.net.options, attempt, asked) else {
                return Err(error);
            };
            self.report_retry(attempt, &error);
            tokio::time::sleep(pause).await;
            attempt += 1;
        }
    }

    fn report_retry(&self, attempt: u32, error: &Error) {
        (self.progress)(Event::Retrying {
            blob: self.index,
            attempt,
            reason: error.to_string(),
        });
    }

    /// One upload session, from its opening to its commit.
    async fn attempt(&self, pump: &Pump, chunk: Option<u64>) -> Result<Digest, Failure> {
        let session = match self.begin().await? {
            Begun::Session(session) => session,
            Begun::Mounted(digest, from) => {
                let size = self.blob.size();
                (self.progress)(Event::Mounted {
                    blob: self.index,
                    digest: digest.clone(),
                    size,
                    from,
                });
                return Ok(digest);
            }
        };
        let mut transfer = Transfer {
            upload: self,
            pump,
            session,
        };
        let result = match (self.blob.digest(), chunk) {
            (Some(digest), None) => transfer.put_whole(digest).await,
            (_, chunk) => transfer.patch_and_commit(chunk).await,
        };
        match result {
            Ok(Commit { digest }) => {
                let (size, sent) = (self.blob.size(), pump.handed());
                (self.progress)(Event::Uploaded {
                    blob: self.index,
                    digest: digest.clone(),
                    size,
                    sent,
                });
                Ok(digest)
            }
            Err(failure) => {
                transfer.cancel().await;
                Err(failure)
            }
        }
    }

    /// Opens a session, by way of a mount where one is possible. A registry that does not mount
    /// answers with a session instead (distribution-spec, mounting a blob), which is then used.
    async fn begin(&self) -> Result<Begun> {
        if let (Some(digest), Some(from)) = (self.blob.digest(), self.blob.mount_from()) {
            match self.mount(digest, from).await {
                Ok(begun) => return Ok(begun),
                // Registries refuse mounts in many ways; none of them is about the upload itself.
                Err(error) if error.is_retryable() => return Err(error),
                Err(_) => {}
            }
        }
        let call = Call::new(
            STAGE,
            Method::POST,
            self.transport.endpoint.uploads(),
            &self.scope,
        );
        let response = self.transport.send(&call).await?;
        if response.status() != StatusCode::ACCEPTED {
            return Err(self
                .transport
                .unexpected(response, STAGE, self.object())
                .await);
        }
        self.transport
            .location(&response, STAGE)
            .map(Begun::Session)
    }

    async fn mount(&self, digest: &Digest, from: &str) -> Result<Begun> {
        let scope = self.scope.clone().and_pull(from);
        let mut url = self.transport.endpoint.uploads();
        url.query_pairs_mut()
            .append_pair("mount", digest.as_ref())
            .append_pair("from", from);
        let response = self
            .transport
            .send(&Call::new(STAGE, Method::POST, url, &scope))
            .await?;
        match response.status() {
            StatusCode::CREATED => Ok(Begun::Mounted(digest.clone(), from.to_owned())),
            StatusCode::ACCEPTED => self
                .transport
                .location(&response, STAGE)
                .map(Begun::Session),
            _ => Err(self
                .transport
                .unexpected(response, STAGE, self.object())
                .await),
        }
    }

    /// The error for bytes that are not those of the declared digest.
    fn mismatch(&self, expected: &Digest, found: &Digest) -> Failure {
        let detail = format!("the bytes have digest {found}, expected {expected}");
        Failure::Fatal(
            Error::new(ErrorKind::DigestMismatch, STAGE, self.object(), detail).with_hint(
                "the source is not what it was when its digest was taken; measure it again",
            ),
        )
    }
}
