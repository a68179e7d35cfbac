//! A version's files in a folder, and its lock in a file.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use futures::TryStreamExt;
use modelship_model_store::{ModelFile, ModelVersion};
use tokio::io::AsyncWriteExt as _;

use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::event::{Progress, StageTimer};
use crate::offer::OpenModel;
use crate::{Stage, cache};

impl OpenModel {
    /// Writes the files of a locked version below `folder`. Each one is written under another name
    /// and takes its own when its bytes are all there and have the right SHA-256; files that are
    /// there already are replaced.
    ///
    /// # Errors
    /// [`ErrorKind::Step`] from the store, [`ErrorKind::Io`] from the folder.
    pub async fn fetch(
        &self,
        model: &ModelVersion,
        folder: &Path,
        progress: &Progress,
    ) -> Result<()> {
        let what = format!("{} {}", model.name(), model.version());
        let timer = StageTimer::start(progress, Stage::Fetch, &what);
        let mut done = 0;
        for file in model.files() {
            let tell = |bytes| timer.bytes(&file.path, done + bytes, Some(model.total_size()));
            self.fetch_file(model, file, folder, &tell).await?;
            done += file.size;
        }
        timer.finish(format!("{what} {}", model.tree_digest()));
        Ok(())
    }

    async fn fetch_file(
        &self,
        model: &ModelVersion,
        file: &ModelFile,
        folder: &Path,
        tell: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<()> {
        // The lock has checked that no path leads out of the folder.
        let path = folder.join(&file.path);
        let io = |e| Error::io(Stage::Fetch, &path, e);
        let parent = path.parent().unwrap_or(folder);
        tokio::fs::create_dir_all(parent).await.map_err(io)?;
        // Such files are for their owner alone unless told otherwise.
        let temporary = tempfile::Builder::new()
            .permissions(Permissions::from_mode(0o644))
            .tempfile_in(parent)
            .map_err(io)?;
        let (handle, temporary) = temporary.into_parts();
        let mut handle = tokio::fs::File::from_std(handle);
        let mut bytes = self.step(self.store.read(model, &file.path, 0))?;
        let mut written = 0;
        loop {
            let chunk = bytes.try_next().await.map_err(|e| self.broken(e))?;
            let Some(chunk) = chunk else {
                break;
            };
            handle.write_all(&chunk).await.map_err(io)?;
            written += chunk.len() as u64;
            tell(written);
        }
        handle.flush().await.map_err(io)?;
        temporary.persist(&path).map_err(|e| io(e.error))
    }

    /// The error of a stream of bytes, which is the store's own.
    fn broken(&self, error: BoxError) -> Error {
        match error.downcast::<modelship_model_store::Error>() {
            Ok(ours) => Error::step(Stage::Fetch, &self.url, *ours),
            Err(other) => Error::new(ErrorKind::Step, Stage::Fetch, &self.url, other.to_string()),
        }
    }
}

/// Reads the lock of a model version, as [`write_lock`] wrote it, and checks every rule again.
///
/// # Errors
/// [`ErrorKind::NotFound`] or [`ErrorKind::Io`] for a file that cannot be read,
/// [`ErrorKind::Invalid`] for one that is no lock.
pub fn read_lock(path: &Path) -> Result<ModelVersion> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(Stage::Fetch, path, e))?;
    serde_json::from_slice(&bytes).map_err(|e| {
        let detail = format!("is not the lock of a model version: {e}");
        Error::new(ErrorKind::Invalid, Stage::Fetch, path.display(), detail)
            .with_hint("remove it, or name another file")
    })
}

/// Writes the lock of a model version: with it, exactly these bytes are fetched again.
///
/// # Errors
/// [`ErrorKind::Io`] when the file cannot be written.
pub fn write_lock(path: &Path, model: &ModelVersion) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(model).map_err(|e| {
        Error::new(
            ErrorKind::Invalid,
            Stage::Fetch,
            path.display(),
            e.to_string(),
        )
    })?;
    text.push(b'\n');
    let path = std::path::absolute(path).map_err(|e| Error::io(Stage::Fetch, path, e))?;
    cache::write_file(Stage::Fetch, &path, &text)
}
