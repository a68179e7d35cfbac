//! Compare-and-swap of small documents, whatever the store offers for it.

use std::fs::File;
use std::path::PathBuf;

use bytes::Bytes;
use object_store::{ObjectStoreExt, PutMode, PutOptions, UpdateVersion};

use crate::error::{Error, ErrorKind, Result};
use crate::store::{Fetched, ModelStore};

/// What a document was when it was looked at; nothing when there was none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    bytes: Option<Bytes>,
    etag: Option<String>,
}

impl Seen {
    /// The document, if there was one.
    pub(crate) fn bytes(&self) -> Option<&[u8]> {
        self.bytes.as_deref()
    }
}

/// How a swap ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Swapped {
    /// The document was what was seen, and is now what was written.
    Won,
    /// It was not, and was left alone; or it was, and only the answer to our own write was lost.
    Lost,
}

/// An advisory lock on a file, given back when dropped or when the process dies.
struct FileLock {
    _file: File,
}

impl ModelStore {
    /// Reads a document, and remembers what was seen.
    pub(crate) async fn see(&self, stage: &'static str, path: &str) -> Result<Seen> {
        Ok(match self.fetch(stage, path, None).await? {
            Fetched::Found { bytes, etag } => Seen {
                bytes: Some(bytes),
                etag,
            },
            Fetched::Missing | Fetched::NotModified => Seen::default(),
        })
    }

    /// Writes a document, if it still is what was seen.
    ///
    /// Object stores compare by themselves (`If-None-Match`, `If-Match`). A directory cannot: the
    /// comparison and the atomic rename happen under an advisory lock on the file `.lock`.
    pub(crate) async fn swap(
        &self,
        stage: &'static str,
        path: &str,
        bytes: Vec<u8>,
        seen: &Seen,
    ) -> Result<Swapped> {
        let key = self.key(path)?;
        let written = if let Some(dir) = self.url().directory() {
            let _lock = lock(stage, dir).await?;
            if self.see(stage, path).await?.bytes != seen.bytes {
                return Ok(Swapped::Lost);
            }
            self.objects().put(&key, bytes.into()).await
        } else {
            let mode = match (&seen.bytes, &seen.etag) {
                (None, _) => PutMode::Create,
                (Some(_), etag) => PutMode::Update(UpdateVersion {
                    e_tag: etag.clone(),
                    version: None,
                }),
            };
            self.objects()
                .put_opts(&key, bytes.into(), PutOptions::from(mode))
                .await
        };
        match written {
            Ok(_) => Ok(Swapped::Won),
            Err(
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. },
            ) => Ok(Swapped::Lost),
            // Removed since it was seen; with nothing seen, it is the container that is missing.
            Err(object_store::Error::NotFound { .. }) if seen.bytes.is_some() => Ok(Swapped::Lost),
            Err(error) => Err(self.error(stage, path, &error)),
        }
    }

    /// Writes a document that nobody has written before; tells whether it was us.
    pub(crate) async fn create(
        &self,
        stage: &'static str,
        path: &str,
        bytes: Vec<u8>,
    ) -> Result<bool> {
        let create = PutOptions::from(PutMode::Create);
        let key = self.key(path)?;
        match self.objects().put_opts(&key, bytes.into(), create).await {
            Ok(_) => Ok(true),
            Err(
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. },
            ) => Ok(false),
            Err(error) => Err(self.error(stage, path, &error)),
        }
    }

    /// Removes an object; one that is not there is removed.
    pub(crate) async fn remove(&self, stage: &'static str, path: &str) -> Result<()> {
        match self.objects().delete(&self.key(path)?).await {
            Ok(()) => Ok(()),
            Err(error) => self.missing_or(stage, path, &error),
        }
    }
}

/// Takes the lock of a model's directory, waiting for whoever has it.
async fn lock(stage: &'static str, dir: PathBuf) -> Result<FileLock> {
    let object = dir.display().to_string();
    let failed = |error: std::io::Error| {
        let kind = match error.kind() {
            std::io::ErrorKind::PermissionDenied => ErrorKind::Forbidden,
            _ => ErrorKind::Io,
        };
        Error::new(kind, stage, object.clone(), "the lock file cannot be taken").with_source(error)
    };
    let taken = tokio::task::spawn_blocking(move || {
        std::fs::create_dir_all(&dir)?;
        let file = File::options()
            .create(true)
            .append(true)
            .open(dir.join(".lock"))?;
        file.lock()?;
        Ok(FileLock { _file: file })
    });
    taken
        .await
        .map_err(|error| failed(error.into()))?
        .map_err(failed)
}
