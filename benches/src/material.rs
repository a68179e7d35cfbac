//! What all contenders work on: the same weights in a model store and as a finished tar layer.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream;
use modelship_image_builder::{Image, Layer, Platform, layout};
use modelship_model_store::{ModelStore, ModelVersion, PublishOptions, StoreOptions, StoreUrl};
use tempfile::TempDir;

use crate::{Result, weights};

/// The file of the model.
pub(crate) const FILE: &str = "weights.bin";
/// Where the file is in the image.
pub(crate) const IN_IMAGE: &str = "/models/weights.bin";

/// The weights, ready to be pushed in every way.
pub(crate) struct Material {
    /// The store and its only version.
    pub(crate) store: ModelStore,
    pub(crate) model: Arc<ModelVersion>,
    /// An OCI layout of an image whose only layer is `tar`.
    pub(crate) layout: PathBuf,
    /// The layer as a file; its digest and length are those our push must arrive at.
    pub(crate) tar: PathBuf,
    pub(crate) digest: String,
    pub(crate) size: u64,
    folder: TempDir,
}

impl Material {
    /// Makes `mib` MiB of weights, publishes them, and writes the layer to disk once.
    pub(crate) async fn prepare(mib: u64) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (store, model) = publish(folder.path(), mib).await?;
        let layout = folder.path().join("layout");
        let digest = write_layout(&layout, layer(&store, &model)?).await?;
        let hex = digest.trim_start_matches("sha256:");
        let tar = layout.join("blobs/sha256").join(hex);
        let size = std::fs::metadata(&tar)?.len();
        // Later runs must not compete with the writing back of these files.
        std::fs::File::open(&tar)?.sync_all()?;
        Ok(Self {
            store,
            model,
            layout,
            tar,
            digest,
            size,
            folder,
        })
    }

    /// The folder in which the store keeps the model's file, for peers that take a file.
    pub(crate) fn stored_in(&self) -> Result<PathBuf> {
        let mut folders = vec![self.folder.path().join("models")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                } else if entry.file_name() == FILE {
                    return Ok(folder);
                }
            }
        }
        Err("the store's folder does not hold the model's file".into())
    }

    /// The layer of ours: nothing of it is read yet.
    pub(crate) fn layer(&self) -> Result<Layer> {
        layer(&self.store, &self.model)
    }
}

async fn publish(folder: &Path, mib: u64) -> Result<(ModelStore, Arc<ModelVersion>)> {
    let source = folder.join("source");
    std::fs::create_dir(&source)?;
    let file = source.join(FILE);
    tokio::task::spawn_blocking(move || weights::write(&file, mib)).await??;
    let models = folder.join("models");
    std::fs::create_dir(&models)?;
    let url = StoreUrl::from_dir(&models, "weights")?;
    let store = ModelStore::open(&url, &StoreOptions::default())?;
    let options = PublishOptions::default();
    let model = store.publish(&source, "1.0.0", options, &drop).await?;
    std::fs::remove_dir_all(&source)?;
    Ok((store, Arc::new(model)))
}

/// The model's file as a layer of its own.
pub(crate) fn layer(store: &ModelStore, model: &Arc<ModelVersion>) -> Result<Layer> {
    let (store, model) = (store.clone(), Arc::clone(model));
    let size = model.total_size();
    let open = move |from| match store.read(&model, FILE, from) {
        Ok(bytes) => bytes,
        Err(error) => stream::iter([Err(error.into())]).boxed(),
    };
    Ok(Layer::stream(IN_IMAGE, size, open)?)
}

/// Writes an image of the layer alone and returns the layer's digest.
async fn write_layout(layout: &Path, layer: Layer) -> Result<String> {
    let image = Image::scratch(&Platform::linux("amd64")?).with_layer(layer);
    let sealed = layout::write(layout, &image, "latest", &drop).await?;
    let descriptor = sealed.layers.first().and_then(Layer::descriptor);
    let descriptor = descriptor.ok_or("the written layer has no digest")?;
    Ok(descriptor.digest().to_string())
}
