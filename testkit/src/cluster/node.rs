//! A real node: container runtime, kubelet, pod network and Service addresses. Needs root.
//!
//! A node changes the machine outside its folder: a bridge, packet filter rules, control groups.
//! So there is one at a time on a machine, its traces have fixed names, and each start begins by
//! removing what a killed one left.

mod config;
mod pause;
mod remains;
mod tunables;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::api::Api;
use super::broken;
use super::network::Network;
use super::pki::Pki;
use crate::process::{Launch, Process, free_port};
use crate::tls::Subject;
use crate::{Missing, Scratch, Tool, scratch, tool};
use tunables::Tunables;

/// The node's name.
const NAME: &str = "n1";
/// The bridge between its pods, whose address is the node's.
const BRIDGE: &str = "modelship0";
/// The control group above those of its pods.
const CGROUP: &str = "modelship-testkit";
/// The image of which each pod's first container is made.
const PAUSE: &str = "test.local/pause:1";

/// The right to be the machine's node, with the machine's state from before.
pub(super) struct Claim {
    // Its file is the locked one.
    tunables: Tunables,
    pub(super) network: Network,
}

impl Claim {
    /// Waits until no other node of ours runs, and removes what a killed one left.
    ///
    /// # Errors
    /// When this is not root, a program is missing, or somebody else's node runs here.
    pub(super) async fn make() -> Result<Self, Missing> {
        if !rustix::process::geteuid().is_root() {
            return Err(Missing::absent("kubernetes node", "needs root"));
        }
        if !cfg!(target_arch = "x86_64") {
            return Err(Missing::absent(
                "kubernetes node",
                "has a pause image for x86-64 only",
            ));
        }
        let needed = [
            Tool::Containerd,
            Tool::Runc,
            Tool::CniPlugins,
            Tool::Iptables,
        ];
        for tool in needed.into_iter().chain([Tool::Iproute, Tool::Conntrack]) {
            tool::path(tool)?;
        }
        let lock = lock(Duration::from_mins(15)).await?;
        let left = scratch::abandoned(&std::env::temp_dir()).map_err(broken)?;
        if remains::exist() {
            remains::remove(&left);
        }
        // A kubelet of ours is killed together with its test, which takes a moment.
        let deadline = Instant::now() + Duration::from_secs(10);
        while remains::processes(|command| {
            command
                .first()
                .is_some_and(|name| name.ends_with("kubelet"))
        })
        .next()
        .is_some()
        {
            if Instant::now() > deadline {
                return Err(Missing::absent(
                    "kubernetes node",
                    "this machine is a node already",
                ));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let tunables = Tunables::keep(lock).map_err(broken)?;
        let network = Network::free()?;
        Ok(Self { tunables, network })
    }
}

/// The file that is locked, and holds the machine's settings from before, as long as a node of ours exists on this machine.
pub fn node_lock() -> PathBuf {
    std::env::temp_dir().join("modelship-testkit-node.lock")
}

async fn lock(limit: Duration) -> Result<File, Missing> {
    let mut options = File::options();
    let file = options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(node_lock());
    let file = file.map_err(broken)?;
    let deadline = Instant::now() + limit;
    while file.try_lock().is_err() {
        if Instant::now() > deadline {
            return Err(broken(format!(
                "another test's node runs for more than {limit:?}"
            )));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(file)
}

/// The running node.
pub(super) struct Node {
    processes: Vec<Process>,
    folder: PathBuf,
    api: Api,
    claim: Claim,
}

impl Node {
    /// Starts the node and waits until it is ready for pods.
    pub(super) async fn start(
        scratch: &Scratch,
        pki: &Pki,
        api: &Api,
        claim: Claim,
    ) -> Result<Self, Missing> {
        let network = claim.network;
        let address = network.node();
        let name = format!("system:node:{NAME}");
        let hosts = [NAME, "127.0.0.1", &address];
        pki.issue(
            "kubelet",
            &Subject {
                name: &name,
                organisation: Some("system:nodes"),
                hosts: &hosts,
            },
        )?;
        pki.issue(
            "proxy",
            &Subject {
                name: "system:kube-proxy",
                organisation: None,
                hosts: &[NAME],
            },
        )?;
        let folder = scratch.path().to_owned();
        let mut node = Self {
            processes: Vec::new(),
            folder,
            api: api.clone(),
            claim,
        };
        remains::make_cgroup()?;
        // Before the kubelet, which refuses an address that no interface has.
        remains::ip(&["link", "add", BRIDGE, "type", "bridge"])?;
        remains::ip(&["addr", "add", &format!("{address}/24"), "dev", BRIDGE])?;
        remains::ip(&["link", "set", BRIDGE, "up"])?;
        // Until kube-proxy has rules for a Service, connections to it must not leave the machine.
        remains::ip(&["route", "add", &network.all(), "dev", BRIDGE])?;
        node.start_containerd().await?;
        node.start_kubelet(pki, network).await?;
        node.start_proxy(pki, network).await?;
        Ok(node)
    }

    /// The running processes.
    pub(super) fn processes(&self) -> impl Iterator<Item = &Process> {
        self.processes.iter()
    }

    /// Lets the node pull from a registry, over HTTP when it has no authority.
    pub(super) fn trust_registry(&self, host: &str, ca_pem: Option<&str>) -> Result<(), Missing> {
        config::trust(&self.folder, host, ca_pem)
    }

    async fn start_containerd(&mut self) -> Result<(), Missing> {
        config::write_runtime(&self.folder, self.claim.network)?;
        let socket = config::socket(&self.folder);
        let mut containerd = Launch::new("containerd", tool::path(Tool::Containerd)?)?
            .args([
                "--config".as_ref(),
                self.folder.join("containerd.toml").as_os_str(),
            ])
            .start(&self.folder.join("containerd.log"))?;
        let listens = || async { tokio::net::UnixStream::connect(&socket).await.is_ok() };
        containerd
            .wait_ready(Duration::from_mins(1), listens)
            .await?;
        self.processes.push(containerd);
        let archive = self.folder.join("pause.tar");
        std::fs::write(&archive, pause::archive(PAUSE).map_err(broken)?).map_err(broken)?;
        let ctr = tool::program("ctr").ok_or_else(|| Missing::absent("containerd", "no ctr"))?;
        Launch::new("ctr", ctr)?
            .args(["--address".as_ref(), socket.as_os_str()])
            .args(["--namespace", "k8s.io", "images", "import"])
            .args([&archive])
            .start(&self.folder.join("ctr.log"))?
            .wait()
    }

    async fn start_kubelet(&mut self, pki: &Pki, network: Network) -> Result<(), Missing> {
        let health = free_port();
        config::write_kubelet(&self.folder, pki, network, (free_port(), health))?;
        let root = self.folder.join("kubelet");
        let server = self.api.server();
        let kubelet = Launch::new("kubelet", tool::path(Tool::Kubernetes)?.join("kubelet"))?
            .args([format!(
                "--config={}",
                self.folder.join("kubelet.json").display()
            )])
            .args([format!(
                "--kubeconfig={}",
                pki.write_kubeconfig(server, "kubelet")?
            )])
            .args([format!("--root-dir={}", root.display())])
            .args([format!("--cert-dir={}", root.join("pki").display())])
            .args([
                format!("--hostname-override={NAME}"),
                format!("--node-ip={}", network.node()),
            ])
            .start(&self.folder.join("kubelet.log"))?;
        self.processes.insert(0, kubelet);
        let api = self.api.clone();
        self.processes[0]
            .wait_ready(Duration::from_mins(2), || is_ready(&api))
            .await
    }

    async fn start_proxy(&mut self, pki: &Pki, network: Network) -> Result<(), Missing> {
        let (health, metrics) = (free_port(), free_port());
        let proxy = Launch::new(
            "kube-proxy",
            tool::path(Tool::Kubernetes)?.join("kube-proxy"),
        )?
        .args([format!(
            "--kubeconfig={}",
            pki.write_kubeconfig(self.api.server(), "proxy")?
        )])
        .args([format!("--hostname-override={NAME}")])
        .args([format!("--cluster-cidr={}", network.pods())])
        .args([format!("--healthz-bind-address=127.0.0.1:{health}")])
        .args([format!("--metrics-bind-address=127.0.0.1:{metrics}")])
        // The host's connection tracking stays as it is.
        .args(["--proxy-mode=iptables", "--conntrack-max-per-core=0"])
        .args([
            "--conntrack-tcp-timeout-established=0s",
            "--conntrack-tcp-timeout-close-wait=0s",
        ])
        .start(&self.folder.join("kube-proxy.log"))?;
        self.processes.insert(0, proxy);
        let client = crate::process::client("kube-proxy", None)?;
        let url = format!("http://127.0.0.1:{health}/healthz");
        let healthy = || async {
            let answer = client.get(&url).send().await;
            answer.is_ok_and(|answer| answer.status().is_success())
        };
        self.processes[0]
            .wait_ready(Duration::from_mins(1), healthy)
            .await
    }
}

async fn is_ready(api: &Api) -> bool {
    let Ok(Some(node)) = api.get(&format!("/api/v1/nodes/{NAME}")).await else {
        return false;
    };
    let conditions = node["status"]["conditions"].as_array();
    let ready = |kind: &serde_json::Value| kind["type"] == "Ready" && kind["status"] == "True";
    conditions.is_some_and(|conditions| conditions.iter().any(ready))
}

impl Drop for Node {
    /// Pods first, while the kubelet can still take them down in order; then what remains.
    fn drop(&mut self) {
        if !self.processes.is_empty() {
            delete_pods(&self.api);
        }
        self.processes.clear();
        remains::remove(std::slice::from_ref(&self.folder));
        self.claim.tunables.restore();
    }
}

/// Deletes all pods and waits for their end, at most half a minute, on a thread of its own: this
/// is called where a runtime may be running already.
fn delete_pods(api: &Api) {
    const PODS: &str = "/api/v1/pods";
    let work = async {
        while let Ok(Some(list)) = api.get(PODS).await {
            let pods = list["items"].as_array().cloned().unwrap_or_default();
            if pods.is_empty() {
                break;
            }
            for pod in pods.iter().map(|pod| &pod["metadata"]) {
                if let (Some(space), Some(name)) = (pod["namespace"].as_str(), pod["name"].as_str())
                {
                    let path = format!("/api/v1/namespaces/{space}/pods/{name}");
                    let _ = api.delete(&format!("{path}?gracePeriodSeconds=1")).await;
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            if let Ok(runtime) = runtime {
                let limited = async { tokio::time::timeout(Duration::from_secs(30), work).await };
                let _ = runtime.block_on(limited);
            }
        });
    });
}

/// The path as text for a configuration file.
fn text(path: &Path) -> String {
    path.display().to_string()
}
