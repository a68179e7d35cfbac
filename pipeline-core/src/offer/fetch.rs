//! A version's files in a folder, and its lock in a file.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use modelship_model_store::{FetchOptions, ModelCache, ModelVersion};

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Progress, StageTimer};
use crate::offer::OpenModel;
use crate::{Stage, cache};

/// The folder in the target that holds what has arrived so far: a fetch that was killed goes on
/// from there when it is repeated.
const ARRIVING: &str = ".modelship-fetch";

impl OpenModel {
    /// Writes the files of a locked version below `folder`, and gives its lock with the SHA-256 of
    /// every file. When all bytes are there and are the right ones, each file takes its name; files
    /// that are there already are replaced.
    ///
    /// # Errors
    /// [`ErrorKind::Step`] from the store, [`ErrorKind::Io`] from the folder.
    pub async fn fetch(
        &self,
        model: &ModelVersion,
        folder: &Path,
        progress: &Progress,
    ) -> Result<ModelVersion> {
        let what = format!("{} {}", model.name(), model.version());
        let timer = StageTimer::start(progress, Stage::Fetch, &what);
        let arriving = folder.join(ARRIVING);
        let io = |e| Error::io(Stage::Fetch, &arriving, e);
        std::fs::create_dir_all(&arriving).map_err(io)?;
        let cache = self.step(ModelCache::open(&arriving.join("files")))?;
        let tell = |event| crate::model::tell(&timer, event);
        let options = FetchOptions::default();
        let fetched = cache.fetch(&self.store, model, &options, &tell);
        let fetched = self.step(fetched.await)?;
        let tree = arriving.join("tree");
        if tree.exists() {
            // Left by a run that was killed between its links and their names.
            std::fs::remove_dir_all(&tree).map_err(io)?;
        }
        self.step(fetched.link_into(&tree).await)?;
        let model = fetched.model().clone();
        for file in model.files() {
            take_place(&tree.join(&file.path), &folder.join(&file.path))?;
        }
        drop(fetched);
        std::fs::remove_dir_all(&arriving).map_err(io)?;
        timer.finish(format!("{what} {}", model.tree_digest()));
        Ok(model)
    }
}

/// Gives a file its name, and to whoever may read the folder. The lock has checked that no path
/// leads out of it.
fn take_place(file: &Path, target: &Path) -> Result<()> {
    let io = |e| Error::io(Stage::Fetch, target, e);
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent).map_err(io)?;
    }
    std::fs::set_permissions(file, Permissions::from_mode(0o644)).map_err(io)?;
    std::fs::rename(file, target).map_err(io)
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
