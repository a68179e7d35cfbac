//! What goes into an image: the app, the model, the base, and the request that proves it.

use std::path::{Path, PathBuf};

use modelship_model_store::admission::AdmissionPolicy;
use modelship_model_store::{ModelRef, StoreUrl};
use serde::{Deserialize, Serialize};

use super::{Problem, SignatureConfig};

/// The app: its name, where its code is, how it is tested and run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AppConfig {
    /// The app's name, a DNS label (RFC 1123): it names the Deployment and the Service.
    pub name: String,
    /// A folder whose files are taken as they are. Exclusive with `repository`.
    #[serde(default)]
    pub path: Option<PathBuf>,
    /// A git repository on this machine, whose committed files are taken. Exclusive with `path`.
    #[serde(default)]
    pub repository: Option<PathBuf>,
    /// The branch, tag or revision of `repository`; default `HEAD`.
    #[serde(default = "head")]
    pub branch: String,
    /// The app's folder inside `repository`; default its root.
    #[serde(default)]
    pub folder: Option<String>,
    /// The command that serves the app, run in `/app`.
    #[serde(default = "default_command")]
    pub command: Vec<String>,
    /// The command that runs the app's own tests, in a copy of the whole app folder; an empty
    /// list says that there are none.
    #[serde(default = "default_tests")]
    pub tests: Vec<String>,
    /// The TCP port the command listens on; default 8080.
    #[serde(default = "default_port")]
    pub port: u16,
    /// The path that answers 200 once the app can serve; default `/healthz`.
    #[serde(default = "default_readiness")]
    pub readiness: String,
    /// Environment variables of the app; no secrets, they stand in the image.
    #[serde(default)]
    pub env: std::collections::BTreeMap<String, String>,
}

fn head() -> String {
    "HEAD".to_owned()
}

fn default_port() -> u16 {
    8080
}

fn default_readiness() -> String {
    "/healthz".to_owned()
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&w| w.to_owned()).collect()
}

fn default_command() -> Vec<String> {
    words(&[
        "gunicorn",
        "--config",
        "gunicorn.conf.py",
        "app:create_app()",
    ])
}

fn default_tests() -> Vec<String> {
    words(&["python3", "-m", "pytest", "-q", "-p", "no:cacheprovider"])
}

impl AppConfig {
    pub(super) fn problem(&self) -> Option<Problem> {
        if !is_dns_label(&self.name) {
            let text = format!(
                "`{}` is not a DNS label: 1 to 63 of a-z, 0-9 and -, starting with a letter",
                self.name
            );
            return Some(("app.name", text));
        }
        if self.path.is_some() == self.repository.is_some() {
            return Some((
                "app.path",
                "name either `path` (a folder) or `repository` (a git repository)".to_owned(),
            ));
        }
        if self.command.is_empty() {
            return Some((
                "app.command",
                "the command that serves the app is empty".to_owned(),
            ));
        }
        if !self.readiness.starts_with('/') {
            return Some((
                "app.readiness",
                format!("`{}` is not an absolute path", self.readiness),
            ));
        }
        None
    }
}

/// RFC 1123 label, starting with a letter as Services demand (RFC 1035).
fn is_dns_label(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

/// The model: which store, which version.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ModelConfig {
    /// `az://CONTAINER.ACCOUNT/…/NAME@SELECTOR`, `s3://BUCKET/…/NAME@SELECTOR`, or `file://DIR/NAME@SELECTOR`.
    /// A relative `file://` starts at the configuration's folder. Without a selector: `@latest`.
    pub url: String,
    /// The folder of the image that holds the model's files; default `/models/NAME`.
    #[serde(default)]
    pub mount: Option<String>,
    /// What the model's files may hold: for each check `allow`, `warn` or `deny`, and limits.
    #[serde(default)]
    pub admission: AdmissionPolicy,
    /// Who has to have signed the model; default nobody.
    #[serde(default)]
    pub signature: SignatureConfig,
}

