//! The locked model: fetched once, verified as it flows, and turned into layers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::StreamExt as _;
use modelship_image_builder::{
    self as image_builder, Content, Layer, LayerFile, PlanOptions, plan,
};
use modelship_model_store::{ModelFile, ModelStore, ModelVersion};

use crate::Stage;
use crate::arrival::{self, Announced};
use crate::cache::{self, Cache};
use crate::error::{Error, Result};
use crate::event::StageTimer;

/// A model version whose files are on this machine, and the layers that hold it.
#[derive(Clone, Debug)]
pub(crate) struct FetchedModel {
    folder: PathBuf,
    layers: Vec<Layer>,
}

/// Whether every file of `model` is already here.
pub(crate) fn is_cached(model: &ModelVersion, cache: &Cache) -> Result<bool> {
    Ok(target(model, cache)?.is_dir())
}

fn target(model: &ModelVersion, cache: &Cache) -> Result<PathBuf> {
    let name = model.tree_digest().trim_start_matches("sha256:").to_owned();
    Ok(cache.folder(Stage::Fetch, "models")?.join(name))
}

/// Fetches `model` into the cache, or finds it there, and makes the layers that hold it below
/// `mount`, with their digests known. The store verifies each file's SHA-256; the layers are
/// hashed while the files arrive, so that the store is read once and the disk not at all.
pub(crate) async fn fetch(
    store: &ModelStore,
    model: &ModelVersion,
    cache: &Cache,
    (mount, timer): (&str, &StageTimer),
) -> Result<FetchedModel> {
    let folder = target(model, cache)?;
    let on_disk = |file: &ModelFile| Content::file(folder.join(&file.path));
    if folder.is_dir() {
        let layers = measure(model, &layers(model, mount, on_disk)?).await?;
        return Ok(FetchedModel { folder, layers });
    }
    let parent = cache.folder(Stage::Fetch, "models")?;
    let temporary = cache::fresh_folder(Stage::Fetch, &parent)?;
    let (mut announced, mut arriving) = (Vec::new(), BTreeMap::new());
    for file in model.files() {
        let (writer, reader) = arrival::expect(&temporary.path().join(&file.path), file.size);
        announced.push((file, writer));
        arriving.insert(&file.path, reader);
    }
    // In the order of the layers, so that what arrives is what is hashed next.
    let own_layer = PlanOptions::default().own_layer;
    announced.sort_by_key(|(file, _)| file.size < own_layer);
    let unread = layers(model, mount, |file| {
        let reader = arriving[&file.path].clone();
        Ok(Content::stream(file.size, move |from| reader.open(from)))
    })?;
    let copied = copy_all(store, model, announced, timer);
    let ((), measured) = tokio::try_join!(copied, measure(model, &unread))?;
    cache::settle(Stage::Fetch, temporary, &folder)?;
    let step = |e| Error::step(Stage::Fetch, model.url(), e);
    let known = layers(model, mount, on_disk)?.into_iter().zip(measured);
    let layers = known
        .map(|(layer, found)| match found.descriptor() {
            Some(found) => layer.with_digest(found.digest().clone()).map_err(step),
            None => Ok(layer),
        })
        .collect::<Result<_>>()?;
    Ok(FetchedModel { folder, layers })
}

async fn copy_all(
    store: &ModelStore,
    model: &ModelVersion,
    files: Vec<(&ModelFile, Announced)>,
    timer: &StageTimer,
) -> Result<()> {
    let mut done = 0;
    for (file, announced) in files {
        done = copy(store, model, (file, announced), (done, timer)).await?;
    }
    Ok(())
}

async fn copy(
    store: &ModelStore,
    model: &ModelVersion,
    (file, announced): (&ModelFile, Announced),
    (mut done, timer): (u64, &StageTimer),
) -> Result<u64> {
    let name = &file.path;
    let step = |e| Error::step(Stage::Fetch, format!("{} {name}", model.url()), e);
    let io = |e| Error::io(Stage::Fetch, Path::new(name), e);
    let mut stream = store.read(model, name, 0).map_err(step)?;
    let mut arrival = announced.create().map_err(io)?;
    while let Some(chunk) = stream.next().await {
        let chunk: Bytes = chunk.map_err(|e| stream_error(model, name, e))?;
        done += chunk.len() as u64;
        arrival.write(chunk).await.map_err(io)?;
        timer.bytes(name, done, Some(model.total_size()));
    }
    Ok(done)
}

/// Reads each layer through once, so that its digest can be asked for by HEAD.
async fn measure(model: &ModelVersion, layers: &[Layer]) -> Result<Vec<Layer>> {
    let mut known = Vec::with_capacity(layers.len());
    for layer in layers {
        let measured = layer.measure().await;
        known.push(measured.map_err(|e| Error::step(Stage::Fetch, model.url(), e))?);
    }
    Ok(known)
}

/// The store's stream carries its error boxed; unboxed it keeps its hint.
fn stream_error(model: &ModelVersion, name: &str, error: crate::BoxError) -> Error {
    let object = format!("{} {name}", model.url());
    match error.downcast::<modelship_model_store::Error>() {
        Ok(own) => Error::step(Stage::Fetch, object, *own),
        Err(other) => Error::new(
            crate::ErrorKind::Step,
            Stage::Fetch,
            object,
            other.to_string(),
        ),
    }
}

impl FetchedModel {
    /// Where the files are on this machine.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The model's layers; their digests are known.
    pub(crate) fn layers(&self) -> &[Layer] {
        &self.layers
    }
}

/// The layers that hold the model below `mount`: one for each large file, then bundles.
fn layers(
    model: &ModelVersion,
    mount: &str,
    content: impl Fn(&ModelFile) -> image_builder::Result<Content>,
) -> Result<Vec<Layer>> {
    let step = |e| Error::step(Stage::Assemble, model.url(), e);
    let mount = mount.trim_end_matches('/');
    let mut files = Vec::with_capacity(model.files().len());
    for file in model.files() {
        let content = content(file).map_err(step)?;
        files.push(LayerFile::new(format!("{mount}/{}", file.path), content));
    }
    let history = format!("modelship model {} {}", model.name(), model.version());
    let mut layers = Vec::new();
    for tree in plan(files, &PlanOptions::default()).map_err(step)? {
        layers.push(Layer::tree(tree).map_err(step)?.with_history(&history));
    }
    Ok(layers)
}
