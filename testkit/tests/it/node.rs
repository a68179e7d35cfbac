//! A real node runs a pod, answers for a Service, and leaves no trace.

use std::path::Path;

use modelship_testkit::{Cluster, DockerRegistry, Judge, Tier, Tool, need};
use serde_json::{Value, json};

use crate::cluster::{assert_leaves_nothing, wait_for};

/// What of the machine a node could leave changed.
fn machine() -> Vec<String> {
    let mut seen = Vec::new();
    for folder in [
        "/sys/class/net",
        "/run/containerd/s",
        "/var/lib/cni/results",
        "/run/netns",
    ] {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            seen.push(entry.path().display().to_string());
        }
    }
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup")
        .into_iter()
        .flatten()
        .flatten()
    {
        for name in ["modelship-testkit", "kubepods"] {
            let group = hierarchy.path().join(name);
            seen.extend(group.exists().then(|| group.display().to_string()));
        }
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let ours = mounts
        .lines()
        .filter(|line| line.contains("modelship-testkit-"));
    seen.extend(ours.map(str::to_owned));
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let command = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        seen.extend(command.contains("containerd-shim").then_some(command));
    }
    for program in ["iptables-save", "ip6tables-save"] {
        let rules = std::process::Command::new(program).output();
        let rules = rules.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        let rules = rules.unwrap_or_default();
        seen.extend(
            rules
                .lines()
                .filter(|line| line.contains("KUBE-"))
                .map(str::to_owned),
        );
    }
    seen.sort();
    seen
}

fn restricted_pod(name: &str, image: &str) -> Value {
    let container = json!({
        "name": "c", "image": image, "imagePullPolicy": "IfNotPresent",
        "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
    });
    let security = json!({
        "runAsNonRoot": true, "runAsUser": 10001, "seccompProfile": { "type": "RuntimeDefault" },
    });
    json!({
        "metadata": { "name": name },
        "spec": { "containers": [container], "securityContext": security },
    })
}

#[tokio::test]
async fn a_node_runs_pods_and_leaves_no_trace() {
    let before = machine();
    let Some(cluster) = need(Cluster::start(Tier::Node).await) else {
        return;
    };
    let api = cluster.api();
    cluster.namespace("apps").await.unwrap();
    let pods = "/api/v1/namespaces/apps/pods";
    api.create(pods, &restricted_pod("pause", "test.local/pause:1"))
        .await
        .unwrap();
    let path = format!("{pods}/pause");
    wait_for(api, &path, |pod| pod["status"]["phase"] == "Running").await;

    // No registry is dialled that is not trusted.
    api.create(pods, &restricted_pod("elsewhere", "registry.invalid/a:1"))
        .await
        .unwrap();
    let waiting = |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["waiting"].clone();
    let refused = |pod: &Value| waiting(pod)["message"].to_string().contains("127.0.0.1:9");
    wait_for(api, &format!("{pods}/elsewhere"), refused).await;

    pulls_from_a_trusted_registry(&cluster).await;
    assert_leaves_nothing(cluster);
    assert_eq!(machine(), before);
    assert!(!Path::new("/sys/class/net/modelship0").exists());
}

/// The registry's image has no program, so that its pull is proved by how its pod fails.
async fn pulls_from_a_trusted_registry(cluster: &Cluster) {
    let Some(registry) = need(DockerRegistry::open().await) else {
        return;
    };
    let judge = Judge::of(&registry).unwrap();
    let image = format!("{}/empty:1", registry.host());
    let Some(_) = need(judge.ask(Tool::Umoci, &["init", "--layout", "made"]).await) else {
        return;
    };
    judge
        .ask(Tool::Umoci, &["new", "--image", "made:1"])
        .await
        .unwrap()
        .succeeded();
    let copy = ["copy", "oci:made:1", &format!("docker://{image}")];
    judge.ask(Tool::Skopeo, &copy).await.unwrap().succeeded();
    cluster
        .trust_registry(&registry.host(), registry.ca_pem())
        .unwrap();
    let pods = "/api/v1/namespaces/apps/pods";
    cluster
        .api()
        .create(pods, &restricted_pod("empty", &image))
        .await
        .unwrap();
    let pulled = |pod: &Value| {
        let state = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        state["message"]
            .to_string()
            .contains("no command specified")
    };
    wait_for(cluster.api(), &format!("{pods}/empty"), pulled).await;
    assert!(
        !registry.requests("GET", "/manifests/").is_empty(),
        "{}",
        registry.log()
    );
}
