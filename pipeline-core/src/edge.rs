//! The edge to the machine: everything that a run takes from its surroundings, gathered once by
//! the program, so that nothing below reads an environment or a clock.

use chrono::{DateTime, Utc};
use modelship_image_builder::Platform;
use modelship_model_store::StoreOptions;
use modelship_registry::{DockerConfig, RegistryOptions, Repository};

use crate::error::{Error, ErrorKind, Result};
use crate::Stage;

/// What a run takes from its surroundings.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Edge {
    /// Credentials and endpoints of model stores.
    pub store: StoreOptions,
    /// Credentials of registries.
    pub docker: DockerConfig,
    /// The architecture that images are built for, in Rust's words: `x86_64` or `aarch64`.
    pub architecture: String,
    /// Who or what runs, for the record: a person, a pipeline's name.
    pub actor: String,
    /// The address of the run in a CI system, for the record.
    pub run_url: Option<String>,
    /// The clock.
    pub now: fn() -> DateTime<Utc>,
}

impl Edge {
    /// Reads the usual variables through `lookup`: those of the model stores (`AZURE_*`, `AWS_*`),
    /// of the docker configuration (`DOCKER_CONFIG`, `HOME`), and those with which Azure Pipelines
    /// and GitHub Actions name a run.
    ///
    /// # Errors
    /// [`ErrorKind::Step`] when a docker configuration is there and cannot be read.
    pub fn from_env(lookup: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let docker = DockerConfig::from_env(&lookup)
            .map_err(|e| Error::step(Stage::Configure, "docker configuration", e))?;
        Ok(Self {
            store: StoreOptions::from_env(&lookup),
            docker,
            architecture: std::env::consts::ARCH.to_owned(),
            actor: actor(&lookup),
            run_url: run_url(&lookup),
            now: Utc::now,
        })
    }

    pub(crate) fn platform(&self) -> Result<Platform> {
        crate::base::platform(&self.architecture).ok_or_else(|| {
            let text = "images can be built for x86_64 and aarch64";
            Error::new(ErrorKind::Invalid, Stage::Configure, format!("architecture {}", self.architecture), text)
        })
    }

    pub(crate) fn debian_architecture(&self) -> &'static str {
        if self.architecture == "aarch64" { "arm64" } else { "amd64" }
    }

    /// A repository with the credentials that the docker configuration has for its host.
    pub(crate) fn repository(&self, stage: Stage, reference: &str, ca: Option<&[u8]>) -> Result<Repository> {
        let mut options = RegistryOptions::default();
        options.extra_ca_pem.extend(ca.map(<[u8]>::to_vec));
        Repository::open(reference, &self.docker, options).map_err(|e| Error::step(stage, reference, e))
    }
}

/// Azure Pipelines and GitHub Actions say who asked for the run; else the user's name.
fn actor(lookup: &impl Fn(&str) -> Option<String>) -> String {
    ["BUILD_REQUESTEDFOR", "GITHUB_ACTOR", "USER", "LOGNAME"]
        .iter()
        .find_map(|name| lookup(name).filter(|v| !v.is_empty()))
        .unwrap_or_else(|| "unknown".to_owned())
}

fn run_url(lookup: &impl Fn(&str) -> Option<String>) -> Option<String> {
    let azure = || {
        let (server, project) = (lookup("SYSTEM_COLLECTIONURI")?, lookup("SYSTEM_TEAMPROJECT")?);
        Some(format!("{server}{project}/_build/results?buildId={}", lookup("BUILD_BUILDID")?))
    };
    let github = || {
        let (server, repository) = (lookup("GITHUB_SERVER_URL")?, lookup("GITHUB_REPOSITORY")?);
        Some(format!("{server}/{repository}/actions/runs/{}", lookup("GITHUB_RUN_ID")?))
    };
    azure().or_else(github)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ci_run_is_named() {
        let lookup = |name: &str| match name {
            "GITHUB_ACTOR" => Some("ada".to_owned()),
            "GITHUB_SERVER_URL" => Some("https://git.invalid".to_owned()),
            "GITHUB_REPOSITORY" => Some("a/b".to_owned()),
            "GITHUB_RUN_ID" => Some("7".to_owned()),
            _ => None,
        };
        assert_eq!(actor(&lookup), "ada");
        assert_eq!(run_url(&lookup).as_deref(), Some("https://git.invalid/a/b/actions/runs/7"));
        assert_eq!(actor(&|_: &str| None), "unknown");
    }
}
