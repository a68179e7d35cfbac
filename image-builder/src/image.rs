//! An image: a config and layers, immutable; every change gives a new one.

mod surgery;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use oci_spec::image::{Descriptor, Digest, MediaType};
use serde_json::{Value, json};

use crate::config::{CREATED, Config, ConfigEdit, Entry, canonical};
use crate::error::{Error, ErrorKind, Result};
use crate::hash::{digest, verify};
use crate::layer::Layer;
use crate::manifest::{Manifest, OCI_MANIFEST};
use crate::platform::Platform;
use crate::stream::ByteStream;

/// An image in the making, or one opened to be built upon.
///
/// An image that was opened and not changed seals to the very bytes it was opened from.
#[derive(Clone, Debug)]
pub struct Image {
    config: Config,
    layers: Vec<Layer>,
    /// How many of the layers, from the bottom, came with the base.
    base: usize,
    /// Which of those are ours instead, by their place from the bottom.
    replaced: BTreeSet<usize>,
    /// The annotations of the manifest that was opened.
    opened: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    created: String,
    /// The bytes of an unchanged OCI image.
    original: Option<Original>,
}

#[derive(Clone, Debug)]
struct Original {
    manifest: Bytes,
    config: Bytes,
}

/// An image as the bytes that are digested: nothing in it can change any more.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Sealed {
    /// The manifest.
    pub manifest: Bytes,
    /// Its descriptor.
    pub manifest_descriptor: Descriptor,
    /// The config.
    pub config: Bytes,
    /// Its descriptor.
    pub config_descriptor: Descriptor,
    /// The layers from bottom to top, all of them known.
    pub layers: Vec<Layer>,
}

impl Image {
    /// An image without layers.
    ///
    /// Its user is `65532:65532`, not root: say [`ConfigEdit::root`] where a program needs to be
    /// root, or [`ConfigEdit::user`] for another user. An image that is opened keeps its own.
    pub fn scratch(platform: &Platform) -> Self {
        Self {
            config: Config::new(platform),
            layers: Vec::new(),
            base: 0,
            replaced: BTreeSet::new(),
            opened: BTreeMap::new(),
            annotations: BTreeMap::new(),
            created: CREATED.to_owned(),
            original: None,
        }
    }

    /// An image from the bytes of its manifest and config. `open(descriptor, from)` gives a
    /// layer's stored bytes from offset `from` on; nothing is read until a layer is.
    ///
    /// A Docker image (schema 2) becomes an OCI one: the layers' bytes stay, all media types
    /// change. The manifest's annotations describe the base's own build, so they are not taken
    /// over into an image built upon it.
    ///
    /// # Errors
    /// `Unsupported` for an index, an artifact or an old manifest, `DigestMismatch` if the config
    /// is not the one the manifest names, `Invalid` if either is malformed.
    pub fn from_parts(
        manifest: &[u8],
        config: &[u8],
        open: impl Fn(&Descriptor, u64) -> ByteStream + Send + Sync + 'static,
    ) -> Result<Self> {
        let parsed = Manifest::parse(manifest)?;
        let stated = (parsed.config.digest(), parsed.config.size());
        verify("config", stated, (&digest(config), config.len() as u64))?;
        let json = Config::parse(config, parsed.layers.len())?;
        let open = Arc::new(open);
        let mut layers = Vec::with_capacity(parsed.layers.len());
        for (descriptor, diff_id) in parsed.layers.iter().zip(json.diff_ids()) {
            let diff_id: Digest = diff_id.parse().map_err(|e| {
                let detail = "a diff id in it is no digest";
                Error::new(ErrorKind::Invalid, "read image", "config", detail).with_source(e)
            })?;
            let (open, source) = (Arc::clone(&open), descriptor.clone());
            let open = move |from| open(&source, from);
            layers.push(Layer::known(descriptor.clone(), diff_id, open));
        }
        let original = parsed.is_oci.then(|| Original {
            manifest: Bytes::copy_from_slice(manifest),
            config: Bytes::copy_from_slice(config),
        });
        Ok(Self {
            config: json,
            base: layers.len(),
            layers,
            replaced: BTreeSet::new(),
            opened: parsed.annotations,
            annotations: BTreeMap::new(),
            created: CREATED.to_owned(),
            original,
        })
    }

    /// Adds a layer on top.
    #[must_use]
    pub fn with_layer(mut self, layer: Layer) -> Self {
        self.original = None;
        self.layers.push(layer);
        self
    }

