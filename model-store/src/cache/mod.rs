//! `ModelCache`: the files of models on this machine, named by what is in them.

mod arriving;
mod cached;
mod content;
mod digests;
mod fetching;
mod inlet;
mod journal;
mod lock;
mod meter;
mod options;
mod partial;
mod pin;
mod space;
mod transfer;
mod trim;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use arriving::Arriving;
pub use cached::CachedModel;
pub use fetching::Fetching;
pub use options::{FetchEvent, FetchOptions, FetchProgress};
pub use trim::Trimmed;

use crate::error::{Error, ErrorKind, Result};
use crate::model::ModelVersion;
use pin::Pin;

const STAGE: &str = "fetch model";

/// Files of models on this machine, named by the SHA-256 of what is in them, so that two versions
/// with a file in common keep it once.
///
/// ```text
/// sha256/aa/HEX        whole files, read-only
/// partial/KEY.data     a file that is arriving
/// partial/KEY.json     its journal: which object it is, and how much of it is safely on disk
/// partial/KEY.lock     held by the process that fetches it
/// known/KEY.json       what was found in an object that nobody states a SHA-256 of
/// lock                 held, together with others, by everyone who fetches or uses files
/// ```
///
/// A process that is killed at any moment leaves nothing here that a later one trusts wrongly, and
/// the later one goes on where the journal says. Any number of processes and tasks may use one
/// folder at once: a file that several of them want is fetched once. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct ModelCache(Arc<PathBuf>);

impl ModelCache {
    /// Opens the cache in the folder `dir`, which is made where it is missing.
    ///
    /// # Errors
    /// `Io` or `Forbidden` when the folder cannot be made.
    pub fn open(dir: &Path) -> Result<Self> {
        for name in ["sha256", "partial", "known"] {
            let path = dir.join(name);
            fs::create_dir_all(&path).map_err(|error| failed(&path, error))?;
        }
        Ok(Self(Arc::new(dir.to_owned())))
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// Whether every file of `model` is here. Nothing is read but names and sizes.
    ///
    /// # Errors
    /// `Io` or `Forbidden` when the folder cannot be read.
    pub fn contains(&self, model: &ModelVersion) -> Result<bool> {
        for file in model.files() {
            let Some((sha256, _)) = self.digest_of(&Pin::of(model, file)) else {
                return Ok(false);
            };
            if !self.has(&sha256, file.size)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The path of a part of the file that is arriving under `key`.
    fn partial(&self, key: &str, part: &str) -> PathBuf {
        self.0.join("partial").join(format!("{key}.{part}"))
    }
}

/// Our error for a failure of the local file system.
fn failed(path: &Path, error: io::Error) -> Error {
    let (kind, detail) = match error.kind() {
        io::ErrorKind::PermissionDenied => (ErrorKind::Forbidden, "permission denied"),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            let full = "there is no space left on the disk";
            return Error::new(ErrorKind::Io, STAGE, path.display().to_string(), full)
                .with_hint("free some space, or trim the cache; the fetch goes on where it was")
                .with_source(error);
        }
        _ => (ErrorKind::Io, "the local file system failed"),
    };
    Error::new(kind, STAGE, path.display().to_string(), detail).with_source(error)
}

/// Runs blocking work where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    crate::blocking::blocking((STAGE, "cache"), work).await
}
