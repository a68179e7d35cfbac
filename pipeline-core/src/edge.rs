//! The edge to the machine: everything that a run takes from its surroundings, gathered once by
//! the program, so that nothing below reads an environment or a clock.

use chrono::{DateTime, Utc};
use modelship_image_builder::Platform;
use modelship_model_store::StoreOptions;
use modelship_registry::{Credentials, DockerConfig, Reference, RegistryOptions, Repository};

use crate::Stage;
use crate::error::{Error, ErrorKind, Result};

/// What a run takes from its surroundings.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Edge {
    /// Credentials and endpoints of model stores.
    pub store: StoreOptions,
    /// Credentials of registries.
    pub docker: DockerConfig,
    /// How registries are spoken to: proxies, time limits.
    pub registry: RegistryOptions,
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
    pub async fn from_env(lookup: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let docker = DockerConfig::from_env(&lookup)
            .await
            .map_err(|e| Error::step(Stage::Configure, "docker configuration", e))?;
        Ok(Self {
            store: StoreOptions::from_env(&lookup),
            docker,
            registry: RegistryOptions::from_env(&lookup),
            architecture: std::env::consts::ARCH.to_owned(),
            actor: actor(&lookup),
            run_url: run_url(&lookup),
            now: Utc::now,
        })
    }

    pub(crate) fn platform(&self) -> Result<Platform> {
        Platform::linux(self.debian_architecture())
            .map_err(|e| Error::step(Stage::Configure, &self.architecture, e))
    }

    /// The same platform, as the registry chooses from an index.
    pub(crate) fn platform_of_image(&self) -> Result<modelship_registry::Platform> {
        let platform =
            serde_json::json!({"os": "linux", "architecture": self.debian_architecture()});
        serde_json::from_value(platform).map_err(|e| {
            Error::new(
                ErrorKind::Invalid,
                Stage::Configure,
                &self.architecture,
                e.to_string(),
            )
        })
    }

    pub(crate) fn debian_architecture(&self) -> &'static str {
        if self.architecture == "aarch64" {
            "arm64"
        } else {
            "amd64"
        }
    }

    /// A repository with the credentials that the docker configuration has for its host.
    pub(crate) async fn repository(
        &self,
        stage: Stage,
        name: &str,
        ca: Option<&[u8]>,
    ) -> Result<Repository> {
        let step = |e| Error::step(stage, name, e);
        let reference = parse(stage, name)?;
        let mut options = self.registry.clone();
        options.extra_ca_pem.extend(ca.map(<[u8]>::to_vec));
        let credentials = Credentials::for_registry(&self.docker, reference.registry())
            .await
            .map_err(step)?;
        Repository::from_reference(&reference, credentials, options).map_err(step)
    }

    /// The repository of an image's reference, and the tag or digest that it names there.
    pub(crate) async fn repository_of(
        &self,
        stage: Stage,
        image: &str,
    ) -> Result<(Repository, String)> {
        let reference = parse(stage, image)?;
        let version = reference
            .digest()
            .or(reference.tag())
            .unwrap_or("latest")
            .to_owned();
        Ok((self.repository(stage, image, None).await?, version))
    }
}

fn parse(stage: Stage, reference: &str) -> Result<Reference> {
    reference.parse().map_err(|e| {
        Error::new(
            ErrorKind::Invalid,
            stage,
            reference,
            format!("is not an image's reference: {e}"),
        )
        .with_hint("write HOST/REPOSITORY, such as myregistry.azurecr.io/digits")
    })
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
        let (server, project) = (
            lookup("SYSTEM_COLLECTIONURI")?,
            lookup("SYSTEM_TEAMPROJECT")?,
        );
        Some(format!(
            "{server}{project}/_build/results?buildId={}",
            lookup("BUILD_BUILDID")?
        ))
    };
    let github = || {
        let (server, repository) = (lookup("GITHUB_SERVER_URL")?, lookup("GITHUB_REPOSITORY")?);
        Some(format!(
            "{server}/{repository}/actions/runs/{}",
            lookup("GITHUB_RUN_ID")?
        ))
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
        assert_eq!(
            run_url(&lookup).as_deref(),
            Some("https://git.invalid/a/b/actions/runs/7")
        );
        assert_eq!(actor(&|_: &str| None), "unknown");
    }
}
