//! Images as one file: archives that hold an OCI image layout, and those of `docker save`.
//!
//! What is written here is an OCI image layout in a tar file (image-spec, image-layout.md).
//! [`write_docker`] adds the `manifest.json` that `docker load` reads, so that one file serves
//! both, as Docker's own does since version 25. Blobs are written in the order of the image and
//! once each; all times, owners and modes are fixed, so one image gives one file.

mod docker;
mod table;
mod write;

use std::path::Path;

use serde_json::json;

use self::docker::Tag;
use self::table::Table;
use self::write::Archive;
use crate::config::canonical;
use crate::error::{Error, ErrorKind, Result};
use crate::hash::sha256_hex;
use crate::image::{Image, Sealed};
use crate::index::{Index, SealedIndex};
use crate::layout::index::{IndexFile, check_name};
use crate::layout::{MARKER, MARKER_TEXT, blocking, check_marker};
use crate::platform::Platform;
use crate::progress::Progress;
use crate::store::Store;
use crate::validate::Report;

const INDEX: &str = "index.json";
const DOCKER: &str = "manifest.json";

/// Writes an image as an OCI archive to the file `path`, under `name`.
///
/// Each layer is read once: where its digest is not known, it is found while the layer is
/// copied, and the layer's header is mended after it. The file is written beside its place and
/// renamed, so a reader sees a former file or the whole new one. Memory is bounded. The layers
/// of the result are read from the archive.
///
/// `skopeo` (`oci-archive:`), `podman load` and `ctr images import` read it.
///
/// # Errors
/// `Invalid` for a wrong name, `DigestMismatch` or `Changed` if a layer is not what was
/// announced, `Io` for what the file system refuses, and what the layers' sources report.
pub async fn write_oci(
    path: &Path,
    image: &Image,
    name: &str,
    progress: Progress<'_>,
) -> Result<Sealed> {
    check_name(name)?;
    let mut archive = Archive::create(path).await?;
    let (_, sealed) = put_image(&mut archive, image, progress).await?;
    let mut index = IndexFile::empty();
    index.set(name, &sealed.manifest_descriptor, image.platform().as_ref())?;
    finish(archive, &index).await?;
    Ok(sealed)
}

/// Writes an index and all images in it as an OCI archive, as [`write_oci`] does one image. A
/// blob that several images share is stored once.
///
/// # Errors
/// As [`write_oci`].
pub async fn write_oci_index(
    path: &Path,
    index: &Index,
    name: &str,
    progress: Progress<'_>,
) -> Result<SealedIndex> {
    check_name(name)?;
    let mut archive = Archive::create(path).await?;
    let mut known = Vec::new();
    for image in index.images() {
        known.push(put_image(&mut archive, image, progress).await?.0);
    }
    let sealed = index.clone().with_images_known(known).seal()?;
    archive
        .blob(&sealed.index_descriptor, &sealed.index)
        .await?;
    let mut top = IndexFile::empty();
    top.set(name, &sealed.index_descriptor, None)?;
    finish(archive, &top).await?;
    Ok(sealed)
}

/// Writes an image as an archive for `docker load` to the file `path`, under `tag`, such as
/// `digits:1.4.2` or `registry.invalid/team/digits:1.4.2`. The file is an OCI archive too.
///
/// Written as [`write_oci`] does. Layers are stored as they are, compressed or not; Docker,
/// podman, skopeo and containerd look at each of them, while crane takes all for what the first
/// is, so for crane they must be alike.
///
/// # Errors
/// As [`write_oci`].
pub async fn write_docker(
    path: &Path,
    image: &Image,
    tag: &str,
    progress: Progress<'_>,
) -> Result<Sealed> {
    let tag: Tag = tag.parse()?;
    let mut archive = Archive::create(path).await?;
    let (_, sealed) = put_image(&mut archive, image, progress).await?;
    let mut layers = Vec::with_capacity(sealed.layers.len());
    for layer in &sealed.layers {
        if let Some(descriptor) = layer.descriptor() {
            layers.push(write::blob_name(descriptor.digest())?);
        }
    }
    let config = write::blob_name(sealed.config_descriptor.digest())?;
    let saved = json!([{ "Config": config, "Layers": layers, "RepoTags": [tag.text()] }]);
    archive.file(DOCKER, &canonical(saved)).await?;
    let mut index = IndexFile::empty();
    let platform = image.platform();
    index.set(tag.tag(), &sealed.manifest_descriptor, platform.as_ref())?;
    index.set_full_name(tag.tag(), &tag.full());
    finish(archive, &index).await?;
    Ok(sealed)
}

