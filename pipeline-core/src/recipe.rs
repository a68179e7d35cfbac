//! The recipe of an image: which layers, in which order, run how. Pure but for reading the code.

use modelship_image_builder::{Image, Layer, ModelIdentity, Provenance, Role, Tree, TreeOptions};
use modelship_model_store::{ModelVersion, Scheme};
use sha2::{Digest as _, Sha256};

use crate::Stage;
use crate::admission::Admission;
use crate::config::{AppConfig, Config};
use crate::error::{Error, Result};
use crate::inputs::{Inputs, ReleaseKey};
use crate::smoke::USER;
use crate::source::Source;

/// Where the code lies in the image.
const APP: &str = "/app";

/// The app's files as they go into the image, measured.
///
/// # Errors
/// Of image-builder, for files that cannot be read or stand for none.
pub(crate) async fn code_layer(source: &Source) -> Result<Layer> {
    let step = |e| Error::step(Stage::Observe, source.folder.display(), e);
    let tree = Tree::from_dir(APP, &source.folder, &options(source)).map_err(step)?;
    Ok(Layer::tree(tree)
        .map_err(step)?
        .measure()
        .await
        .map_err(step)?
        .with_history("modelship code"))
}

/// The whole app folder, tests included, as the test suite sees it.
pub(crate) async fn test_layer(source: &Source) -> Result<Layer> {
    let step = |e| Error::step(Stage::Test, source.folder.display(), e);
    let mut options = options(source);
    options.no_ignore_file = true;
    let tree = Tree::from_dir(APP, &source.folder, &options).map_err(step)?;
    Layer::tree(tree)
        .map_err(step)?
        .measure()
        .await
        .map_err(step)
}

fn options(source: &Source) -> TreeOptions {
    let mut options = TreeOptions::default();
    options.ignore.clone_from(&source.left_out);
    options
}

/// How the app is run: the same in the tests, in the smoke test and in the image's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RunSettings {
    pub(crate) command: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) port: u16,
}

impl RunSettings {
    /// The settings of `app` at `revision` with `model` at `mount`.
    pub(crate) fn new(app: &AppConfig, revision: &str, model: &ModelVersion, mount: &str) -> Self {
        let mut env: std::collections::BTreeMap<String, String> = app.env.clone();
        for (name, value) in [
            (
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            ),
            ("LANG", "C.UTF-8"),
            // The root file system is read-only in the cluster, so bytecode could not be kept anyway.
            ("PYTHONDONTWRITEBYTECODE", "1"),
            ("PYTHONUNBUFFERED", "1"),
            ("MODEL_DIR", mount),
            ("MODELSHIP_REVISION", revision),
            ("MODELSHIP_MODEL_NAME", model.name()),
            ("MODELSHIP_MODEL_VERSION", model.version()),
            ("MODELSHIP_MODEL_DIGEST", model.tree_digest()),
        ] {
            env.entry(name.to_owned())
                .or_insert_with(|| value.to_owned());
        }
        Self {
            command: app.command.clone(),
            env: env.into_iter().collect(),
            port: app.port,
        }
    }

    /// The digest of these settings, for the release key.
    fn digest(&self) -> String {
        let text = serde_json::json!({
            "command": self.command, "env": self.env, "port": self.port, "user": USER, "workdir": APP,
        });
        sha256(text.to_string().as_bytes())
    }
}

/// `sha256:` and the digest of `bytes`.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// What decides the image's bytes, gathered; what the model has to pass is for the caller to add.
pub(crate) fn inputs(
    base: &str,
    code: &Layer,
    revision: &str,
    model: &ModelVersion,
    settings: &RunSettings,
) -> Inputs {
    Inputs {
        base: base.to_owned(),
        app: code.diff_id().map(|d| d.to_string()).unwrap_or_default(),
        revision: revision.to_owned(),
        model_name: model.name().to_owned(),
        model_version: model.version().to_owned(),
        model: model.tree_digest().to_owned(),
        config: settings.digest(),
        checks: String::new(),
    }
}

/// The revision that a release names: the commit, or the digest of the files where there is none.
pub(crate) fn revision(source: &Source, code: &Layer) -> String {
    source.commit.clone().unwrap_or_else(|| {
        let digest = code
            .diff_id()
            .map(|d| d.digest().to_owned())
            .unwrap_or_default();
        format!("tree-{}", &digest[..digest.len().min(40)])
    })
}

/// The image: base, then model, then code, so that what changes most often lies on top.
///
/// # Errors
/// Of image-builder, if what the image says of its origin could carry a secret.
pub(crate) fn image(
    base: Image,
    model_layers: Vec<Layer>,
    code: Layer,
    settings: &RunSettings,
    labels: &Labels<'_>,
) -> Result<Image> {
    let image = model_layers
        .into_iter()
        .fold(base, |image, layer| image.with_layer_as(Role::Model, layer));
    let image = image.with_layer_as(Role::Code, code).with_config(|c| {
        for (name, value) in &settings.env {
            c.env(name, value);
        }
        c.entrypoint(settings.command.iter())
            .workdir(APP)
            .user(&format!("{USER}:{USER}"))
            .expose(settings.port)
            .stop_signal("SIGTERM")
    });
    let step = |e| Error::step(Stage::Assemble, labels.key.short(), e);
    let image = image.with_provenance(&labels.provenance()).map_err(step)?;
    Ok(labels
        .pairs()
        .into_iter()
        .fold(image, |image, (key, value)| {
            image.with_annotation(key, value)
        }))
}

/// What the manifest says of its origin (image-spec, annotations.md, and our own keys).
pub(crate) struct Labels<'a> {
    pub(crate) config: &'a Config,
    pub(crate) key: &'a ReleaseKey,
    pub(crate) inputs: &'a Inputs,
    pub(crate) model: &'a ModelVersion,
    pub(crate) admission: &'a Admission,
}

impl Labels<'_> {
    fn provenance(&self) -> Provenance {
        // A path of this machine would make the image depend on where it was built.
        let is_remote = matches!(self.model.url().scheme(), Scheme::Azure | Scheme::S3);
        let model = ModelIdentity {
            name: self.inputs.model_name.clone(),
            version: self.inputs.model_version.clone(),
            digest: self.inputs.model.clone(),
            uri: is_remote.then(|| self.model.url().to_string()),
        };
        Provenance {
            base_digest: self.inputs.base.parse().ok(),
            revision: Some(self.inputs.revision.clone()),
            model: Some(model),
            ..Provenance::default()
        }
    }

    fn pairs(&self) -> Vec<(&'static str, String)> {
        let mut pairs = vec![
            (
                "org.opencontainers.image.title",
                self.config.app.name.clone(),
            ),
            (
                "org.opencontainers.image.version",
                self.inputs.model_version.clone(),
            ),
            (KEY_ANNOTATION, self.key.to_string()),
        ];
        let signer = self.admission.signer.as_ref();
        pairs.extend(signer.map(|signer| (SIGNER_ANNOTATION, signer.to_string())));
        pairs
    }
}

/// The annotation of a manifest that says who signed the model.
const SIGNER_ANNOTATION: &str = "modelship.github.io/model-signed-by";

/// The annotation that carries the release key, on manifests and on Deployments.
pub(crate) const KEY_ANNOTATION: &str = "modelship.github.io/release-key";
