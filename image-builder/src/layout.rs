//! Images on disk: the OCI image layout (image-spec, image-layout.md).
//!
//! A layout is a directory of blobs named by digest, and an `index.json` that names the images
//! among them. It needs no server, and every OCI tool reads it.

mod blobs;
mod index;
mod sweep;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use oci_spec::image::Descriptor;

use self::blobs::Blobs;
use self::index::Index;
use crate::error::{Error, ErrorKind, Result};
use crate::hash::verify;
use crate::image::{Image, Sealed};
use crate::layer::Layer;
use crate::manifest::{MAX_JSON, Manifest};
use crate::progress::Progress;
use crate::stream::{collect, of_file};
use crate::validate::Report;

const MARKER: &str = "oci-layout";
const MARKER_TEXT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

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
    let mut layers = Vec::with_capacity(image.layers().len());
    for layer in image.layers() {
        layers.push(blobs.put_layer(layer, progress).await?);
    }
    let sealed = image.clone().with_layers_known(layers)?.seal()?;
    blobs
        .put_bytes(&sealed.config_descriptor, &sealed.config)
        .await?;
    blobs
        .put_bytes(&sealed.manifest_descriptor, &sealed.manifest)
        .await?;
    let (dir, entry) = (dir.to_owned(), sealed.manifest_descriptor.clone());
    let (name, platform) = (name.to_owned(), image.platform());
    blocking(move || {
        let mut index = Index::read(&dir)?;
        index.set(&name, &entry, platform.as_ref())?;
        index.write(&dir)?;
        sweep::sweep(&dir, &index)?;
        drop(lock);
        Ok(())
    })
    .await?;
    Ok(sealed)
}

/// Opens an image of the layout at `dir` by its name or by its manifest's digest, to build upon
/// or to read. Its layers are read from the layout when they are used.
///
/// # Errors
/// `NotFound` if there is no such layout or image (the hint lists what there is), `Unsupported`
/// if it is an index of several images, `DigestMismatch` or `Invalid` if its blobs are damaged.
pub async fn open(dir: &Path, reference: &str) -> Result<Image> {
    let descriptor = find(dir, reference).await?;
    let manifest = json_blob(dir, &descriptor).await?;
    let parsed = Manifest::parse(&manifest)?;
    let config = json_blob(dir, &parsed.config).await?;
    let blobs = Blobs::new(dir);
    for layer in &parsed.layers {
        blobs.path(layer.digest())?;
    }
    Image::from_parts(&manifest, &config, move |descriptor, from| {
        let left = descriptor.size().saturating_sub(from);
        match blobs.path(descriptor.digest()) {
            Ok(path) => of_file(path, from, left),
            Err(error) => crate::stream::failed(error),
        }
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
        let index = Index::read_existing(&dir)?;
        Ok(index.named().collect())
    })
    .await
}

/// Validates every named image of the layout at `dir`, and its version marker.
///
/// # Errors
/// As [`open`] and [`validate`](crate::validate()); damage that can be described becomes a
/// [`Problem`](crate::Problem) of the report.
pub async fn validate(dir: &Path) -> Result<Report> {
    let marker = tokio::fs::read_to_string(dir.join(MARKER))
        .await
        .map_err(|e| Error::io("read layout", dir, "there is no `oci-layout` file", e))?;
    let version: serde_json::Value = serde_json::from_str(&marker).unwrap_or_default();
    if version["imageLayoutVersion"] != "1.0.0" {
        let object = dir.display().to_string();
        let detail = "its version is not 1.0.0";
        return Err(Error::new(
            ErrorKind::Unsupported,
            "read layout",
            object,
            detail,
        ));
    }
    let mut report = Report::default();
    for (_, descriptor) in references(dir).await? {
        let image = open(dir, descriptor.digest().as_ref()).await?;
        report.merge(crate::validate(&image).await?);
    }
    Ok(report)
}

async fn find(dir: &Path, reference: &str) -> Result<Descriptor> {
    let (dir, reference) = (dir.to_owned(), reference.to_owned());
    blocking(move || Index::read_existing(&dir)?.find(&reference)).await
}

async fn json_blob(dir: &Path, descriptor: &Descriptor) -> Result<bytes::Bytes> {
    let object = descriptor.digest().to_string();
    if descriptor.size() > MAX_JSON {
        let detail = "it is larger than 4 MiB";
        return Err(Error::new(
            ErrorKind::Invalid,
            "read layout",
            object,
            detail,
        ));
    }
    let path = Blobs::new(dir).path(descriptor.digest())?;
    let bytes = collect(of_file(path, 0, MAX_JSON + 1), MAX_JSON, &object).await?;
    let found = crate::hash::digest(&bytes);
    verify(
        &object,
        (descriptor.digest(), descriptor.size()),
        (&found, bytes.len() as u64),
    )?;
    Ok(bytes)
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
            return Err(Error::new(ErrorKind::Conflict, "write layout", object, detail)
                .with_hint("name a new or empty directory"));
        }
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| {
        let detail = "the worker thread failed";
        Error::new(ErrorKind::Io, "use layout", "thread", detail).with_source(e)
    })?
}

/// A stored layer, read from where it is now.
fn at_rest(layer: &Layer, path: std::path::PathBuf) -> Layer {
    let len = layer.len();
    layer
        .clone()
        .with_source(move |from| of_file(path.clone(), from, len.saturating_sub(from)))
}

#[cfg(test)]
mod tests;
