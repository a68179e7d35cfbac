//! Everything around the pipeline: a git repository, a model store, a private registry, a cluster.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use modelship_pipeline_core::{Config, Edge, Event, Pipeline, publish_model, silent};
use modelship_testkit::cluster::LoadBalancer;
use modelship_testkit::{Azurite, Cluster, DockerRegistry, Tier, need};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::repository::{Repository, example, golden};

pub(crate) const NAMESPACE: &str = "shop";
const PULL_SECRET: &str = "registry";
const CONTAINER: &str = "models";

/// The services of one road, gone when dropped.
pub(crate) struct World {
    // In the order in which they end: each before what it needs.
    _balancer: LoadBalancer,
    pub(crate) cluster: Cluster,
    pub(crate) registry: DockerRegistry,
    azurite: Azurite,
    pub(crate) repository: Repository,
    files: TempDir,
}

impl World {
    /// Starts all services; `None` where one is missing.
    pub(crate) async fn start() -> Option<Self> {
        let repository = need(Repository::with_example())?;
        let azurite = need(Azurite::start().await)?;
        azurite.create_container(CONTAINER).await.unwrap();
        let registry = need(DockerRegistry::tls_htpasswd().await)?;
        let cluster = need(Cluster::start(Tier::Node).await)?;
        let world = Self {
            _balancer: cluster.load_balancer().unwrap(),
            cluster,
            registry,
            azurite,
            repository,
            files: tempfile::tempdir().unwrap(),
        };
        world.connect().await;
        Some(world)
    }

    /// Lets the pipeline push to the registry, and the node pull from it.
    async fn connect(&self) {
        let ca = self.registry.ca_pem();
        std::fs::write(self.files.path().join("ca.pem"), ca.unwrap()).unwrap();
        std::fs::write(self.files.path().join("config.json"), self.credentials()).unwrap();
        let host = self.registry.host();
        self.cluster.trust_registry(&host, ca).unwrap();
        self.cluster.namespace(NAMESPACE).await.unwrap();
        let secret = json!({
            "metadata": { "name": PULL_SECRET },
            "type": "kubernetes.io/dockerconfigjson",
            "stringData": { ".dockerconfigjson": self.credentials() },
        });
        let secrets = format!("/api/v1/namespaces/{NAMESPACE}/secrets");
        self.cluster.api().create(&secrets, &secret).await.unwrap();
    }

    /// A docker configuration for the registry.
    fn credentials(&self) -> String {
        let account = json!({
            "username": self.registry.username().unwrap(),
            "password": self.registry.password().unwrap(),
        });
        let mut auths = json!({});
        auths[self.registry.host()] = account;
        json!({ "auths": auths }).to_string()
    }

    /// What a program would take from its environment.
    async fn edge(&self) -> Edge {
        let lookup = |name: &str| match name {
            "DOCKER_CONFIG" => Some(self.files.path().display().to_string()),
            "AZURE_STORAGE_ENDPOINT" => Some(self.azurite.blob_endpoint()),
            "AZURE_STORAGE_ACCOUNT_KEY" => Some(self.azurite.key().to_owned()),
            "USER" => Some("ada".to_owned()),
            _ => None,
        };
        Edge::from_env(lookup).await.unwrap()
    }

    fn config(&self) -> Config {
        let text = format!(
            r#"
            state = "state"
            [app]
            name = "digits"
            repository = '{repository}'
            branch = "main"
            [model]
            url = "az://{CONTAINER}.{account}/digits@latest"
            [base]
            lock = "base.lock"
            [smoke]
            request = {golden:?}
            [registry]
            repository = "{host}/digits"
            ca = "ca.pem"
            tags = ["{{version}}-{{revision}}"]
            [deploy]
            kubeconfig = '{kubeconfig}'
            namespace = "{NAMESPACE}"
            replicas = 2
            expose = "load-balancer"
            dns_label = "digits-e2e"
            pull_secret = "{PULL_SECRET}"
            progress_deadline = "90s"
            [watch]
            poll = "500ms"
            "#,
            repository = self.repository.path().display(),
            account = self.azurite.account(),
            golden = golden().display(),
            host = self.registry.host(),
            kubeconfig = self.cluster.kubeconfig().display(),
        );
        let mut config = Config::parse(&text, "modelship.toml").unwrap();
        config.anchor(self.files.path());
        config
    }

    /// The road between these services; its events are printed.
    pub(crate) async fn pipeline(&self) -> Pipeline {
        let started = Instant::now();
        let print = move |event: Event| {
            let line = match event {
                Event::Note { stage, text } => format!("{stage}: {text}"),
                Event::Finished {
                    stage,
                    outcome,
                    elapsed,
                } => format!("{stage}: {outcome} ({elapsed:.1?})"),
                _ => return,
            };
            println!("{:6.1} s  {line}", started.elapsed().as_secs_f64());
        };
        Pipeline::from_config(&self.config(), self.edge().await)
            .await
            .unwrap()
            .with_progress(Arc::new(print))
    }

    /// Publishes a version of the model, as data scientists would; the digest of its files.
    pub(crate) async fn publish(&self, version: &str) -> String {
        let (config, edge) = (self.config(), self.edge().await);
        let folder = example().join("models/digits").join(version);
        let model = publish_model(&config.model.url, &edge, &folder, version, &silent()).await;
        model.unwrap().tree_digest().to_owned()
    }

    /// The Service through which users come.
    pub(crate) async fn service(&self) -> Value {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/services/digits");
        self.cluster.api().get(&path).await.unwrap().unwrap()
    }

    /// What has been written to the registry so far.
    pub(crate) fn written(&self) -> Written {
        let blobs = self.registry.requests("PUT", "/blobs/uploads/");
        let digest = |path: &str| {
            let (_, digest) = path.split_once("digest=")?;
            let digest = digest.split('&').next()?;
            Some(digest.replace("%3A", ":").replace("%3a", ":"))
        };
        Written {
            blobs: blobs.iter().filter_map(|put| digest(&put.path)).collect(),
            chunks: self.registry.requests("PATCH", "/blobs/uploads/").len(),
            starts: self.registry.requests("POST", "/blobs/uploads/").len(),
            manifests: self.registry.requests("PUT", "/manifests/").len(),
        }
    }
}

/// What the registry's access log tells of writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    /// The digests of uploaded blobs.
    pub(crate) blobs: BTreeSet<String>,
    /// Requests that carried bytes of blobs.
    pub(crate) chunks: usize,
    /// Uploads that were begun.
    pub(crate) starts: usize,
    /// Requests that wrote manifests and tags.
    pub(crate) manifests: usize,
}
