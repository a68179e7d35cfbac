//! Moves pointers by compare-and-swap: `latest.json`, aliases, and the claim on a version.

use std::fs::File;
use std::path::PathBuf;

use bytes::Bytes;
use object_store::{ObjectStoreExt, PutMode, PutOptions, UpdateVersion};

use crate::error::{Error, ErrorKind, Result};
use crate::manifest::Pointer;
use crate::resolve::{LATEST, alias_path};
use crate::selector::Selector;
use crate::store::{Fetched, ModelStore};

const STAGE: &str = "move pointer";

/// What a pointer document was when it was looked at; nothing when there was none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    bytes: Option<Bytes>,
    etag: Option<String>,
}

/// An advisory lock on a file, given back when dropped or when the process dies.
struct FileLock {
    _file: File,
}

impl ModelStore {
    /// Makes `alias` name `version`, which must be complete. Read it with [`Selector::Alias`].
    ///
    /// # Errors
    /// `Invalid` for a bad name, `NotFound` for a version that is not there, `Conflict` when
    /// someone else moved the alias at the same moment, and those of the store.
    pub async fn set_alias(&self, alias: &str, version: &str) -> Result<()> {
        Selector::Alias(alias.to_owned()).check()?;
        self.set_pointer(&alias_path(alias), version).await
    }

    /// Makes `latest` name `version`, which must be complete: a promotion, or a way back.
    ///
    /// # Errors
    /// As [`set_alias`](Self::set_alias).
    pub async fn set_latest(&self, version: &str) -> Result<()> {
        self.set_pointer(LATEST, version).await
    }

    async fn set_pointer(&self, path: &str, version: &str) -> Result<()> {
        let model = self.resolve(&Selector::Version(version.to_owned())).await?;
        let (seen, _) = self.look(path).await?;
        self.swap(
            path,
            &Pointer::new(model.version(), model.tree_digest()),
            &seen,
        )
        .await
    }

    /// Reads a pointer, and remembers what was seen.
    pub(crate) async fn look(&self, path: &str) -> Result<(Seen, Option<Pointer>)> {
        match self.fetch(STAGE, path, None).await? {
            Fetched::Found { bytes, etag } => {
                let pointer = self.parse_pointer(STAGE, path, &bytes)?;
                Ok((
                    Seen {
                        bytes: Some(bytes),
                        etag,
                    },
                    Some(pointer),
                ))
            }
            Fetched::Missing | Fetched::NotModified => Ok((Seen::default(), None)),
        }
    }

    /// Writes `pointer`, if the document still is what was seen.
    ///
    /// Object stores compare by themselves (`If-None-Match`, `If-Match`). A directory cannot: the
    /// comparison and the atomic rename happen under an advisory lock on the file `.lock`.
    pub(crate) async fn swap(&self, path: &str, pointer: &Pointer, seen: &Seen) -> Result<()> {
        let bytes = pointer.to_bytes().map_err(|error| {
            Error::invalid(STAGE, self.name_of(path), "the pointer cannot be written")
                .with_source(error)
        })?;
        let key = self.key(path)?;
        let written = if let Some(dir) = self.url().directory() {
            let _lock = lock(dir).await?;
            let (now, _) = self.look(path).await?;
            if now.bytes != seen.bytes {
                return self.lost(path, pointer, now.bytes.as_deref());
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
            Ok(_) => Ok(()),
            Err(
                object_store::Error::AlreadyExists { .. }
                | object_store::Error::Precondition { .. }
                | object_store::Error::NotFound { .. },
            ) => {
                let (now, _) = self.look(path).await?;
                self.lost(path, pointer, now.bytes.as_deref())
            }
            Err(error) => Err(self.error(STAGE, path, &error)),
        }
    }

    /// The end of a lost race: fine if the winner wrote the same, which may have been ourselves in
    /// a request whose answer was lost.
    fn lost(&self, path: &str, pointer: &Pointer, now: Option<&[u8]>) -> Result<()> {
        let now = now
            .map(|bytes| self.parse_pointer(STAGE, path, bytes))
            .transpose()?;
        if now.as_ref() == Some(pointer) {
            return Ok(());
        }
        let now = now.map_or_else(
            || "it was removed".to_owned(),
            |now| format!("it now names version {}", now.version),
        );
        let detail = format!(
            "someone else moved it meanwhile: {now}, not {}",
            pointer.version
        );
        Err(
            Error::new(ErrorKind::Conflict, STAGE, self.name_of(path), detail)
                .with_hint("look at what was published and, if yours shall be named, set it again"),
        )
    }
}

/// Takes the lock of a model's directory, waiting for whoever has it.
async fn lock(dir: PathBuf) -> Result<FileLock> {
    let object = dir.display().to_string();
    let failed = |error: std::io::Error| {
        let kind = match error.kind() {
            std::io::ErrorKind::PermissionDenied => ErrorKind::Forbidden,
            _ => ErrorKind::Io,
        };
        Error::new(kind, STAGE, object.clone(), "the lock file cannot be taken").with_source(error)
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
