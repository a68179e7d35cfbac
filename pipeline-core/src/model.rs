//! The locked model: fetched once, verified as it flows, and turned into layers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use modelship_image_builder::{
    self as image_builder, Content, Layer, LayerFile, PlanOptions, plan,
};
use modelship_model_store::{
    Arriving, CachedModel, FetchEvent, FetchOptions, ModelFile, ModelStore, ModelVersion,
};

use crate::Stage;
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
    let files = cache.model_files(Stage::Plan)?;
    let found = files.contains(model);
    found.map_err(|e| Error::step(Stage::Plan, model.url(), e))
}

/// Fetches `model`, whose files nobody states digests of, and says what was found.
pub(crate) async fn seal(
    store: &ModelStore,
    model: &ModelVersion,
    cache: &Cache,
    timer: &StageTimer,
) -> Result<ModelVersion> {
    let step = |e| Error::step(Stage::Fetch, model.url(), e);
    let files = cache.model_files(Stage::Fetch)?;
    let told = |event| tell(timer, event);
    let options = FetchOptions::default();
    let fetched = files.fetch(store, model, &options, &told);
    Ok(fetched.await.map_err(step)?.model().clone())
}

/// Fetches `model` into the cache, or finds it there, and makes the layers that hold it below
/// `mount`, with their digests known. Each file's SHA-256 is compared on the way, and a fetch that
/// was killed goes on where it was; the layers are hashed while the files arrive, so that the
/// store is read once and the disk only for what was here before.
pub(crate) async fn fetch(
    store: &ModelStore,
    model: &ModelVersion,
    cache: &Cache,
    (mount, timer): (&str, &StageTimer),
) -> Result<FetchedModel> {
    let step = |e| Error::step(Stage::Fetch, model.url(), e);
    let files = cache.model_files(Stage::Fetch)?;
    let options = FetchOptions::default();
    let fetching = files.fetching(store, model, &options).map_err(step)?;
    let arriving: BTreeMap<&str, Arriving> = model
        .files()
        .iter()
        .filter_map(|file| Some((file.path.as_str(), fetching.file(&file.path)?)))
        .collect();
    let unread = layers(model, mount, |file| {
        let reader = arriving[file.path.as_str()].clone();
        Ok(Content::stream(file.size, move |from| reader.open(from)))
    })?;
    let told = |event| tell(timer, event);
    let run = async { fetching.run(&told).await.map_err(step) };
    let (cached, measured) = tokio::try_join!(run, measure(model, &unread))?;
    let folder = tree(&cached, cache).await?;
    let on_disk = |file: &ModelFile| Content::file(folder.join(&file.path));
    let known = layers(model, mount, on_disk)?.into_iter().zip(measured);
    let step = |e| Error::step(Stage::Fetch, model.url(), e);
    let layers = known
        .map(|(layer, found)| match found.descriptor() {
            Some(found) => layer.with_digest(found.digest().clone()).map_err(step),
            None => Ok(layer),
        })
        .collect::<Result<_>>()?;
    Ok(FetchedModel { folder, layers })
}

/// The model's files by their paths: links to the cache's files, which take no room.
async fn tree(cached: &CachedModel, cache: &Cache) -> Result<PathBuf> {
    let model = cached.model();
    let parent = cache.folder(Stage::Fetch, "models")?;
    let folder = parent.join(model.tree_digest().trim_start_matches("sha256:"));
    if folder.is_dir() && cached.link_into(&folder).await.is_ok() {
        return Ok(folder);
    }
    // Something else is there: a tree of files that were found damaged since.
    let _ = std::fs::remove_dir_all(&folder);
    let temporary = cache::fresh_folder(Stage::Fetch, &parent)?;
    let linked = cached.link_into(temporary.path()).await;
    linked.map_err(|e| Error::step(Stage::Fetch, model.url(), e))?;
    cache::settle(Stage::Fetch, temporary, &folder)?;
    Ok(folder)
}

