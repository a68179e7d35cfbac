//! A model in its store, for people and their tools: publishing a version, opening one.

mod fetch;

use std::path::{Path, PathBuf};

use modelship_model_store::{
    self as model_store, ModelRef, ModelStore, ModelVersion, Note, PublishOptions, Selector,
};

use crate::config::Config;
use crate::edge::Edge;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Progress, StageTimer};
use crate::init::{Found, init};
use crate::{Stage, cache};

pub use fetch::{read_lock, write_lock};

/// A model in its store, opened for one command.
#[derive(Clone, Debug)]
pub struct OpenModel {
    store: ModelStore,
    selector: Selector,
    url: String,
    stage: Stage,
}

impl OpenModel {
    /// Opens the model that `url` names, such as `s3://models/digits@latest`; its errors are told
    /// as those of `stage`. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ErrorKind::Step`]: an address that is none, or a store without a credential.
    pub fn new(url: &str, edge: &Edge, stage: Stage) -> Result<Self> {
        let step = |e| Error::step(stage, url, e);
        let reference: ModelRef = url.parse().map_err(step)?;
        Ok(Self {
            store: ModelStore::open(&reference.url, &edge.store).map_err(step)?,
            selector: reference.selector,
            url: reference.url.to_string(),
            stage,
        })
    }

    /// The store of this model's versions.
    pub fn store(&self) -> &ModelStore {
        &self.store
    }

    /// The version that the address names.
    pub fn selector(&self) -> &Selector {
        &self.selector
    }

    /// A result of the store as one of this command.
    ///
    /// # Errors
    /// [`ErrorKind::Step`], with the store's own words and advice.
    pub fn step<T>(&self, result: model_store::Result<T>) -> Result<T> {
        result.map_err(|e| Error::step(self.stage, &self.url, e))
    }
}

/// Who does something in a store, and when, for its records.
pub fn note(edge: &Edge) -> Note {
    let now = (edge.now)();
    Note::default()
        .at(now.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
        .by(&edge.actor)
}

/// Publishes the files of `folder` as `version` of the model that `url` names, and lets the
/// store's `latest` point to it. A selector in `url` is not looked at.
///
/// # Errors
/// [`ErrorKind::Step`]: a folder that cannot be read, a store that refuses, or a version that
/// exists with other bytes.
pub async fn publish_model(
    url: &str,
    edge: &Edge,
    folder: &Path,
    version: &str,
    progress: &Progress,
) -> Result<ModelVersion> {
    let options = PublishOptions::default().with_note(note(edge));
    publish_model_with((url, version), edge, folder, options, progress).await
}

/// Publishes as [`publish_model`] does, the way `options` say.
///
/// # Errors
/// Those of [`publish_model`].
pub async fn publish_model_with(
    (url, version): (&str, &str),
    edge: &Edge,
    folder: &Path,
    options: PublishOptions,
    progress: &Progress,
) -> Result<ModelVersion> {
    let timer = StageTimer::start(progress, Stage::Publish, format!("{url} {version}"));
    let open = OpenModel::new(url, edge, Stage::Publish)?;
    let moved = |event: model_store::Event| {
        if let model_store::Event::Progress { done, total } = event {
            timer.bytes(version, done, Some(total));
        }
    };
    let published = open.store.publish(folder, version, options, &moved).await;
    let model = open.step(published)?;
    timer.finish(format!(
        "{} {} {}",
        model.name(),
        model.version(),
        model.tree_digest()
    ));
    Ok(model)
}

/// The address of model `name` in the store `root`.
///
/// # Errors
/// [`ErrorKind::Invalid`] for a name that is none.
pub fn model_url(root: &str, name: &str) -> Result<String> {
    if name.is_empty() || name.contains(['/', '@', '?', '#']) {
        return Err(Error::new(
            ErrorKind::Invalid,
            Stage::Publish,
            format!("model `{name}`"),
            "is not a model's name",
        )
        .with_hint("a model's name is one path segment, such as digits"));
    }
    Ok(format!("{}/{name}", root.trim_end_matches('/')))
}

/// The address of model `name` in the store that `config` uses.
///
/// # Errors
/// As [`model_url`].
pub fn sibling_model_url(config: &Config, name: &str) -> Result<String> {
    let step = |e| Error::step(Stage::Publish, &config.model.url, e);
    let reference = config.model.reference().map_err(step)?;
    let own = reference.url.to_string();
    let root = own.strip_suffix(reference.url.model_name()).unwrap_or(&own);
    model_url(root, name)
}

/// Writes a commented configuration for the folder of `path`; an existing file is never replaced.
///
/// # Errors
/// [`ErrorKind::Invalid`] when `path` exists, [`ErrorKind::Io`] when it cannot be written.
pub fn write_init(path: &Path) -> Result<PathBuf> {
    let path = std::path::absolute(path).map_err(|e| Error::io(Stage::Configure, path, e))?;
    if path.exists() {
        return Err(Error::new(
            ErrorKind::Invalid,
            Stage::Configure,
            path.display(),
            "exists already and is kept",
        )
        .with_hint("name another file with `-c FILE`, or remove this one"));
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    cache::write_file(
        Stage::Configure,
        &path,
        init(&Found::look(folder)).as_bytes(),
    )?;
    Ok(path)
}
