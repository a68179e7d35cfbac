//! Images on disk: the OCI image layout (image-spec, image-layout.md).
//!
//! A layout is a directory of blobs named by digest, and an `index.json` that names the images
//! among them. It needs no server, and every OCI tool reads it.

pub(crate) mod blobs;
pub(crate) mod index;
mod sweep;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use oci_spec::image::Descriptor;

use self::blobs::Blobs;
use self::index::IndexFile;
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Image, Sealed};
use crate::index::{Index, SealedIndex};
use crate::layer::Layer;
use crate::platform::Platform;
use crate::progress::Progress;
use crate::store::{Place, Store};
use crate::stream::of_file;
use crate::validate::Report;

pub(crate) const MARKER: &str = "oci-layout";
pub(crate) const MARKER_TEXT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// Writes an image into the layout at `dir` under `name` (`org.opencontainers.image.ref.name`),
/// and removes the blobs that no image of the layout uses any more.
///
/// The directory is created if it is missing. Each layer is read at most once: its digest is
/// found, or checked, while it is copied, and a blob that is there already is not read at all.
/// The image appears under its name, in the place of a former one, in one atomic step at the
/// end; writers of one layout wait for each other. The layers of the result are read from the
/// layout, so that they can be moved on without going back to their sources.
///
/// # Errors
/// `Conflict` if `dir` holds something else than a layout, `DigestMismatch` or `Changed` if a
/// layer is not what was announced, `Io` for what the file system refuses, and what the layers'
/// sources report.
pub async fn write(
    dir: &Path,
    image: &Image,
    name: &str,
    progress: Progress<'_>,
) -> Result<Sealed> {
    index::check_name(name)?;
    let lock = prepare(dir).await?;
    let blobs = Blobs::new(dir);
    let (_, sealed) = put_image(&blobs, image, progress).await?;
    let entry = (sealed.manifest_descriptor.clone(), image.platform());
    publish(dir, name, entry, lock).await?;
    Ok(sealed)
}

/// Writes an index and all images in it into the layout at `dir` under `name`, as [`write()`] does
/// one image. A blob that several images share is stored once.
///
/// # Errors
/// As [`write()`].
pub async fn write_index(
    dir: &Path,
    index: &Index,
    name: &str,
    progress: Progress<'_>,
) -> Result<SealedIndex> {
    index::check_name(name)?;
    let lock = prepare(dir).await?;
    let blobs = Blobs::new(dir);
    let mut known = Vec::new();
    for image in index.images() {
        known.push(put_image(&blobs, image, progress).await?.0);
    }
    let sealed = index.clone().with_images_known(known).seal()?;
    blobs
        .put_bytes(&sealed.index_descriptor, &sealed.index)
        .await?;
    publish(dir, name, (sealed.index_descriptor.clone(), None), lock).await?;
    Ok(sealed)
}

/// Stores the blobs of an image; also gives the image with its layers known.
async fn put_image(
    blobs: &Blobs,
    image: &Image,
    progress: Progress<'_>,
) -> Result<(Image, Sealed)> {
    let mut layers = Vec::with_capacity(image.layers().len());
    for layer in image.layers() {
        layers.push(blobs.put_layer(layer, progress).await?);
    }
    let known = image.clone().with_layers_known(layers)?;
    let sealed = known.seal()?;
    blobs
        .put_bytes(&sealed.config_descriptor, &sealed.config)
        .await?;
    blobs
        .put_bytes(&sealed.manifest_descriptor, &sealed.manifest)
        .await?;
    Ok((known, sealed))
}

/// Names what was stored, in one step, and removes what is not used any more.
async fn publish(
    dir: &Path,
    name: &str,
    (entry, platform): (Descriptor, Option<Platform>),
    lock: File,
) -> Result<()> {
    let (dir, name) = (dir.to_owned(), name.to_owned());
    blocking(move || {
        let mut index = IndexFile::read(&dir)?;
        index.set(&name, &entry, platform.as_ref())?;
        index.write(&dir)?;
        sweep::sweep(&dir, &index)?;
        drop(lock);
        Ok(())
    })
    .await
}

/// Opens an image of the layout at `dir` by its name or by its manifest's digest, also one in an
/// index, to build upon or to read. Its layers are read from the layout when they are used.
///
/// # Errors
/// `NotFound` if there is no such layout or image (the hint lists what there is), `Unsupported`
/// if it is an index of several images (see [`open_for`]), `DigestMismatch` or `Invalid` if its
/// blobs are damaged.
pub async fn open(dir: &Path, reference: &str) -> Result<Image> {
    choose(dir, reference, None).await
}

