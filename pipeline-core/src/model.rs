//! The locked model: fetched once, verified as it flows, and turned into layers.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::StreamExt as _;
use modelship_image_builder::{Content, Layer, LayerFile, PlanOptions, plan};
use modelship_model_store::{ModelStore, ModelVersion};
use tokio::io::AsyncWriteExt as _;

use crate::Stage;
use crate::cache::{self, Cache};
use crate::error::{Error, Result};
use crate::event::StageTimer;

/// A model version whose files are on this machine.
#[derive(Clone, Debug)]
pub(crate) struct FetchedModel {
    folder: PathBuf,
    version: ModelVersion,
}

/// Whether every file of `model` is already here.
pub(crate) fn is_cached(model: &ModelVersion, cache: &Cache) -> Result<bool> {
    Ok(target(model, cache)?.is_dir())
}

fn target(model: &ModelVersion, cache: &Cache) -> Result<PathBuf> {
    let name = model.tree_digest().trim_start_matches("sha256:").to_owned();
    Ok(cache.folder(Stage::Fetch, "models")?.join(name))
}

/// Fetches `model` into the cache, or finds it there. The store verifies each file's SHA-256.
pub(crate) async fn fetch(
    store: &ModelStore,
    model: &ModelVersion,
    cache: &Cache,
    timer: &StageTimer,
) -> Result<FetchedModel> {
    let folder = target(model, cache)?;
    if !folder.is_dir() {
        let parent = cache.folder(Stage::Fetch, "models")?;
        let temporary = cache::fresh_folder(Stage::Fetch, &parent)?;
        let mut done = 0;
        for file in model.files() {
            let path = temporary.path().join(&file.path);
            done = copy(store, model, &file.path, &path, (done, timer)).await?;
        }
        cache::settle(Stage::Fetch, temporary, &folder)?;
    }
    Ok(FetchedModel {
        folder,
        version: model.clone(),
    })
}

async fn copy(
    store: &ModelStore,
    model: &ModelVersion,
    name: &str,
    path: &Path,
    (mut done, timer): (u64, &StageTimer),
) -> Result<u64> {
    let step = |e| Error::step(Stage::Fetch, format!("{} {name}", model.url()), e);
    let io = |e| Error::io(Stage::Fetch, path, e);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(io)?;
    }
    let mut stream = store.read(model, name, 0).map_err(step)?;
    let mut file = tokio::fs::File::create_new(path).await.map_err(io)?;
    while let Some(chunk) = stream.next().await {
        let chunk: Bytes = chunk.map_err(|e| stream_error(model, name, e))?;
        file.write_all(&chunk).await.map_err(io)?;
        done += chunk.len() as u64;
        timer.bytes(name, done, Some(model.total_size()));
    }
    file.flush().await.map_err(io)?;
    Ok(done)
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

    /// The layers that hold the model below `mount`: one for each large file, then bundles.
    pub(crate) fn layers(&self, mount: &str) -> Result<Vec<Layer>> {
        let step = |e| Error::step(Stage::Assemble, self.version.url(), e);
        let mount = mount.trim_end_matches('/');
        let mut files = Vec::with_capacity(self.version.files().len());
        for file in self.version.files() {
            let content = Content::file(self.folder.join(&file.path)).map_err(step)?;
            files.push(LayerFile::new(format!("{mount}/{}", file.path), content));
        }
        let history = format!(
            "modelship model {} {}",
            self.version.name(),
            self.version.version()
        );
        let mut layers = Vec::new();
        for tree in plan(files, &PlanOptions::default()).map_err(step)? {
            layers.push(Layer::tree(tree).map_err(step)?.with_history(&history));
        }
        Ok(layers)
    }
}
