//! One object that is read: how it is pinned, asked for, and how its failures are called.

use std::io;
use std::ops::Range;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use object_store::{GetOptions, GetRange, GetResult};
use tokio::sync::SetOnce;

use crate::cause::{chain, find};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{ModelFile, ModelVersion, Trust};
use crate::read::STAGE;
use crate::store::ModelStore;
use crate::store_url::Scheme;
use crate::transport::{OtherRange, Stated};

/// The longest wait for the head of an answer.
const ANSWER: Duration = Duration::from_secs(30);

/// An object, and which bytes of it are meant.
#[derive(Debug)]
pub(super) struct Source {
    store: ModelStore,
    /// The file's name in the version, for progress and errors.
    pub(super) name: Arc<str>,
    /// The object's path below the model's folder.
    path: String,
    pub(super) size: u64,
    version_id: Option<String>,
    /// The SHA-256 that the lock has, and who says so.
    pub(super) known: Option<(String, Trust)>,
    /// The tag that all parts must have: the lock's, else that of the first answer. A store
    /// without tags has none.
    pub(super) pin: SetOnce<Option<String>>,
}

/// Why a request failed.
pub(super) struct Failure {
    pub(super) error: Error,
    /// The store refused it because there were too many.
    pub(super) throttled: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self {
            error,
            throttled: false,
        }
    }
}

impl Source {
    pub(super) fn new(store: &ModelStore, model: &ModelVersion, file: &ModelFile) -> Self {
        let known = file.sha256.clone();
        Self {
            store: store.clone(),
            name: file.path.as_str().into(),
            path: model.object(file),
            size: file.size,
            version_id: file.version_id.clone(),
            // A lock that does not say who states the digest is taken at its least.
            known: known.map(|sha256| (sha256, file.trust.unwrap_or(Trust::Observed))),
            pin: pin(file.etag.clone()),
        }
    }

    /// The object at `path`, which is expected to have `size` bytes and this SHA-256.
    pub(super) fn expected(
        store: &ModelStore,
        path: &str,
        (size, etag): (u64, Option<String>),
        sha256: Option<String>,
    ) -> Self {
        Self {
            store: store.clone(),
            name: path.into(),
            path: path.to_owned(),
            size,
            version_id: None,
            known: sha256.map(|sha256| (sha256, Trust::Manifest)),
            pin: pin(etag),
        }
    }

    /// Asks for a range of the object; for an empty object, which has none, for all of it.
    pub(super) async fn open(&self, range: Range<u64>) -> Result<GetResult, Failure> {
        let range = (self.size > 0).then_some(GetRange::Bounded(range));
        self.get(range, false).await
    }

    /// What the store says about the whole object, asked for by itself.
    pub(super) async fn ask(&self) -> Result<Option<Stated>, Failure> {
        let found = self.get(None, true).await?;
        Ok(self.stated(&found, true))
    }

    /// What an answer says about the whole object.
    pub(super) fn stated(&self, found: &GetResult, whole: bool) -> Option<Stated> {
        let headers = found.extensions.get::<http::HeaderMap>()?;
        Stated::find(headers, self.store.url().scheme(), whole)
    }

    /// Whether the store can say more about an object than the answer to a range of it does.
    /// S3 leaves the checksums of the whole out of those; Azure has one in every answer.
    pub(super) fn has_more_to_say(&self) -> bool {
        self.store.url().scheme() == Scheme::S3 && self.store.is_own()
    }

    async fn get(&self, range: Option<GetRange>, head: bool) -> Result<GetResult, Failure> {
        let pin = self.pin.get().cloned().flatten();
        let options = GetOptions {
            range,
            head,
            if_match: pin.clone(),
            version: self.version_id.clone(),
            ..GetOptions::default()
        };
        let key = self.store.key(&self.path)?;
        let asked = self.store.parts().get_opts(&key, options);
        let found = tokio::time::timeout(ANSWER, asked).await.map_err(|_| {
            let detail = format!("no answer within {} s", ANSWER.as_secs());
            Failure::from(self.error(ErrorKind::Timeout, detail))
        })?;
        let found = found.map_err(|error| self.failure(&error))?;
        let other_tag = pin
            .zip(found.meta.e_tag.as_ref())
            .is_some_and(|(pin, got)| bare(&pin) != bare(got));
        let other_version = self
            .version_id
            .as_ref()
            .zip(found.meta.version.as_ref())
            .is_some_and(|(pin, got)| pin != got);
        // Stores that do not compare tags themselves are compared here.
        if found.meta.size != self.size || other_tag || other_version {
            return Err(self.changed().into());
        }
        // Whoever is first sets it.
        let _ = self.pin.set(found.meta.e_tag.clone());
        Ok(found)
    }

    /// Our error for one of the storage library.
    pub(super) fn failure(&self, error: &object_store::Error) -> Failure {
        let text = chain(error);
        let ours = self.store.error(STAGE, &self.path, error);
        let other = find::<OtherRange>(error);
        if other == Some(&OtherRange::NotPartial) || text.contains("non-partial response") {
            let detail = "the store answers ranged requests with something else";
            let error = self.error(ErrorKind::Unsupported, detail);
            return error.with_source(ours).into();
        }
        // A pinned object that is gone, or whose range is, has changed.
        let gone = matches!(
            error,
            object_store::Error::Precondition { .. } | object_store::Error::NotFound { .. }
        );
        if gone || other.is_some() || text.contains("status code: 416") {
            return self.changed().with_source(ours).into();
        }
        let throttled = ["status code: 429", "status code: 503"]
            .iter()
            .any(|mark| text.contains(mark));
        Failure {
            error: ours,
            throttled,
        }
    }

    /// Our error for a failure to read the file that an object of a directory is.
    pub(super) fn file_failure(&self, path: &FilePath, error: io::Error) -> Failure {
        // Shorter than it was a moment ago: another file, as far as the lock goes.
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return self.changed().with_source(error).into();
        }
        let detail = format!("{} cannot be read", path.display());
        self.error(ErrorKind::Io, detail).with_source(error).into()
    }

    pub(super) fn changed(&self) -> Error {
        let detail = "changed during read: the object is no longer the one that was resolved";
        self.error(ErrorKind::Changed, detail)
            .with_hint("resolve the model again")
    }

    pub(super) fn error(&self, kind: ErrorKind, detail: impl Into<String>) -> Error {
        Error::new(kind, STAGE, self.store.name_of(&self.path), detail)
    }
}

fn pin(etag: Option<String>) -> SetOnce<Option<String>> {
    let pin = SetOnce::new();
    if etag.is_some() {
        // It is new: nobody has set it.
        let _ = pin.set(etag);
    }
    pin
}

/// A tag without its quotes, which listings of Azure leave out.
fn bare(tag: &str) -> &str {
    tag.trim_matches('"')
}