    /// Edits what a container of the image runs with.
    #[must_use]
    pub fn with_config(mut self, edit: impl FnOnce(&mut ConfigEdit) -> &mut ConfigEdit) -> Self {
        self.original = None;
        self.config.edit(edit);
        self
    }

    /// Adds an annotation to the manifest, such as `org.opencontainers.image.base.digest`.
    #[must_use]
    pub fn with_annotation(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.original = None;
        self.annotations.insert(key.into(), value.into());
        self
    }

    /// Sets the creation time of the config and the new history entries, in RFC 3339; without
    /// it, a second after the epoch.
    #[must_use]
    pub fn with_created(mut self, rfc3339: impl Into<String>) -> Self {
        self.original = None;
        self.created = rfc3339.into();
        self
    }

    /// Takes over the annotations of the manifest that was opened, for an image that is mended
    /// rather than built upon. Those set already stay.
    #[must_use]
    pub fn with_annotations_kept(mut self) -> Self {
        for (key, value) in self.opened.clone() {
            self.annotations.entry(key).or_insert(value);
        }
        self
    }

    /// The annotations of the manifest: those that were set or kept, or, of an image that was
    /// opened and not changed, its own.
    pub fn annotations(&self) -> &BTreeMap<String, String> {
        if self.original.is_some() {
            &self.opened
        } else {
            &self.annotations
        }
    }

    /// The layers from bottom to top.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The platform the config states.
    pub fn platform(&self) -> Option<Platform> {
        self.config.platform()
    }

    /// A container setting by its name in the specification, such as `Entrypoint` or `Env`.
    pub fn setting(&self, name: &str) -> Option<&Value> {
        self.config.container()?.get(name)
    }

    /// The same image with its layers known: `layers` are those of [`Image::layers`], in order,
    /// with the digests found while they were moved.
    ///
    /// # Errors
    /// `Invalid` if the layers are not the same in number, length and type, `DigestMismatch` if
    /// a digest that was known has changed.
    pub fn with_layers_known(mut self, layers: Vec<Layer>) -> Result<Self> {
        let detail = "the known layers are not the layers of this image";
        let differ = || Error::new(ErrorKind::Invalid, "seal image", "layers", detail);
        if layers.len() != self.layers.len() {
            return Err(differ());
        }
        for (old, new) in self.layers.iter().zip(&layers) {
            if old.len() != new.len() || old.media_type() != new.media_type() {
                return Err(differ());
            }
            if let Some(found) = new.descriptor() {
                old.with_digest(found.digest().clone())?;
            }
        }
        self.layers = layers;
        Ok(self)
    }

    /// The exact bytes of config and manifest. Pure: the same image gives the same bytes.
    ///
    /// # Errors
    /// `Invalid` if the digest of a layer is not known yet.
    pub fn seal(&self) -> Result<Sealed> {
        let mut descriptors = Vec::with_capacity(self.layers.len());
        let mut entries = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let (Some(descriptor), Some(diff_id)) = (layer.descriptor(), layer.diff_id()) else {
                let detail = "its digest is not known";
                let error = Error::new(ErrorKind::Invalid, "seal image", layer.history(), detail);
                return Err(error.with_hint("measure the layer, or write the image to a layout"));
            };
            descriptors.push(descriptor);
            entries.push(Entry {
                diff_id: diff_id.to_string(),
                created_by: layer.history().to_owned(),
            });
        }
        let (manifest, config) = if let Some(original) = &self.original {
            (original.manifest.clone(), original.config.clone())
        } else {
            let base = (self.base, &self.replaced);
            let config = Bytes::from(self.config.seal(&self.created, &entries, base));
            (self.manifest(&config, &descriptors)?, config)
        };
        Ok(Sealed {
            manifest_descriptor: descriptor(MediaType::ImageManifest, &manifest),
            config_descriptor: descriptor(MediaType::ImageConfig, &config),
            manifest,
            config,
            layers: self.layers.clone(),
        })
    }

    fn manifest(&self, config: &Bytes, layers: &[Descriptor]) -> Result<Bytes> {
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": to_json(&descriptor(MediaType::ImageConfig, config))?,
            "layers": layers.iter().map(to_json).collect::<Result<Vec<_>>>()?,
        });
        if !self.annotations.is_empty() {
            manifest["annotations"] = json!(self.annotations);
        }
        Ok(Bytes::from(canonical(manifest)))
    }
}

