//! Kubernetes, as much of it as a test needs: the API alone, with controllers, or a whole node.

mod api;
mod control_plane;
mod controllers;
mod load_balancer;
mod pki;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::Mutex;

pub use api::Api;
pub use load_balancer::LoadBalancer;

use crate::process::{Process, retry_taken};
use crate::{Missing, Scratch};
use pki::Pki;

/// How much of a cluster runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// etcd and the API server: apply, conflicts, admission, records, leases, permissions.
    ControlPlane,
    /// Also controllers and scheduler: Deployments make pods, which stay pending for want of a node.
    Controllers,
}

/// A cluster of its own, gone with its processes and files when dropped.
pub struct Cluster {
    // In the order in which they end: each before what it talks to.
    controllers: Vec<Process>,
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
        static SHARED: [Mutex<Weak<Cluster>>; 2] = [const { Mutex::const_new(Weak::new()) }; 2];
        let mut shared = SHARED[tier as usize].lock().await;
        if let Some(cluster) = shared.upgrade() {
            return Ok(cluster);
        }
        let cluster = Arc::new(Self::start(tier).await?);
        *shared = Arc::downgrade(&cluster);
        Ok(cluster)
    }

    async fn try_start(tier: Tier) -> Result<Self, Missing> {
        let scratch = Scratch::new().map_err(broken)?;
        let pki = Pki::write(&scratch.join("pki"), &["10.96.0.1"])?;
        let server = control_plane::Server::new("10.96.0.0/16", tier >= Tier::Controllers);
        let api = Api::new(&server.url(), &pki)?;
        let control_plane = server.start(&scratch, &pki, &api).await?;
        let kubeconfig_yaml = pki.kubeconfig(&server.url(), "admin")?;
        let kubeconfig = scratch.join("admin.kubeconfig");
        std::fs::write(&kubeconfig, &kubeconfig_yaml).map_err(broken)?;
        let mut controllers = Vec::new();
        if tier >= Tier::Controllers {
            controllers = controllers::start(&scratch, &pki, &server.url()).await?;
        }
        let cluster = Self {
            controllers,
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
        self.control_plane.iter().chain(&self.controllers)
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