/// As [`open`], and of an index, the image that runs best on `platform`: the same system and
/// architecture, and the highest variant that is not above the platform's.
///
/// Attestations and artifacts of an index are passed over, indexes in indexes are followed two
/// deep.
///
/// # Errors
/// As [`open`], and `NotFound` if there is no image for the platform (the hint lists those that
/// there are), also where the reference names a single image for another one.
pub async fn open_for(dir: &Path, reference: &str, platform: &Platform) -> Result<Image> {
    choose(dir, reference, Some(platform)).await
}

async fn choose(dir: &Path, reference: &str, wanted: Option<&Platform>) -> Result<Image> {
    let path = dir.to_owned();
    let index = blocking(move || IndexFile::read_existing(&path)).await?;
    let store = store(dir);
    let descriptor = store.resolve(&index, reference).await?;
    store.choose(&descriptor, wanted).await
}

/// The blobs of the layout at `dir`.
fn store(dir: &Path) -> Store {
    let blobs = Blobs::new(dir);
    Store::new(move |digest| {
        Ok(Place {
            path: blobs.path(digest)?,
            offset: 0,
            len: None,
        })
    })
}

/// The names of the images in the layout at `dir`, with their manifests' descriptors, in the
/// order of its index.
///
/// # Errors
/// `NotFound` if there is no layout, `Invalid` if its index is malformed.
pub async fn references(dir: &Path) -> Result<Vec<(String, Descriptor)>> {
    let dir = dir.to_owned();
    blocking(move || {
        let index = IndexFile::read_existing(&dir)?;
        Ok(index.named().collect())
    })
    .await
}

/// Validates the layout at `dir`: its version marker, its index, and everything the index leads
/// to, named or not, with indexes in it and artifacts.
///
/// # Errors
/// As [`open`] and [`validate`](crate::validate()); damage that can be described becomes a
/// [`Problem`](crate::Problem) of the report.
pub async fn validate(dir: &Path) -> Result<Report> {
    let marker = tokio::fs::read(dir.join(MARKER))
        .await
        .map_err(|e| Error::io("read layout", dir, "there is no `oci-layout` file", e))?;
    check_marker(&marker, &dir.display().to_string())?;
    let path = dir.to_owned();
    let index = blocking(move || index::read_bytes(&path)).await?;
    crate::validate::store(&store(dir), &index).await
}

/// Checks the version of a layout (image-layout.md, "oci-layout file").
pub(crate) fn check_marker(bytes: &[u8], object: &str) -> Result<()> {
    let version: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    if version["imageLayoutVersion"] == "1.0.0" {
        return Ok(());
    }
    let detail = "its version is not 1.0.0";
    Err(Error::new(
        ErrorKind::Unsupported,
        "read layout",
        object,
        detail,
    ))
}

/// Makes the layout's skeleton and takes its lock, which is held as long as the file is open.
async fn prepare(dir: &Path) -> Result<File> {
    let dir = dir.to_owned();
    blocking(move || {
        let io = |source| Error::io("write layout", &dir, "cannot make the layout", source);
        std::fs::create_dir_all(&dir).map_err(io)?;
        let marker = dir.join(MARKER);
        if !marker.exists() {
            check_unused(&dir)?;
        }
        // The marker is never replaced, since its inode carries the lock.
        let mut lock = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&marker)
            .map_err(io)?;
        lock.lock().map_err(io)?;
        if lock.metadata().map_err(io)?.len() == 0 {
            lock.write_all(MARKER_TEXT.as_bytes()).map_err(io)?;
        }
        std::fs::create_dir_all(dir.join("blobs/sha256")).map_err(io)?;
        Ok(lock)
    })
    .await
}

/// Refuses a directory that holds anything a layout being made does not.
fn check_unused(dir: &Path) -> Result<()> {
    let io = |source| Error::io("write layout", dir, "cannot read the directory", source);
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        if name != MARKER && name != "blobs" {
            let object = dir.display().to_string();
            let detail = "the directory is not empty and no image layout";
            return Err(
                Error::new(ErrorKind::Conflict, "write layout", object, detail)
                    .with_hint("name a new or empty directory"),
            );
        }
    }
    Ok(())
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| {
        let detail = "the worker thread failed";
        Error::new(ErrorKind::Io, "use layout", "thread", detail).with_source(e)
    })?
}

/// A stored layer, read from where it is now.
pub(crate) fn at_rest(layer: &Layer, path: std::path::PathBuf, offset: u64) -> Layer {
    let len = layer.len();
    layer.clone().with_source(move |from| {
        let at = offset.saturating_add(from);
        of_file(path.clone(), at, len.saturating_sub(from))
    })
}

#[cfg(test)]
mod tests;