pub(crate) fn descriptor(media_type: MediaType, bytes: &Bytes) -> Descriptor {
    Descriptor::new(media_type, bytes.len() as u64, digest(bytes))
}

pub(crate) fn to_json(descriptor: &Descriptor) -> Result<Value> {
    serde_json::to_value(descriptor).map_err(|e| {
        let object = descriptor.digest().to_string();
        Error::new(
            ErrorKind::Invalid,
            "seal image",
            object,
            "the descriptor is no JSON",
        )
        .with_source(e)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Tree;

    fn layer(name: &str) -> Layer {
        let mut tree = Tree::new();
        tree.insert_bytes(name, 0o644, name.to_owned()).unwrap();
        Layer::tree(tree).unwrap()
    }

    async fn sample() -> Image {
        let known = layer("a").measure().await.unwrap();
        let known = known.with_annotation("z", "1").with_annotation("a", "2");
        Image::scratch(&Platform::linux("amd64").unwrap())
            .with_layer(known)
            .with_config(|c| c.entrypoint(["/a"]).env("K", "V").root())
            .with_annotation("org.opencontainers.image.base.name", "scratch.invalid/x")
    }

    #[tokio::test]
    async fn sealing_is_pure_and_golden() {
        let first = sample().await.seal().unwrap();
        for _ in 0..20 {
            let again = sample().await.seal().unwrap();
            assert_eq!(again.manifest, first.manifest);
            assert_eq!(again.config, first.config);
        }
        let golden = "sha256:a60adc1836996590f161dbb78c27f38d65a7949762dbda76e6d6b93d552f0546";
        assert_eq!(first.manifest_descriptor.digest().to_string(), golden);
    }

    #[tokio::test]
    async fn an_unknown_layer_cannot_be_sealed() {
        let image = sample().await.with_layer(layer("b"));
        assert_eq!(image.seal().unwrap_err().kind(), ErrorKind::Invalid);
        let mut known = vec![];
        for layer in image.layers() {
            known.push(layer.measure().await.unwrap());
        }
        let sealed = image
            .clone()
            .with_layers_known(known.clone())
            .unwrap()
            .seal()
            .unwrap();
        assert_eq!(sealed.layers.len(), 2);
        known.pop();
        assert!(image.with_layers_known(known).is_err());
    }

    #[tokio::test]
    async fn an_unchanged_image_keeps_its_bytes_and_a_changed_one_its_layers() {
        let sealed = sample().await.seal().unwrap();
        // A different but valid spelling of the same manifest.
        let spaced = String::from_utf8(sealed.manifest.to_vec())
            .unwrap()
            .replace("\":", "\": ");
        let open = |_: &Descriptor, _| crate::stream::of_bytes(&Bytes::new(), 0);
        let opened = Image::from_parts(spaced.as_bytes(), &sealed.config, open).unwrap();
        assert_eq!(opened.seal().unwrap().manifest, spaced.as_bytes());
        let more = opened.with_layer(layer("b").measure().await.unwrap());
        let config = more.seal().unwrap().config;
        let config = Config::parse(&config, 2).unwrap();
        assert_eq!(config.history_layers(), 2);
    }

    #[tokio::test]
    async fn a_docker_image_becomes_an_oci_image_throughout() {
        let sealed = sample().await.seal().unwrap();
        let docker = String::from_utf8(sealed.manifest.to_vec()).unwrap();
        let docker = docker
            .replace(
                "vnd.oci.image.manifest.v1",
                "vnd.docker.distribution.manifest.v2",
            )
            .replace("vnd.oci.image.config.v1", "vnd.docker.container.image.v1")
            .replace(
                "vnd.oci.image.layer.v1.tar",
                "vnd.docker.image.rootfs.diff.tar",
            );
        let open = |_: &Descriptor, _| crate::stream::of_bytes(&Bytes::new(), 0);
        let image = Image::from_parts(docker.as_bytes(), &sealed.config, open).unwrap();
        let text = String::from_utf8(image.seal().unwrap().manifest.to_vec()).unwrap();
        assert!(!text.contains("docker"), "{text}");
    }

    #[tokio::test]
    async fn a_foreign_config_is_refused() {
        let sealed = sample().await.seal().unwrap();
        let open = |_: &Descriptor, _| crate::stream::of_bytes(&Bytes::new(), 0);
        let error = Image::from_parts(&sealed.manifest, b"{}", open).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DigestMismatch);
    }
}
