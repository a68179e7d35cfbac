//! Unpacking layers into a directory (image-spec, layer.md, "Applying Changesets").

mod entry;
mod scope;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::bridge;
use crate::codec::Codec;
use crate::error::{Error, ErrorKind, Result};
use crate::image::Image;
use crate::layer::Layer;
use crate::tar_read::Reader;

pub(crate) const STAGE: &str = "unpack layer";

/// Applies a layer to the directory `root`, which is created if it is missing.
///
/// Works for root and for others alike: nothing is chowned, device nodes and pipes are left out,
/// set-user-id and set-group-id bits are dropped, and the owner may always read and write what
/// was unpacked. Modification times of files are kept. Whiteouts delete what lower layers left.
///
/// Nothing outside `root` is read, written or linked to, whatever the archive says: names with
/// `..` or a leading `/` are refused, and a symlink on the way is resolved as inside a container,
/// with `root` as `/`. This holds as long as nobody else writes to `root` meanwhile.
///
/// # Errors
/// `Invalid` for a malformed or hostile archive, `Io` for what the file system refuses, and what
/// the layer's source reports. `root` may then hold a part of the layer.
pub async fn unpack(layer: &Layer, root: &Path) -> Result<()> {
    let codec = Codec::of(&layer.media_type())?;
    let root = root.to_owned();
    bridge::with_reader(layer.open(0), layer.history(), move |reader| {
        apply(Reader::new(codec.reader(reader)), &root)
    })
    .await
}

/// Applies all layers of an image to the directory `root`, from bottom to top.
///
/// # Errors
/// As [`unpack`].
pub async fn unpack_image(image: &Image, root: &Path) -> Result<()> {
    tokio::fs::create_dir_all(root)
        .await
        .map_err(|e| Error::io(STAGE, root, "cannot create it", e))?;
    for layer in image.layers() {
        unpack(layer, root).await?;
    }
    Ok(())
}

/// A directory being unpacked into.
pub(crate) struct Target {
    root: PathBuf,
    /// What this layer itself has made, which its own whiteouts must not delete; sorted, so that
    /// what lies below a directory is found at once in a layer of many whiteouts too.
    made: BTreeSet<PathBuf>,
}

fn apply(mut archive: Reader<Box<dyn io::Read + Send>>, root: &Path) -> Result<()> {
    std::fs::create_dir_all(root).map_err(|e| Error::io(STAGE, root, "cannot create it", e))?;
    let root = root
        .canonicalize()
        .map_err(|e| Error::io(STAGE, root, "cannot resolve it", e))?;
    let mut target = Target {
        root,
        made: BTreeSet::new(),
    };
    let malformed = |root: &Path, source| {
        let object = root.display().to_string();
        Error::new(
            ErrorKind::Invalid,
            STAGE,
            object,
            "cannot read the layer's archive",
        )
        .with_source(source)
    };
    while let Some(member) = archive.next().map_err(|e| malformed(&target.root, e))? {
        target.apply(&member, &mut archive.content())?;
    }
    // Reading on lets the decompressor verify its checksum.
    archive.drain().map_err(|e| malformed(&target.root, e))
}

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
