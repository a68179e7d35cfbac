//! `modelship publish`.

use std::path::PathBuf;

use clap::Args;
use modelship_examples::{edge, progress};
use modelship_model_store::PublishOptions;
use modelship_pipeline_core::{self as core, Config, Result};
use serde_json::json;

use crate::Arguments;

#[derive(Args)]
pub(crate) struct Publish {
    /// The folder.
    dir: PathBuf,
    /// The model's name.
    name: String,
    /// The version, such as 1.4.2.
    version: String,
    /// The store, such as az://CONTAINER.ACCOUNT/FOLDER; default the configuration's.
    #[arg(long)]
    store: Option<String>,
    /// Something to remember with the version, such as accuracy=0.97; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,
    /// Leaves `latest` where it is.
    #[arg(long)]
    keep_latest: bool,
    /// Takes over a version that another publisher began with other files and never finished.
    #[arg(long)]
    replace_unfinished: bool,
}

impl Publish {
    pub(crate) async fn run(&self, arguments: &Arguments) -> Result<()> {
        let url = match &self.store {
            Some(root) => core::model_url(root, &self.name)?,
            None => core::sibling_model_url(&Config::load(&arguments.config)?, &self.name)?,
        };
        let edge = edge().await?;
        let mut options = PublishOptions::default()
            .with_move_latest(!self.keep_latest)
            .with_replace_unfinished(self.replace_unfinished)
            .with_note(core::note(&edge));
        for (key, value) in &self.metadata {
            options = options.with_metadata(key, value);
        }
        let version = (url.as_str(), self.version.as_str());
        let model =
            core::publish_model_with(version, &edge, &self.dir, options, &progress()).await?;
        let text = format!(
            "published {} {} as {}",
            model.name(),
            model.version(),
            model.tree_digest()
        );
        arguments.answer(&text, &json!({"published": model}));
        Ok(())
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}
