//! A namespace of its own in a shared cluster, and a deployer into it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use modelship_deployer::{AppSpec, Deployer, Event, Limits, Outcome, ReleaseRecord, Resources};
use modelship_testkit::cluster::{Cluster, Tier};
use modelship_testkit::need;
use serde_json::Value;

use crate::kubelet::Kubelet;

pub(crate) const APP: &str = "digits";

/// Everything a test needs.
pub(crate) struct World {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) namespace: String,
    _kubelet: Option<Kubelet>,
}

impl World {
    /// The API server alone, and an empty namespace.
    pub(crate) async fn api_only(namespace: &str) -> Option<Self> {
        let cluster = need(Cluster::shared(Tier::ControlPlane).await)?;
        need(cluster.namespace(namespace).await)?;
        Some(Self {
            cluster,
            namespace: namespace.to_owned(),
            _kubelet: None,
        })
    }

    /// Controllers, scheduler and a scripted node, and an empty namespace.
    pub(crate) async fn with_node(namespace: &str) -> Option<Self> {
        let cluster = need(Cluster::shared(Tier::Controllers).await)?;
        need(cluster.namespace(namespace).await)?;
        let kubelet = need(Kubelet::start(cluster.api().clone(), namespace).await)?;
        Some(Self {
            cluster,
            namespace: namespace.to_owned(),
            _kubelet: Some(kubelet),
        })
    }

    /// A deployer into the namespace, with the waits of a fast node.
    pub(crate) async fn deployer(&self) -> Deployer {
        Deployer::from_kubeconfig(self.cluster.kubeconfig(), None, &self.namespace)
            .await
            .expect("the kubeconfig is whole")
            .with_limits(limits())
    }

    /// The objects of one kind in the namespace, by its path such as `apps/v1/deployments`.
    pub(crate) async fn list(&self, kind: &str) -> Vec<Value> {
        let path = self.path(kind);
        let list = self
            .cluster
            .api()
            .get(&path)
            .await
            .expect("the API server lists");
        list.and_then(|list| list["items"].as_array().cloned())
            .unwrap_or_default()
    }

    /// One object in the namespace.
    pub(crate) async fn get(&self, kind: &str, name: &str) -> Option<Value> {
        let path = format!("{}/{name}", self.path(kind));
        self.cluster
            .api()
            .get(&path)
            .await
            .expect("the API server answers")
    }

    /// The path of a kind in the namespace.
    pub(crate) fn path(&self, kind: &str) -> String {
        let (version, plural) = kind.rsplit_once('/').expect("version/plural");
        let root = if version == "v1" { "/api" } else { "/apis" };
        format!("{root}/{version}/namespaces/{}/{plural}", self.namespace)
    }

    /// Every object a release writes, as kind, name and resource version.
    pub(crate) async fn versions(&self) -> Vec<(String, String, String)> {
        let mut versions = Vec::new();
        for kind in [
            "v1/configmaps",
            "v1/services",
            "v1/serviceaccounts",
            "apps/v1/deployments",
            "apps/v1/replicasets",
            "policy/v1/poddisruptionbudgets",
            "coordination.k8s.io/v1/leases",
        ] {
            for object in self.list(kind).await {
                let text = |key: &str| {
                    object["metadata"][key]
                        .as_str()
                        .unwrap_or_default()
                        .to_owned()
                };
                versions.push((kind.to_owned(), text("name"), text("resourceVersion")));
            }
        }
        versions
    }
}

/// The rules of production with shorter waits.
pub(crate) fn limits() -> Limits {
    let mut limits = Limits::default();
    limits.poll = Duration::from_millis(100);
    limits.patience.image = Duration::from_secs(1);
    limits.patience.denied = Duration::from_secs(5);
    limits.patience.margin = Duration::from_secs(1);
    limits.patience.unschedulable = Duration::from_secs(1);
    limits
}

/// Two replicas of the image whose digest consists of this hex digit; see `kubelet` for its fate.
pub(crate) fn app(digit: char) -> AppSpec {
    let digest = digit.to_string().repeat(64);
    let image = format!("registry.invalid/team/digits@sha256:{digest}");
    AppSpec::flask(APP, image.parse().expect("a pinned reference"))
        .with_resources(Resources::new("10m", "16Mi", "64Mi"))
        .with_min_ready(Duration::ZERO)
        .with_startup_time(Duration::from_secs(3))
}

/// The record of a release with this key.
pub(crate) fn record(key: &str) -> ReleaseRecord {
    ReleaseRecord::new(key)
        .with_commit("0123abc")
        .with_model("digits", "1.0", "sha256:77")
}

/// Releases the image with this digit under a key of the same name.
pub(crate) async fn release(deployer: &Deployer, digit: char) -> Outcome {
    deployer
        .release(&app(digit), &record(&digit.to_string()), &|_| {})
        .await
        .expect("a release that ends in an outcome")
}

/// A sink that keeps the events.
#[derive(Default)]
pub(crate) struct Events(Mutex<Vec<Event>>);

impl Events {
    pub(crate) fn sink(&self) -> impl Fn(Event) + Send + Sync + '_ {
        |event| self.0.lock().expect("no test panics here").push(event)
    }

    pub(crate) fn all(&self) -> Vec<Event> {
        self.0.lock().expect("no test panics here").clone()
    }
}
