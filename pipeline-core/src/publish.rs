//! Where images go: a registry's repository, or an OCI image layout on disk.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use modelship_image_builder::{self as image_builder, Image, Layer, Sealed, layout};
use modelship_registry::{self as registry, Blob, PinnedReference, Repository};

use crate::config::Config;
use crate::edge::Edge;
use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::event::StageTimer;
use crate::release::LayerRecord;
use crate::Stage;

/// Where images go.
#[derive(Clone, Debug)]
pub(crate) enum Publisher {
    /// A repository of a registry.
    Registry(Repository),
    /// An OCI image layout; `name` is what references call it.
    Layout { folder: PathBuf, name: String },
}

/// A published image.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    pub(crate) pinned: PinnedReference,
    pub(crate) layers: Vec<LayerRecord>,
}

impl Publisher {
    /// The publisher that the configuration names.
    pub(crate) fn from_config(config: &Config, edge: &Edge) -> Result<Self> {
        match (&config.registry.repository, &config.registry.layout) {
            (Some(name), _) => {
                let ca = match &config.registry.ca {
                    None => None,
                    Some(path) => Some(std::fs::read(path).map_err(|e| {
                        Error::io(Stage::Configure, path, e)
                            .with_hint("set `ca` in the [registry] section to a PEM file that can be read")
                    })?),
                };
                edge.repository(Stage::Push, name, ca.as_deref()).map(Self::Registry)
            }
            (None, Some(folder)) => {
                Ok(Self::Layout { folder: folder.clone(), name: format!("localhost/{}", config.app.name) })
            }
            (None, None) => Err(Error::new(ErrorKind::Invalid, Stage::Configure, "registry", "names no target")),
        }
    }

    /// The target in a few words.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Registry(repository) => repository.to_string(),
            Self::Layout { folder, .. } => folder.display().to_string(),
        }
    }

    /// The image that `tag` names, where it exists.
    pub(crate) async fn find(&self, tag: &str) -> Result<Option<PinnedReference>> {
        match self {
            Self::Registry(repository) => {
                repository.resolve(tag).await.map_err(|e| Error::step(Stage::Observe, repository, e))
            }
            Self::Layout { folder, name } => {
                let digest = layout::find(folder, tag).map_err(|e| Error::step(Stage::Observe, folder.display(), e))?;
                digest.map(|d| pinned(name, &d.to_string())).transpose()
            }
        }
    }

    /// Moves the image by digest; no tag names it yet.
    pub(crate) async fn push(&self, image: &Image, sealed: &Sealed, roles: &[&str], timer: &StageTimer) -> Result<Published> {
        let moved = Moved::default();
        let pinned = match self {
            Self::Registry(repository) => push_registry(repository, sealed, &moved, timer).await?,
            Self::Layout { folder, name } => {
                let step = |e| Error::step(Stage::Push, folder.display(), e);
                let progress = |event: image_builder::Event| {
                    timer.bytes(&event.what, event.done, event.total);
                    moved.add(&event.what, event.done);
                };
                let sealed = layout::write_blobs(folder, image, &progress).await.map_err(step)?;
                pinned(name, &sealed.manifest_descriptor.digest().to_string())?
            }
        };
        Ok(Published { pinned, layers: moved.records(&sealed.layers, roles) })
    }

    /// Lets `tag` name a pushed image.
    pub(crate) async fn tag(&self, image: &PinnedReference, tag: &str) -> Result<()> {
        match self {
            Self::Registry(repository) => {
                repository.tag(image, tag).await.map_err(|e| Error::step(Stage::Push, format!("{repository}:{tag}"), e))
            }
            Self::Layout { folder, .. } => layout::tag(folder, image.digest(), tag)
                .map_err(|e| Error::step(Stage::Push, folder.display(), e)),
        }
    }
}

async fn push_registry(
    repository: &Repository,
    sealed: &Sealed,
    moved: &Moved,
    timer: &StageTimer,
) -> Result<PinnedReference> {
    let blobs = sealed.layers.iter().map(blob).collect::<Result<Vec<_>>>()?;
    let progress = |event: registry::Event| {
        if let Some((what, done, total)) = event.bytes() {
            timer.bytes(&what, done, Some(total));
            moved.add(&what, done);
        }
    };
    let (manifest, config) = (sealed.manifest.clone(), sealed.config.clone());
    let seal = move |_: &[registry::Descriptor]| {
        Ok::<_, BoxError>(registry::Manifest::oci(manifest, config))
    };
    repository.push_image(blobs, seal, &progress).await.map_err(|e| Error::step(Stage::Push, repository, e))
}

/// A layer as the registry takes it: media type, length, digest, and how to read it.
fn blob(layer: &Layer) -> Result<Blob> {
    let descriptor = layer.descriptor().ok_or_else(|| {
        Error::new(ErrorKind::Invalid, Stage::Push, "layer", "its digest is not known yet")
    })?;
    let source = layer.clone();
    let blob = Blob::new(descriptor.media_type().to_string(), layer.len(), Arc::new(move |from| source.open(from)));
    Ok(blob.with_digest(descriptor.digest().clone()))
}

fn pinned(name: &str, digest: &str) -> Result<PinnedReference> {
    let text = format!("{name}@{digest}");
    text.parse().map_err(|e| Error::step(Stage::Push, text, e))
}

/// Counts the bytes that moved, by blob.
#[derive(Default)]
struct Moved(Mutex<BTreeMap<String, u64>>);

impl Moved {
    fn add(&self, what: &str, done: u64) {
        let mut all = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let seen = all.entry(what.to_owned()).or_default();
        *seen = (*seen).max(done);
    }

    fn records(&self, layers: &[Layer], roles: &[&str]) -> Vec<LayerRecord> {
        let all = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let record = |(layer, role): (&Layer, &&str)| {
            let digest = layer.descriptor().map(|d| d.digest().to_string()).unwrap_or_default();
            let moved = all.get(&digest).copied().unwrap_or(0);
            LayerRecord { role: (*role).to_owned(), digest, size: layer.len(), moved }
        };
        layers.iter().zip(roles).map(record).collect()
    }
}
