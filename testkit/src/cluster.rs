//! Kubernetes, as much of it as a test needs: the API alone, with controllers, or a whole node.

mod api;
mod control_plane;
mod controllers;
mod load_balancer;
mod network;
mod node;
mod pki;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::Mutex;

pub use api::Api;
pub use load_balancer::LoadBalancer;
pub use node::node_lock;

use crate::process::{Process, retry_taken};
use crate::{Missing, Scratch};
use network::Network;
use node::{Claim, Node};
use pki::Pki;

/// How much of a cluster runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// etcd and the API server: apply, conflicts, admission, records, leases, permissions.
    ControlPlane,
    /// Also controllers and scheduler: Deployments make pods, which stay pending for want of a node.
    Controllers,
    /// Also a real node, on which pods run. Needs root, and waits for the machine's other node.
    Node,
}

/// A cluster of its own, gone with its processes and files when dropped.
pub struct Cluster {
    // In the order in which they end: each before what it talks to.
    controllers: Vec<Process>,
    node: Option<Node>,
    control_plane: Vec<Process>,
    tier: Tier,
    api: Api,
    kubeconfig: PathBuf,
    kubeconfig_yaml: String,
    _scratch: Scratch,
}

impl Cluster {
    /// Starts a cluster and waits until it serves.
    ///
    /// # Errors
    /// When a program is missing, or does not start.
    pub async fn start(tier: Tier) -> Result<Self, Missing> {
        retry_taken(|| Self::try_start(tier)).await
    }

    /// The cluster that the running tests of this process share, started by the first that asks.
    ///
    /// It ends when the last of them lets go, so give each test a namespace of its own.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn shared(tier: Tier) -> Result<Arc<Self>, Missing> {
        // Weak, because nothing that a static holds is ever dropped.
        static SHARED: [Mutex<Weak<Cluster>>; 3] = [const { Mutex::const_new(Weak::new()) }; 3];
        let mut shared = SHARED[tier as usize].lock().await;
        if let Some(cluster) = shared.upgrade() {
            return Ok(cluster);
        }
        let cluster = Arc::new(Self::start(tier).await?);
        *shared = Arc::downgrade(&cluster);
        Ok(cluster)
    }

    async fn try_start(tier: Tier) -> Result<Self, Missing> {
        let claim = if tier == Tier::Node {
            Some(Claim::make().await?)
        } else {
            None
        };
        let network = claim
            .as_ref()
            .map_or(Network::UNUSED, |claim| claim.network);
        let scratch = Scratch::new().map_err(broken)?;
        let pki = Pki::write(&scratch.join("pki"), &[&network.api()])?;
        let server = control_plane::Server::new(&network.services(), tier >= Tier::Controllers);
        let api = Api::new(&server.url(), &pki)?;
        let control_plane = server.start(&scratch, &pki, &api).await?;
        let kubeconfig_yaml = pki.kubeconfig(&server.url(), "admin")?;
        let kubeconfig = scratch.join("admin.kubeconfig");
        std::fs::write(&kubeconfig, &kubeconfig_yaml).map_err(broken)?;
        let mut controllers = Vec::new();
        if tier >= Tier::Controllers {
            controllers = controllers::start(&scratch, &pki, &server.url()).await?;
        }
        let node = match claim {
            Some(claim) => Some(Node::start(&scratch, &pki, &api, claim).await?),
            None => None,
        };
        let cluster = Self {
            controllers,
            node,
            control_plane,
            tier,
            api,
            kubeconfig,
            kubeconfig_yaml,
            _scratch: scratch,
        };
        cluster.wait_service_account("default").await?;
        Ok(cluster)
    }

    /// How much of the cluster runs.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// The administrator's kubeconfig file.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The administrator's kubeconfig, complete in itself.
    pub fn kubeconfig_yaml(&self) -> &str {
        &self.kubeconfig_yaml
    }

    /// Plain requests as administrator, to look at what a client under test has done.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// The processes of the cluster.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        let node = self.node.iter().flat_map(Node::processes);
        self.control_plane
            .iter()
            .chain(&self.controllers)
            .chain(node)
    }

    /// Lets the node pull from the registry at `host` (`NAME:PORT`): over HTTPS with this
    /// certificate authority, or over HTTP without one. All others it refuses to dial.
    ///
    /// # Errors
    /// When there is no node.
    pub fn trust_registry(&self, host: &str, ca_pem: Option<&str>) -> Result<(), Missing> {
        let node = self
            .node
            .as_ref()
            .ok_or_else(|| broken("this tier has no node"))?;
        node.trust_registry(host, ca_pem)
    }

    /// Makes a namespace that admits only pods of the `restricted` standard, as on a strict AKS.
    ///
    /// # Errors
    /// When it exists already.
    pub async fn namespace(&self, name: &str) -> Result<(), Missing> {
        let labels = json!({ "pod-security.kubernetes.io/enforce": "restricted" });
        let namespace = json!({ "metadata": { "name": name, "labels": labels } });
        self.api.create("/api/v1/namespaces", &namespace).await?;
        self.wait_service_account(name).await
    }

    /// Assigns addresses to Services of type LoadBalancer until the result is dropped.
    ///
    /// # Errors
    /// When its thread cannot be started.
    pub fn load_balancer(&self) -> Result<LoadBalancer, Missing> {
        LoadBalancer::start(self.api.clone())
    }

    /// Waits for what the controllers put into each namespace, and pods cannot do without.
    async fn wait_service_account(&self, namespace: &str) -> Result<(), Missing> {
        if self.tier < Tier::Controllers {
            return Ok(());
        }
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/default");
        let deadline = Instant::now() + Duration::from_mins(1);
        while self.api.get(&path).await?.is_none() {
            if Instant::now() > deadline {
                return Err(broken(format!("no default service account in {namespace}")));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("tier", &self.tier)
            .finish_non_exhaustive()
    }
}

fn broken(error: impl fmt::Display) -> Missing {
    Missing::broken("kubernetes", error)
}
