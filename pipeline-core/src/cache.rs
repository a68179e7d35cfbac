//! The folder of caches and records: everything in it is named by what it holds, written beside
//! its place and renamed, so that a killed run leaves nothing that a later run would trust.

use std::fs;
use std::path::{Path, PathBuf};

use modelship_image_builder::{self as image_builder, Layer};
use modelship_model_store::{ModelCache, ModelVersion};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Stage;
use crate::error::{Error, ErrorKind, Result};

/// The cache folder of one app's road.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    root: PathBuf,
}

impl Cache {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// A folder of the cache, made where it is missing.
    pub(crate) fn folder(&self, stage: Stage, name: &str) -> Result<PathBuf> {
        let path = self.root.join(name);
        fs::create_dir_all(&path).map_err(|e| Error::io(stage, &path, e))?;
        Ok(path)
    }

    /// The root file system of one layer, unpacked once and kept by its diff_id.
    pub(crate) async fn unpacked(&self, stage: Stage, layer: &Layer) -> Result<PathBuf> {
        let id = layer.diff_id().ok_or_else(|| {
            Error::new(
                ErrorKind::Invalid,
                stage,
                "layer",
                "its diff_id is not known yet",
            )
        })?;
        let folder = self.folder(stage, "rootfs")?;
        let target = folder.join(id.digest());
        if !target.is_dir() {
            let temporary = fresh_folder(stage, &folder)?;
            image_builder::unpack(layer, temporary.path())
                .await
                .map_err(|e| Error::step(stage, &id, e))?;
            settle(stage, temporary, &target)?;
        }
        Ok(target)
    }

    /// The files of models, by their content.
    pub(crate) fn model_files(&self, stage: Stage) -> Result<ModelCache> {
        let path = self.root.join("files");
        ModelCache::open(&path).map_err(|e| Error::step(stage, path.display(), e))
    }

    /// Removes the files of other models than `model`, and what is left of fetches that never
    /// ended; nothing while another run is fetching.
    pub(crate) async fn keep_model(&self, model: &ModelVersion) {
        if let Ok(files) = self.model_files(Stage::Fetch) {
            // A cache that cannot be trimmed is still a right cache.
            let _ = files.trim(&[model], 0).await;
        }
    }

    /// Removes unpacked and packed layers, sources and models that `used` does not name: what one run needed
    /// is what the next most likely needs.
    pub(crate) fn keep_only(&self, used: &[PathBuf]) {
        for name in ["rootfs", "packed", "source", "models"] {
            let Ok(entries) = fs::read_dir(self.root.join(name)) else {
                continue;
            };
            for entry in entries.flatten() {
                let path = entry.path();
                if !used.iter().any(|u| u.starts_with(&path)) {
                    // A cache that cannot be trimmed is still a right cache.
                    let _ = fs::remove_dir_all(&path);
                }
            }
        }
    }
}

/// A temporary folder inside `parent`, which later becomes an entry of it.
pub(crate) fn fresh_folder(stage: Stage, parent: &Path) -> Result<tempfile::TempDir> {
    fs::create_dir_all(parent).map_err(|e| Error::io(stage, parent, e))?;
    tempfile::Builder::new()
        .prefix(".new-")
        .tempdir_in(parent)
        .map_err(|e| Error::io(stage, parent, e))
}

/// Moves a finished temporary folder to its name. Another run may have been faster: what is
/// there has the same name, so it holds the same.
pub(crate) fn settle(stage: Stage, temporary: tempfile::TempDir, target: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let io = |e| Error::io(stage, target, e);
    // Temporary folders are private; a sandbox's user must be able to enter this one.
    fs::set_permissions(temporary.path(), fs::Permissions::from_mode(0o755)).map_err(io)?;
    match fs::rename(temporary.path(), target) {
        Ok(()) => {
            let _ = temporary.keep();
            Ok(())
        }
        Err(_) if target.is_dir() => Ok(()),
        Err(error) => Err(io(error)),
    }
}

/// Reads a JSON file; `None` when it is missing or was written by another format.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Writes a JSON file whole or not at all.
pub(crate) fn write_json(stage: Stage, path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_vec_pretty(value)
        .map_err(|e| Error::new(ErrorKind::Io, stage, path.display(), e.to_string()))?;
    write_file(stage, path, &text)
}

/// Writes a file whole or not at all.
pub(crate) fn write_file(stage: Stage, path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt as _;
    let io = |e| Error::io(stage, path, e);
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(io)?;
    let mut file = tempfile::NamedTempFile::new_in(parent).map_err(io)?;
    file.write_all(bytes).map_err(io)?;
    file.as_file()
        .set_permissions(fs::Permissions::from_mode(0o644))
        .map_err(io)?;
    file.as_file().sync_all().map_err(io)?;
    file.persist(path).map_err(|e| io(e.error))?;
    Ok(())
}
