//! Where images go: a registry's repository, or an OCI image layout on disk.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;

use modelship_image_builder::{self as image_builder, Image, Layer, MediaType, Sealed, layout};
use modelship_registry::{self as registry, Blob, PinnedReference, Repository};

use crate::Stage;
use crate::config::Config;
use crate::edge::Edge;
use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::event::StageTimer;
use crate::release::LayerRecord;

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
    pub(crate) async fn from_config(config: &Config, edge: &Edge) -> Result<Self> {
        match (&config.registry.repository, &config.registry.layout) {
            (Some(name), _) => {
                let ca = match &config.registry.ca {
                    None => None,
                    Some(path) => Some(std::fs::read(path).map_err(|e| {
                        Error::io(Stage::Configure, path, e).with_hint(
                            "set `ca` in the [registry] section to a PEM file that can be read",
                        )
                    })?),
                };
                let mut edge = edge.clone();
                // A killed push goes on in the next run, where the registry keeps what it has.
                let journal = &mut edge.registry.journal;
                journal.get_or_insert_with(|| config.state.join("uploads"));
                edge.repository(Stage::Push, name, ca.as_deref())
                    .await
                    .map(Self::Registry)
            }
            (None, Some(folder)) => Ok(Self::Layout {
                folder: folder.clone(),
                name: format!("localhost/{}", config.app.name),
            }),
            (None, None) => Err(Error::new(
                ErrorKind::Invalid,
                Stage::Configure,
                "registry",
                "names no target",
            )),
        }
    }

    /// The target in a few words.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Registry(repository) => repository.name(),
            Self::Layout { folder, .. } => folder.display().to_string(),
        }
    }

    /// The image that `tag` names, where it exists.
    pub(crate) async fn find(&self, tag: &str) -> Result<Option<PinnedReference>> {
        match self {
            Self::Registry(repository) => repository
                .resolve(tag)
                .await
                .map_err(|e| Error::step(Stage::Observe, repository.name(), e)),
            Self::Layout { folder, name } => {
                if !folder.join("index.json").is_file() {
                    return Ok(None);
                }
                let step = |e| Error::step(Stage::Observe, folder.display(), e);
                let all = layout::references(folder).await.map_err(step)?;
                let found = all.into_iter().find(|(name, _)| name == tag);
                found
                    .map(|(_, d)| pinned(name, d.digest().as_ref()))
                    .transpose()
            }
        }
    }

    /// Moves an image that passed its tests, by digest, and then lets `tags` name it.
    pub(crate) async fn publish(
        &self,
        image: &Image,
        sealed: &Sealed,
        tags: &[String],
        timer: &StageTimer,
    ) -> Result<Published> {
        let moved = Moved::default();
        let pinned = match self {
            Self::Registry(repository) => {
                let pinned = push_registry(repository, sealed, &moved, timer).await?;
                for tag in tags {
                    let step =
                        |e| Error::step(Stage::Push, format!("{}:{tag}", repository.name()), e);
                    repository.tag(&pinned, tag).await.map_err(step)?;
                }
                pinned
            }
            Self::Layout { folder, name } => {
                write_layout(folder, image, tags, &moved, timer).await?;
                pinned(name, sealed.manifest_descriptor.digest().as_ref())?
            }
        };
        Ok(Published {
            pinned,
            layers: moved.records(&sealed.layers),
        })
    }
}

/// A layout's blobs stay only where a name keeps them, so the first tag brings the image along.
async fn write_layout(
    folder: &std::path::Path,
    image: &Image,
    tags: &[String],
    moved: &Moved,
    timer: &StageTimer,
) -> Result<()> {
    let progress = |event: image_builder::Event| match event {
        image_builder::Event::Moved {
            object,
            done,
            total,
        } => timer.bytes(&object, done, Some(total)),
        image_builder::Event::Stored { digest, size } => moved.add(&digest, size),
        _ => {}
    };
    for tag in tags {
        layout::write(folder, image, tag, &progress)
            .await
            .map_err(|e| Error::step(Stage::Push, folder.display(), e))?;
    }
    Ok(())
}

async fn push_registry(
    repository: &Repository,
    sealed: &Sealed,
    moved: &Moved,
    timer: &StageTimer,
) -> Result<PinnedReference> {
    let blobs = sealed.layers.iter().map(blob).collect::<Result<Vec<_>>>()?;
    let digests: Vec<String> = sealed.layers.iter().map(digest_of).collect();
    let progress = |event: registry::Event| match event {
        registry::Event::Uploading { blob, done, total } => {
            let what = digests.get(blob).map_or("config", String::as_str);
            timer.bytes(what, done, Some(total));
        }
        registry::Event::Uploaded { digest, sent, .. } => moved.add(digest.as_ref(), sent),
        registry::Event::Retrying {
            attempt, reason, ..
        } => timer.note(format!("try {attempt} failed: {reason}")),
        _ => {}
    };
    let (manifest, config) = (sealed.manifest.clone(), sealed.config.clone());
    let seal = move |_: &[image_builder::Descriptor]| {
        Ok::<_, BoxError>(registry::Manifest {
            media_type: MediaType::ImageManifest.to_string(),
            bytes: manifest,
            config,
            config_media_type: MediaType::ImageConfig.to_string(),
        })
    };
    repository
        .push_image(blobs, seal, &progress)
        .await
        .map_err(|e| Error::step(Stage::Push, repository.name(), e))
}

/// A layer as the registry takes it: media type, length, digest, and how to read it.
fn blob(layer: &Layer) -> Result<Blob> {
    let descriptor = layer.descriptor().ok_or_else(|| {
        Error::new(
            ErrorKind::Invalid,
            Stage::Push,
            "layer",
            "its digest is not known yet",
        )
    })?;
    let source = layer.clone();
    let blob = Blob::new(
        descriptor.media_type().to_string(),
        layer.len(),
        move |from| source.open(from),
    );
    Ok(blob.with_digest(descriptor.digest().clone()))
}

fn digest_of(layer: &Layer) -> String {
    layer
        .descriptor()
        .map(|d| d.digest().to_string())
        .unwrap_or_default()
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
        let mut all = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let seen = all.entry(what.to_owned()).or_default();
        *seen = (*seen).max(done);
    }

    fn records(&self, layers: &[Layer]) -> Vec<LayerRecord> {
        let all = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let record = |layer: &Layer| {
            let digest = digest_of(layer);
            let moved = all.get(&digest).copied().unwrap_or(0);
            LayerRecord {
                role: String::new(),
                digest,
                size: layer.len(),
                moved,
            }
        };
        layers.iter().map(record).collect()
    }
}
