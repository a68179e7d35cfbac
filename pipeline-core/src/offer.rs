//! Publishing a model version: what data scientists call, or their tools.

use std::path::{Path, PathBuf};

use modelship_model_store::{
    self as model_store, ModelRef, ModelStore, ModelVersion, PublishOptions,
};

use crate::config::Config;
use crate::edge::Edge;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Progress, StageTimer};
use crate::init::{Found, init};
use crate::{Stage, cache};

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
    let timer = StageTimer::start(progress, Stage::Publish, format!("{url} {version}"));
    let step = |e| Error::step(Stage::Publish, url, e);
    let reference: ModelRef = url.parse().map_err(step)?;
    let store = ModelStore::open(&reference.url, &edge.store).map_err(step)?;
    let moved = |event: model_store::Event| {
        if let model_store::Event::Uploading { path, done, total } = event {
            timer.bytes(&path, done, Some(total));
        }
    };
    let model = store
        .publish(folder, version, PublishOptions::default(), &moved)
        .await
        .map_err(step)?;
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
