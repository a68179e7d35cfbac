//! `CachedModel`: a model version whose files are all on this machine.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::lock::FileLock;
use super::{ModelCache, blocking, failed};
use crate::error::Result;
use crate::model::ModelVersion;

/// A model version whose files are all on this machine. As long as it, or a clone of it, lives,
/// no process removes files from the cache.
#[derive(Clone, Debug)]
pub struct CachedModel {
    model: ModelVersion,
    cache: ModelCache,
    _hold: Arc<FileLock>,
}

impl CachedModel {
    pub(super) fn new(model: ModelVersion, cache: ModelCache, hold: FileLock) -> Self {
        let hold = Arc::new(hold);
        Self {
            model,
            cache,
            _hold: hold,
        }
    }

    /// The lock, sealed: the SHA-256 of every file is known.
    pub fn model(&self) -> &ModelVersion {
        &self.model
    }

    /// Where the file at `path` of the version is on this machine. It is read-only, and its name
    /// there is its SHA-256.
    pub fn path(&self, path: &str) -> Option<PathBuf> {
        let sha256 = self.model.file(path)?.sha256.as_deref()?;
        Some(self.cache.content(sha256))
    }

    /// Makes the version's tree of files in the folder `dir`: as hard links, which take no room
    /// and must not be written to, or as copies where the file system has no links to the cache.
    /// What is there already is left alone if it is the same file.
    ///
    /// # Errors
    /// `Io` or `Forbidden` for a file that cannot be made, also where another one has its name.
    pub async fn link_into(&self, dir: &Path) -> Result<()> {
        let (this, dir) = (self.clone(), dir.to_owned());
        blocking(move || {
            for file in this.model.files() {
                let target = dir.join(&file.path);
                let Some(source) = this.path(&file.path) else {
                    continue;
                };
                link(&source, &target).map_err(|error| failed(&target, error))?;
            }
            Ok(())
        })
        .await
    }
}

fn link(source: &Path, target: &Path) -> io::Result<()> {
    if let Some(folder) = target.parent() {
        fs::create_dir_all(folder)?;
    }
    let Err(error) = fs::hard_link(source, target) else {
        return Ok(());
    };
    if error.kind() == io::ErrorKind::AlreadyExists {
        let (ours, there) = (fs::metadata(source)?, fs::symlink_metadata(target)?);
        let same = (ours.dev(), ours.ino()) == (there.dev(), there.ino());
        return if same { Ok(()) } else { Err(error) };
    }
    // Another disk, a file system without links, or too many of them.
    copy(source, target)
}

fn copy(source: &Path, target: &Path) -> io::Result<()> {
    let mut from = fs::File::open(source)?;
    let mut copy = fs::File::create_new(target)?;
    io::copy(&mut from, &mut copy)?;
    copy.set_permissions(from.metadata()?.permissions())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_as_read_only_as_a_link_and_replaces_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let [source, linked, copied] = ["source", "a/linked", "copied"].map(|n| dir.path().join(n));
        fs::write(&source, "bytes").unwrap();
        let mut mode = fs::metadata(&source).unwrap().permissions();
        mode.set_readonly(true);
        fs::set_permissions(&source, mode).unwrap();
        link(&source, &linked).unwrap();
        copy(&source, &copied).unwrap();
        for target in [&linked, &copied] {
            assert_eq!(fs::read(target).unwrap(), b"bytes");
            assert!(fs::metadata(target).unwrap().permissions().readonly());
        }
        link(&source, &linked).unwrap();
        assert!(link(&source, &copied).is_err() && copy(&source, &copied).is_err());
    }
}