/// Stores the blobs of an image; also gives the image with its layers known.
async fn put_image(
    archive: &mut Archive,
    image: &Image,
    progress: Progress<'_>,
) -> Result<(Image, Sealed)> {
    let mut layers = Vec::with_capacity(image.layers().len());
    for layer in image.layers() {
        layers.push(archive.layer(layer, progress).await?);
    }
    let known = image.clone().with_layers_known(layers)?;
    let sealed = known.seal()?;
    archive
        .blob(&sealed.config_descriptor, &sealed.config)
        .await?;
    archive
        .blob(&sealed.manifest_descriptor, &sealed.manifest)
        .await?;
    Ok((known, sealed))
}

async fn finish(mut archive: Archive, index: &IndexFile) -> Result<()> {
    archive.file(INDEX, &index.bytes()).await?;
    archive.file(MARKER, MARKER_TEXT.as_bytes()).await?;
    archive.finish().await
}

/// Opens an image of the archive at `path`, an OCI archive or one of `docker save`, by its name,
/// its tag or its digest, to build upon or to read. Its layers are read from the archive, which
/// must stay as it is; nothing is unpacked.
///
/// An image of a `docker save` archive without an OCI layout in it gets a manifest made from
/// its config; its compressed layers are read once for their digests.
///
/// # Errors
/// `NotFound` if there is no such image (the hint lists what there is), `Unsupported` for an
/// index of several images (see [`open_for`]) and for a compressed archive, `DigestMismatch` or
/// `Invalid` for a damaged one, and for one with more than 100 000 members.
pub async fn open(path: &Path, reference: &str) -> Result<Image> {
    choose(path, reference, None).await
}

/// As [`open`], and of an index, the image that runs best on `platform`, as
/// [`layout::open_for`](crate::layout::open_for) does.
///
/// # Errors
/// As [`layout::open_for`](crate::layout::open_for).
pub async fn open_for(path: &Path, reference: &str, platform: &Platform) -> Result<Image> {
    choose(path, reference, Some(platform)).await
}

async fn choose(path: &Path, reference: &str, wanted: Option<&Platform>) -> Result<Image> {
    let table = read_table(path).await?;
    if table.is_oci() {
        let (store, index) = (store(&table), oci_index(&table).await?);
        match store.resolve(&index, reference).await {
            Ok(descriptor) => return store.choose(&descriptor, wanted).await,
            // Docker's tags stand in the other list.
            Err(e) if e.kind() != ErrorKind::NotFound || !table.has(DOCKER) => return Err(e),
            Err(_) => {}
        }
    }
    docker::open(&table, reference, wanted).await
}

/// The names of the images in the archive at `path`: of an OCI archive those of its index, else
/// Docker's tags.
///
/// # Errors
/// As [`open`].
pub async fn references(path: &Path) -> Result<Vec<String>> {
    let table = read_table(path).await?;
    if table.is_oci() {
        let index = oci_index(&table).await?;
        return Ok(index.named().map(|(name, _)| name).collect());
    }
    docker::tags(&table).await
}

/// Validates everything in the archive at `path`, as
/// [`layout::validate`](crate::layout::validate) does a layout.
///
/// # Errors
/// As [`open`]; damage that can be described becomes a [`Problem`](crate::Problem) of the report.
pub async fn validate(path: &Path) -> Result<Report> {
    let table = read_table(path).await?;
    if table.is_oci() {
        let marker = table.small(MARKER).await?;
        check_marker(&marker, &path.display().to_string())?;
        let index = table.small(INDEX).await?;
        return crate::validate::store(&store(&table), &index).await;
    }
    let mut report = Report::default();
    for image in docker::open_all(&table).await? {
        report.merge(crate::validate(&image).await?);
    }
    Ok(report)
}

async fn read_table(path: &Path) -> Result<Table> {
    let path = path.to_owned();
    blocking(move || Table::read(&path)).await
}

async fn oci_index(table: &Table) -> Result<IndexFile> {
    let bytes = table.small(INDEX).await?;
    IndexFile::parse(&bytes, &table.object())
}

/// The blobs of the layout in an archive.
fn store(table: &Table) -> Store {
    let table = table.clone();
    Store::new(move |digest| table.find(&format!("blobs/sha256/{}", sha256_hex(digest)?)))
}

fn invalid(object: impl Into<String>, detail: impl Into<String>) -> Error {
    Error::new(ErrorKind::Invalid, "read archive", object, detail)
}

#[cfg(test)]
mod tests;
