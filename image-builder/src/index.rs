//! An image index: one name for the images of several platforms (image-spec, image-index.md).

use std::collections::BTreeMap;

use bytes::Bytes;
use oci_spec::image::{Descriptor, MediaType};
use serde_json::json;

use crate::config::canonical;
use crate::error::{Error, ErrorKind, Result};
use crate::image::{Image, Sealed, descriptor, to_json};
use crate::manifest::OCI_INDEX;
use crate::platform::Platform;

/// Images of several platforms under one digest.
///
/// An index is written with [`layout::write_index`](crate::layout::write_index) or
/// [`tarball::write_oci_index`](crate::tarball::write_oci_index). Its entries are sorted by
/// platform, so the order in which images are added does not show.
#[derive(Clone, Debug, Default)]
pub struct Index {
    images: BTreeMap<Platform, Image>,
    annotations: BTreeMap<String, String>,
}

/// An index as the bytes that are digested, with its images.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SealedIndex {
    /// The index.
    pub index: Bytes,
    /// Its descriptor.
    pub index_descriptor: Descriptor,
    /// The images in the order of the index.
    pub images: Vec<Sealed>,
}

impl Index {
    /// An index without images.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an image for the platform that its config states.
    ///
    /// # Errors
    /// `Invalid` if the config states no platform, `Conflict` if there is an image for it
    /// already; `linux/arm64` and `linux/arm64/v8` are the same.
    pub fn with(mut self, image: Image) -> Result<Self> {
        let Some(platform) = image.platform() else {
            let detail = "its config does not state a platform";
            return Err(Error::new(
                ErrorKind::Invalid,
                "build index",
                "image",
                detail,
            ));
        };
        if self.images.insert(platform.normalised(), image).is_some() {
            let (object, detail) = (platform.to_string(), "two images are for this platform");
            let error = Error::new(ErrorKind::Conflict, "build index", object, detail);
            return Err(error.with_hint("put one image per platform into an index"));
        }
        Ok(self)
    }

    /// Adds an annotation to the index.
    #[must_use]
    pub fn with_annotation(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.annotations.insert(key.into(), value.into());
        self
    }

    /// The images in the order of the index.
    pub fn images(&self) -> impl Iterator<Item = &Image> {
        self.images.values()
    }

    /// The same index with its images' layers known, given in the order of [`Index::images`].
    pub(crate) fn with_images_known(mut self, images: Vec<Image>) -> Self {
        for (slot, image) in self.images.values_mut().zip(images) {
            *slot = image;
        }
        self
    }

    /// The exact bytes of the index and of everything in it. Pure, as [`Image::seal`] is.
    ///
    /// # Errors
    /// As [`Image::seal`].
    pub fn seal(&self) -> Result<SealedIndex> {
        let mut entries = Vec::with_capacity(self.images.len());
        let mut images = Vec::with_capacity(self.images.len());
        for image in self.images.values() {
            let sealed = image.seal()?;
            let mut entry = to_json(&sealed.manifest_descriptor)?;
            if let Some(platform) = image.platform() {
                entry["platform"] = platform.to_json();
            }
            entries.push(entry);
            images.push(sealed);
        }
        let mut index = json!({
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
            "manifests": entries,
        });
        if !self.annotations.is_empty() {
            index["annotations"] = json!(self.annotations);
        }
        let index = Bytes::from(canonical(index));
        Ok(SealedIndex {
            index_descriptor: descriptor(MediaType::ImageIndex, &index),
            index,
            images,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(platform: &str) -> Image {
        Image::scratch(&platform.parse().unwrap())
    }

    #[test]
    fn order_of_adding_does_not_show_and_a_platform_comes_once() {
        let platforms = ["linux/arm64/v8", "linux/amd64", "linux/arm/v7"];
        let build = |order: [usize; 3]| {
            let add = |index: Index, at| index.with(image(platforms[at])).unwrap();
            order.into_iter().fold(Index::new(), add).seal().unwrap()
        };
        let first = build([0, 1, 2]);
        assert_eq!(build([2, 1, 0]).index, first.index);
        let golden = "sha256:ba365c7e4796928ef64dabc20a89c3ad2e255c09e4937df215b219adb51067c2";
        assert_eq!(first.index_descriptor.digest().to_string(), golden);
        let text = std::str::from_utf8(&first.index).unwrap();
        let at = |name: &str| text.find(name).unwrap();
        assert!(at("\"amd64\"") < at("\"arm\"") && at("\"arm\"") < at("\"arm64\""));
        let twice = Index::new()
            .with(image("linux/arm64"))
            .unwrap()
            .with(image("linux/arm64/v8"));
        assert_eq!(twice.unwrap_err().kind(), ErrorKind::Conflict);
    }
}