pub(crate) fn tell(timer: &StageTimer, event: FetchEvent) {
    match event {
        FetchEvent::Progress(now) => timer.bytes(&now.path, now.done, Some(now.total)),
        FetchEvent::Waiting { path } => timer.note(format!("another run is fetching {path}")),
        FetchEvent::Resumed { path, offset } => {
            timer.note(format!("{path} goes on at byte {offset}"));
        }
        FetchEvent::Restarted { path } => {
            timer.note(format!(
                "what was there of {path} is of no use; it starts anew"
            ));
        }
        _ => {}
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::silent;
    use crate::seals::Seals;
    use modelship_model_store::{PublishOptions, Selector, StoreOptions, StoreUrl};
    use serde_json::Value;

    fn timer() -> StageTimer {
        StageTimer::start(&silent(), Stage::Fetch, "model")
    }

    /// A store in `dir` with one version.
    async fn store(dir: &Path) -> (ModelStore, ModelVersion) {
        let source = dir.join("source");
        std::fs::create_dir_all(source.join("a")).unwrap();
        std::fs::write(source.join("a/weights"), vec![7; 3 << 20]).unwrap();
        std::fs::write(source.join("config"), "{}").unwrap();
        let url = StoreUrl::from_dir(&dir.join("store"), "digits").unwrap();
        let store = ModelStore::open(&url, &StoreOptions::default()).unwrap();
        let options = PublishOptions::default();
        store.publish(&source, "1", options, &|_| ()).await.unwrap();
        let model = store.resolve(&Selector::Latest).await.unwrap();
        (store, model)
    }

    /// The same lock as it would be without a manifest.
    fn unsealed(model: &ModelVersion) -> ModelVersion {
        let mut lock = serde_json::to_value(model).unwrap();
        let mut lines = Vec::new();
        for file in lock["files"].as_array_mut().unwrap() {
            let file = file.as_object_mut().unwrap();
            file.remove("sha256");
            file.remove("trust");
            let text = |name: &str| file.get(name).and_then(Value::as_str).unwrap_or_default();
            let (path, size, etag) = (text("path"), &file["size"], text("etag"));
            lines.push(format!("{path} {size} etag:{etag} version:\n"));
        }
        lock["tree_digest"] = crate::recipe::sha256(lines.concat().as_bytes()).into();
        serde_json::from_value(lock).unwrap()
    }

    #[tokio::test]
    async fn a_model_is_fetched_once_into_files_and_layers() {
        let dir = tempfile::tempdir().unwrap();
        let (store, model) = store(dir.path()).await;
        let cache = Cache::new(&dir.path().join("cache"));
        assert!(!is_cached(&model, &cache).unwrap());
        let timer = timer();
        let first = fetch(&store, &model, &cache, ("/m", &timer)).await.unwrap();
        assert!(is_cached(&model, &cache).unwrap());
        std::fs::remove_dir_all(dir.path().join("store")).unwrap();
        let weights = first.folder().join("a/weights");
        for damage in [false, true] {
            if damage {
                std::fs::remove_file(&weights).unwrap();
                std::fs::write(&weights, "other").unwrap();
            }
            let again = fetch(&store, &model, &cache, ("/m", &timer)).await.unwrap();
            assert_eq!(std::fs::read(&weights).unwrap(), vec![7; 3 << 20]);
            let digests = |model: &FetchedModel| -> Vec<_> {
                let layers = model.layers().iter();
                layers.map(|layer| layer.descriptor().unwrap()).collect()
            };
            assert_eq!(digests(&again), digests(&first));
            assert_eq!(again.folder(), first.folder());
        }
        cache.keep_model(&model).await;
        assert!(is_cached(&model, &cache).unwrap());
        cache.keep_only(&[]);
        assert!(!first.folder().exists() && is_cached(&model, &cache).unwrap());
    }

    #[tokio::test]
    async fn what_nobody_states_is_found_once() {
        let dir = tempfile::tempdir().unwrap();
        let (store, sealed) = store(dir.path()).await;
        let model = unsealed(&sealed);
        let cache = Cache::new(&dir.path().join("cache"));
        let seals = Seals::new(&dir.path().join("state"));
        assert_eq!(seals.find(&model), None);
        let found = seal(&store, &model, &cache, &timer()).await.unwrap();
        assert_eq!(found.tree_digest(), sealed.tree_digest());
        assert!(is_cached(&found, &cache).unwrap());
        seals.keep(&model, &found).unwrap();
        assert_eq!(seals.find(&model), Some(found.clone()));
        let object = dir.path().join("store/digits/versions/1/files/config");
        std::fs::write(object, "[]").unwrap();
        let other = unsealed(&store.resolve(&Selector::Latest).await.unwrap());
        assert_eq!(seals.find(&other), None);
        let seal = dir.path().join("state/seals");
        let seal = std::fs::read_dir(seal).unwrap().next().unwrap().unwrap();
        std::fs::write(seal.path(), "{").unwrap();
        assert_eq!(seals.find(&model), None, "a damaged note is none");
    }
}
