//! The blobs of a layout.

use std::io::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use oci_spec::image::{Descriptor, Digest};
use tempfile::{NamedTempFile, TempPath};
use tokio::fs::File;

use super::{at_rest, blocking};
use crate::error::{Error, Result};
use crate::hash::sha256_hex;
use crate::layer::Layer;
use crate::pour::pour;
use crate::progress::{Event, Progress};

const STAGE: &str = "write layout";

/// Files being written start so; what a killed writer left is swept by the next one.
pub(super) const UNFINISHED: &str = ".unfinished-";

/// The blob directory of a layout.
#[derive(Clone)]
pub(super) struct Blobs {
    dir: PathBuf,
}

impl Blobs {
    pub(super) fn new(layout: &Path) -> Self {
        Self {
            dir: layout.join("blobs").join("sha256"),
        }
    }

    /// Where the blob of this digest is, or would be.
    pub(super) fn path(&self, digest: &Digest) -> Result<PathBuf> {
        Ok(self.dir.join(sha256_hex(digest)?))
    }

    /// Whether the blob is there in full length.
    async fn has(&self, descriptor: &Descriptor) -> Result<bool> {
        let path = self.path(descriptor.digest())?;
        match tokio::fs::symlink_metadata(&path).await {
            Ok(meta) => Ok(meta.is_file() && meta.len() == descriptor.size()),
            Err(_) => Ok(false),
        }
    }

    /// Copies a layer unless it is there, and returns it known and read from the layout.
    pub(super) async fn put_layer(&self, layer: &Layer, progress: Progress<'_>) -> Result<Layer> {
        if let (Some(descriptor), Some(_)) = (layer.descriptor(), layer.diff_id())
            && self.has(&descriptor).await?
        {
            progress(Event::Reused {
                object: descriptor.digest().to_string().into(),
                total: layer.len(),
            });
            return Ok(at_rest(layer, self.path(descriptor.digest())?, 0));
        }
        let (temp, digest) = self.copy(layer, progress).await?;
        let layer = layer.with_digest(digest.clone())?;
        let path = self.path(&digest)?;
        let stored = path.clone();
        blocking(move || persist(temp, &stored)).await?;
        progress(Event::Stored {
            digest: digest.to_string().into(),
            size: layer.len(),
        });
        Ok(at_rest(&layer, path, 0))
    }

    /// Copies a layer into an unfinished file, hashing on the way.
    async fn copy(&self, layer: &Layer, progress: Progress<'_>) -> Result<(TempPath, Digest)> {
        let io = |source| Error::io(STAGE, &self.dir, "cannot write a blob", source);
        let dir = self.dir.clone();
        let (file, temp) = blocking(move || unfinished(&dir)).await?.into_parts();
        let mut file = File::from_std(file);
        let digest = pour(layer, &mut file, (STAGE, &self.dir), progress).await?;
        file.sync_all().await.map_err(io)?;
        Ok((temp, digest))
    }

    /// Stores a small blob.
    pub(super) async fn put_bytes(&self, descriptor: &Descriptor, bytes: &Bytes) -> Result<()> {
        if self.has(descriptor).await? {
            return Ok(());
        }
        let (path, bytes) = (self.path(descriptor.digest())?, bytes.clone());
        blocking(move || replace(&path, &bytes)).await
    }
}

/// Writes a file beside `path` and renames it there: readers see the old bytes or the new.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let io = |source| Error::io(STAGE, path, "cannot write the file", source);
    let mut temp = unfinished(path.parent().unwrap_or(path))?;
    temp.write_all(bytes).map_err(io)?;
    temp.as_file().sync_all().map_err(io)?;
    persist(temp.into_temp_path(), path)
}

pub(crate) fn persist(temp: TempPath, path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let io = |source| Error::io(STAGE, path, "cannot name the file", source);
    // Temporary files are private; a layout is as readable as its directory.
    std::fs::set_permissions(&temp, std::fs::Permissions::from_mode(0o644)).map_err(io)?;
    temp.persist(path).map_err(|e| io(e.error))
}

pub(crate) fn unfinished(dir: &Path) -> Result<NamedTempFile> {
    tempfile::Builder::new()
        .prefix(UNFINISHED)
        .tempfile_in(dir)
        .map_err(|e| Error::io(STAGE, dir, "cannot create a file", e))
}
