//! The configuration files of the node.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::{BRIDGE, CGROUP, PAUSE, text};
use crate::Missing;
use crate::cluster::broken;
use crate::cluster::network::Network;
use crate::cluster::pki::Pki;

/// The socket of the container runtime.
pub(super) fn socket(folder: &Path) -> PathBuf {
    folder.join("cri/c.sock")
}

/// Writes the configuration of containerd and of the pod network.
pub(super) fn write_runtime(folder: &Path, network: Network) -> Result<(), Missing> {
    // sun_path of unix(7), with the longest name below the folder.
    if text(&socket(folder)).len() + 40 > 107 {
        return Err(broken(format!(
            "{} is too long for sockets in it",
            folder.display()
        )));
    }
    for name in ["cni", "certs.d/_default"] {
        fs::create_dir_all(folder.join(name)).map_err(broken)?;
    }
    // Whatever registry a pod names, nothing is dialled but loopback (the discard port).
    fs::write(
        folder.join("certs.d/_default/hosts.toml"),
        hosts("http://127.0.0.1:9", None),
    )
    .map_err(broken)?;
    fs::write(folder.join("containerd.toml"), containerd(folder)).map_err(broken)?;
    // No default route: pods reach pods and Services, and nothing outside the machine.
    let addresses = json!({
        "type": "host-local",
        "ranges": [[{ "subnet": network.pods() }]],
        "routes": [{ "dst": network.all() }],
        "dataDir": folder.join("cni/addresses"),
    });
    let bridge = json!({
        "type": "bridge", "bridge": BRIDGE, "isGateway": true, "ipMasq": false,
        "hairpinMode": true, "ipam": addresses,
    });
    let pods = json!({ "cniVersion": "0.4.0", "name": CGROUP, "plugins": [bridge] });
    fs::write(folder.join("cni/10-pods.conflist"), pods.to_string()).map_err(broken)
}

fn containerd(folder: &Path) -> String {
    let path = |name: &str| text(&folder.join(name));
    let (root, state, socket) = (path("containerd"), path("cri"), text(&socket(folder)));
    let (cni, certificates, runc) = (path("cni"), path("certs.d"), path("cri/runc"));
    // restrict_oom_score_adj: without CAP_SYS_RESOURCE, as in a virtual machine or a container,
    // no sandbox starts otherwise.
    format!(
        r#"version = 2
root = "{root}"
state = "{state}"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  netns_mounts_under_state_dir = true
  stream_server_port = "0"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        Root = "{runc}"
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{certificates}"
"#
    )
}

/// Writes the configuration of the kubelet, which listens on `ports` (itself, and its health).
pub(super) fn write_kubelet(
    folder: &Path,
    pki: &Pki,
    network: Network,
    ports: (u16, u16),
) -> Result<(), Missing> {
    // Pods resolve nothing through the host's servers.
    let resolver = folder.join("resolv.conf");
    fs::write(&resolver, "nameserver 127.0.0.1\n").map_err(broken)?;
    let never = json!({
        "memory.available": "1Mi", "nodefs.available": "0%", "imagefs.available": "0%",
        "nodefs.inodesFree": "0%", "imagefs.inodesFree": "0%",
    });
    let kubelet = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": false,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{CGROUP}"),
        "containerRuntimeEndpoint": format!("unix://{}", text(&socket(folder))),
        "address": network.node(),
        "port": ports.0,
        "healthzPort": ports.1,
        "readOnlyPort": 0,
        "oomScoreAdj": 0,
        "failSwapOn": false,
        "enforceNodeAllocatable": [],
        // A full disk of the machine is no reason to evict pods of a test.
        "evictionHard": never,
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "makeIPTablesUtilChains": false,
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": false },
            "x509": { "clientCAFile": pki.file("ca.crt") },
        },
        "authorization": { "mode": "AlwaysAllow" },
        "tlsCertFile": pki.file("kubelet.crt"),
        "tlsPrivateKeyFile": pki.file("kubelet.key"),
        "clusterDomain": "cluster.local",
        "resolvConf": resolver,
        "registryPullQPS": 0,
        "serializeImagePulls": false,
        "podLogsDir": folder.join("podlogs"),
    });
    fs::write(folder.join("kubelet.json"), kubelet.to_string()).map_err(broken)
}

/// Lets containerd pull from `host`; it reads the file at each pull.
pub(super) fn trust(folder: &Path, host: &str, ca_pem: Option<&str>) -> Result<(), Missing> {
    let certificates = folder.join("certs.d").join(host);
    fs::create_dir_all(&certificates).map_err(broken)?;
    let scheme = if ca_pem.is_some() { "https" } else { "http" };
    let ca = certificates.join("ca.crt");
    if let Some(pem) = ca_pem {
        fs::write(&ca, pem).map_err(broken)?;
    }
    let hosts = hosts(&format!("{scheme}://{host}"), ca_pem.map(|_| ca.as_path()));
    fs::write(certificates.join("hosts.toml"), hosts).map_err(broken)
}

fn hosts(server: &str, ca: Option<&Path>) -> String {
    let ca = ca
        .map(|ca| format!("  ca = \"{}\"\n", ca.display()))
        .unwrap_or_default();
    format!(
        "server = \"{server}\"\n[host.\"{server}\"]\n  capabilities = [\"pull\", \"resolve\"]\n{ca}"
    )
}
