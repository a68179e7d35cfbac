//! Where images and releases go.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Period, Problem};

/// Where images go: a registry's repository, or an OCI image layout on disk.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct RegistryConfig {
    /// `HOST[:PORT]/REPOSITORY`; credentials come from the docker configuration.
    pub repository: Option<String>,
    /// A directory that becomes an OCI image layout (image-spec, image-layout.md).
    pub layout: Option<PathBuf>,
    /// A PEM file with the certificate authority of a private registry.
    pub ca: Option<PathBuf>,
    /// Tags given to an image after it passed its tests; `{version}` is the model's version,
    /// `{revision}` the first twelve digits of the code's revision.
    pub tags: Vec<String>,
}

impl RegistryConfig {
    pub(super) fn problem(&self) -> Option<Problem> {
        (self.repository.is_some() == self.layout.is_some()).then(|| {
            (
                "registry.repository",
                "name either a `repository` or a `layout` directory".to_owned(),
            )
        })
    }
}

/// How users reach the app.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Expose {
    /// Inside the cluster only.
    #[default]
    ClusterIp,
    /// Through a load balancer of the cloud.
    LoadBalancer,
}

/// Where releases go: a cluster, or a directory of manifests.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct DeployConfig {
    /// A kubeconfig file. Exclusive with `manifests`.
    pub kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context; default its current one.
    pub context: Option<String>,
    /// A directory that receives the rendered manifests. Exclusive with `kubeconfig`.
    pub manifests: Option<PathBuf>,
    /// The namespace; default `default`.
    pub namespace: String,
    /// How many replicas; default 2.
    pub replicas: u32,
    /// How users reach the app; default `cluster-ip`.
    pub expose: Expose,
    /// The Azure DNS label of the load balancer: `LABEL.REGION.cloudapp.azure.com`.
    pub dns_label: Option<String>,
    /// The Secret with which the cluster pulls, where its own identity cannot.
    pub pull_secret: Option<String>,
    /// How long a rollout may make no progress; default 5 m.
    pub progress_deadline: Period,
    /// Whether the run asks the release through its address; default yes for a load balancer.
    pub verify: Option<bool>,
}

impl Default for DeployConfig {
    fn default() -> Self {
        Self {
            kubeconfig: None,
            context: None,
            manifests: None,
            namespace: "default".to_owned(),
            replicas: 2,
            expose: Expose::ClusterIp,
            dns_label: None,
            pull_secret: None,
            progress_deadline: Period::from_secs(300),
            verify: None,
        }
    }
}

impl DeployConfig {
    pub(super) fn problem(&self) -> Option<Problem> {
        if self.kubeconfig.is_some() == self.manifests.is_some() {
            return Some((
                "deploy.kubeconfig",
                "name either a `kubeconfig` or a `manifests` directory".to_owned(),
            ));
        }
        if self.replicas == 0 {
            return Some(("deploy.replicas", "0 replicas serve nobody".to_owned()));
        }
        if self.dns_label.is_some() && self.expose != Expose::LoadBalancer {
            return Some((
                "deploy.dns_label",
                "a DNS label needs `expose = \"load-balancer\"`".to_owned(),
            ));
        }
        None
    }
}