impl ModelConfig {
    pub(super) fn problem(&self) -> Option<Problem> {
        if self.relative().is_none()
            && let Err(error) = self.url.parse::<ModelRef>()
        {
            return Some(("model.url", error.to_string()));
        }
        if self.mount.as_deref().is_some_and(|m| !m.starts_with('/')) {
            return Some((
                "model.mount",
                "the folder in the image must be absolute".to_owned(),
            ));
        }
        self.signature.problem()
    }

    /// The path part of a `file://` URL that is not absolute.
    fn relative(&self) -> Option<&str> {
        self.url
            .strip_prefix("file://")
            .filter(|rest| !rest.starts_with('/'))
    }

    pub(super) fn anchor(&mut self, folder: &Path) {
        self.signature.anchor(folder);
        if let Some(rest) = self.relative() {
            let joined = folder.join(rest.strip_prefix("./").unwrap_or(rest));
            self.url = format!("file://{}", joined.display());
        }
    }

    /// The folder of a `file://` store, which holds this model's folder and those of others.
    pub(super) fn local_store(&self) -> Option<PathBuf> {
        let url = self.reference().ok()?.url.to_string();
        let model = PathBuf::from(url.strip_prefix("file://")?);
        model.parent().map(Path::to_owned)
    }

    /// The reference that the URL spells.
    ///
    /// # Errors
    /// The model store's own, for a URL that is none.
    pub fn reference(&self) -> modelship_model_store::Result<ModelRef> {
        self.url.parse()
    }

    /// The folder of the image that holds the model's files.
    pub fn mount_point(&self, url: &StoreUrl) -> String {
        self.mount
            .clone()
            .unwrap_or_else(|| format!("/models/{}", url.model_name()))
    }
}

/// The base image below app and model.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct BaseConfig {
    /// An image of a registry, `HOST/REPOSITORY@sha256:…` or with a tag, in place of Debian packages.
    pub image: Option<String>,
    /// The Debian packages whose closure makes the base; default a Python with Flask, gunicorn and numpy.
    pub packages: Vec<String>,
    /// Packages that only the app's tests see; never shipped.
    pub test_packages: Vec<String>,
    /// The apt configuration whose sources are used; default `/etc/apt`.
    pub apt: Option<PathBuf>,
    /// A file that fixes the base exactly: written by the first run, obeyed by the later ones, made
    /// anew when it is removed. Without it each run takes the newest packages of the sources.
    pub lock: Option<PathBuf>,
    /// Package sources in place of the machine's own.
    pub sources: Vec<AptSource>,
}

/// A Debian package source, as in `sources.list(5)`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct AptSource {
    /// The archive's address.
    pub uri: String,
    /// Suites, such as a release's code name.
    pub suites: Vec<String>,
    /// Components, such as `main`.
    pub components: Vec<String>,
    /// The keyring that must have signed it.
    pub signed_by: PathBuf,
}

impl Default for BaseConfig {
    fn default() -> Self {
        Self {
            image: None,
            packages: words(&[
                "python3",
                "python3-flask",
                "gunicorn",
                "python3-numpy",
                "ca-certificates",
                "base-files",
                "netbase",
            ]),
            test_packages: words(&["python3-pytest"]),
            apt: None,
            lock: None,
            sources: Vec::new(),
        }
    }
}

impl BaseConfig {
    pub(super) fn problem(&self) -> Option<Problem> {
        if self.image.is_none() && self.packages.is_empty() {
            return Some((
                "base.packages",
                "name at least one package, or a base `image`".to_owned(),
            ));
        }
        None
    }
}

/// The request that proves a finished image and a release.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct SmokeConfig {
    /// A JSON file `{"path": …, "request": …, "expect": …}`: `request` is posted to `path`, and each
    /// key of `expect` must stand in the answer with that value. Without it only the readiness path is asked.
    pub request: Option<PathBuf>,
    /// How long the app may take to become ready; default 30 s.
    pub timeout: Option<super::Period>,
}
