//! `modelship.toml`: one small file that names the app, the model and where they go.
//!
//! Unknown keys are errors. No key holds a secret: credentials come from the environment, the
//! docker configuration and the kubeconfig, read by the program that runs the pipeline.

mod deploy;
mod duration;
mod model;
mod source;

pub use deploy::{DeployConfig, Expose, RegistryConfig};
pub use duration::Period;
pub use model::SignatureConfig;
pub use source::{AppConfig, AptSource, BaseConfig, ModelConfig, SmokeConfig};

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Stage;
use crate::error::{Error, ErrorKind, Result};

/// The whole configuration of one app's road.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Config {
    /// The app: its name, where its code is, how it is tested and run.
    pub app: AppConfig,
    /// The model: which store, which version.
    pub model: ModelConfig,
    /// The base image below them.
    #[serde(default)]
    pub base: BaseConfig,
    /// The request that proves a finished image and a release.
    #[serde(default)]
    pub smoke: SmokeConfig,
    /// Where images go.
    pub registry: RegistryConfig,
    /// Where releases go.
    pub deploy: DeployConfig,
    /// What starts a run in `watch`.
    #[serde(default)]
    pub watch: WatchConfig,
    /// Where caches and records of this folder's runs are kept; default `.modelship`.
    #[serde(default = "default_state")]
    pub state: PathBuf,
}

/// What starts a run in `watch`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct WatchConfig {
    /// How often the repository and the model store are asked; default 30 s.
    pub poll: Period,
    /// A cron expression of five fields (POSIX crontab(5)), such as `0 2 * * *`.
    pub schedule: Option<String>,
    /// The IANA time zone of the schedule; default UTC.
    pub timezone: Option<String>,
}

impl Default for WatchConfig {
    fn default() -> Self {
        Self {
            poll: Period::from_secs(30),
            schedule: None,
            timezone: None,
        }
    }
}

fn default_state() -> PathBuf {
    PathBuf::from(".modelship")
}

impl Config {
    /// Reads and checks `path`; relative paths in it start at its folder.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] or [`ErrorKind::Io`] when the file cannot be read,
    /// [`ErrorKind::Invalid`] naming the line when it is not a valid configuration.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|e| {
            Error::io(Stage::Configure, path, e)
                .with_hint("write one with `modelship init`, or name it with `-c FILE`")
        })?;
        let mut config = Self::parse(&text, &path.display().to_string())?;
        let folder = path
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let folder =
            std::path::absolute(folder).map_err(|e| Error::io(Stage::Configure, path, e))?;
        config.anchor(&folder);
        Ok(config)
    }

    /// Parses and checks a configuration; `name` is what errors call it.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], naming the line and what was expected.
    pub fn parse(text: &str, name: &str) -> Result<Self> {
        let config: Self = toml::from_str(text).map_err(|e| {
            let line = e.span().map_or(1, |s| {
                1 + text[..s.start.min(text.len())].matches('\n').count()
            });
            Error::new(
                ErrorKind::Invalid,
                Stage::Configure,
                format!("{name}:{line}"),
                one_line(e.message()),
            )
            .with_hint("`modelship init` writes a commented file with every key")
        })?;
        config.check(name)?;
        Ok(config)
    }

    fn check(&self, name: &str) -> Result<()> {
        let problem = self
            .app
            .problem()
            .or_else(|| self.model.problem())
            .or_else(|| self.base.problem())
            .or_else(|| self.registry.problem())
            .or_else(|| self.deploy.problem())
            .or_else(|| crate::trigger::schedule_problem(&self.watch));
        match problem {
            None => Ok(()),
            Some((key, text)) => Err(Error::new(
                ErrorKind::Invalid,
                Stage::Configure,
                format!("{name} key {key}"),
                text,
            )
            .with_hint("`modelship init` writes a commented file with every key")),
        }
    }

    /// Makes the relative paths absolute, from `folder`.
    pub fn anchor(&mut self, folder: &Path) {
        for path in [
            self.app.path.as_mut(),
            self.app.repository.as_mut(),
            self.smoke.request.as_mut(),
            self.registry.layout.as_mut(),
            self.deploy.manifests.as_mut(),
            self.deploy.kubeconfig.as_mut(),
            self.base.apt.as_mut(),
            self.base.lock.as_mut(),
            self.registry.ca.as_mut(),
            Some(&mut self.state),
        ]
        .into_iter()
        .flatten()
        {
            *path = folder.join(path.as_path());
        }
        self.model.anchor(folder);
    }

    /// What a road itself reads and writes on this machine: caches, records, images, manifests,
    /// the store and the kubeconfig. None of it is the app's, also where it lies in its folder.
    pub(crate) fn own_paths(&self) -> Vec<PathBuf> {
        let named = [
            self.registry.layout.as_ref(),
            self.deploy.manifests.as_ref(),
            self.deploy.kubeconfig.as_ref(),
            self.base.lock.as_ref(),
            Some(&self.state),
        ];
        let store = self.model.local_store();
        named.into_iter().flatten().cloned().chain(store).collect()
    }
}

/// TOML messages may span lines; an error is one line.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A key and what is wrong with its value.
pub(crate) type Problem = (&'static str, String);

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
        [app]
        name = "digits"
        path = "app"
        command = ["gunicorn", "app:create_app()"]
        [model]
        url = "file:///models/digits@latest"
        [registry]
        layout = "out/image"
        [deploy]
        manifests = "out/manifests"
    "#;

    #[test]
    fn a_small_file_is_enough() {
        let mut config = Config::parse(SMALL, "modelship.toml").unwrap();
        config.anchor(Path::new("/srv"));
        assert_eq!(config.app.path.as_deref(), Some(Path::new("/srv/app")));
        assert_eq!(config.app.port, 8080);
        assert_eq!(config.state, Path::new("/srv/.modelship"));
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let text = SMALL.replace("path = \"app\"", "path = \"app\"\n        pth = 1");
        let error = Config::parse(&text, "modelship.toml").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.object().starts_with("modelship.toml:5"), "{error}");
        assert!(error.to_string().contains("unknown field `pth`"), "{error}");
    }

    #[test]
    fn two_targets_or_none_are_refused() {
        for (from, to) in [
            (
                "layout = \"out/image\"",
                "layout = \"a\"\nrepository = \"r.invalid/a\"",
            ),
            ("layout = \"out/image\"", ""),
            ("manifests = \"out/manifests\"", ""),
            ("path = \"app\"", ""),
        ] {
            let error = Config::parse(&SMALL.replace(from, to), "m.toml").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{to}");
            assert!(error.hint().is_some());
        }
    }

    #[test]
    fn a_bad_schedule_or_zone_is_refused() {
        for bad in [
            "schedule = \"0 25 * * *\"",
            "schedule = \"0 2 * * *\"\ntimezone = \"Mars/Olympus\"",
        ] {
            let error = Config::parse(&format!("{SMALL}\n[watch]\n{bad}"), "m.toml").unwrap_err();
            assert!(error.object().contains("watch."), "{error}");
        }
    }
}
