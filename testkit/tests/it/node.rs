//! A real node runs a pod, answers for a Service, and leaves no trace.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use modelship_testkit::cluster::node_lock;
use modelship_testkit::{Cluster, DockerRegistry, Judge, Tier, Tool, need};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

use crate::cluster::{assert_leaves_nothing, wait_for};

/// The tests of this file look at the whole machine, which the others' nodes change.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// Asserts that no trace of any node is left, at a moment when nobody has one.
fn assert_no_trace() {
    let lock = File::open(node_lock()).unwrap();
    lock.lock().unwrap();
    let mut seen = Vec::new();
    for folder in [
        "/sys/class/net/modelship0",
        "/run/containerd/s",
        "/var/lib/cni/results",
        "/var/lib/kubelet",
    ] {
        seen.extend(Path::new(folder).exists().then(|| folder.to_owned()));
    }
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup")
        .into_iter()
        .flatten()
        .flatten()
    {
        let group = hierarchy.path().join("modelship-testkit");
        seen.extend(group.exists().then(|| group.display().to_string()));
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let ours = mounts
        .lines()
        .filter(|line| line.contains("modelship-testkit-"));
    seen.extend(ours.map(str::to_owned));
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let command = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        let ours = command.contains("containerd-shim") && command.contains("modelship-testkit-");
        seen.extend(ours.then_some(command));
    }
    for program in ["iptables-save", "ip6tables-save"] {
        let rules = Command::new(program).output().unwrap();
        let rules = String::from_utf8_lossy(&rules.stdout).into_owned();
        seen.extend(
            rules
                .lines()
                .filter(|line| line.contains("KUBE-"))
                .map(str::to_owned),
        );
    }
    assert!(seen.is_empty(), "{seen:#?}");
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

async fn run_pause(cluster: &Cluster) -> Value {
    cluster.namespace("apps").await.unwrap();
    let pods = "/api/v1/namespaces/apps/pods";
    let pod = restricted_pod("pause", "test.local/pause:1");
    cluster.api().create(pods, &pod).await.unwrap();
    let running = |pod: &Value| pod["status"]["phase"] == "Running";
    wait_for(cluster.api(), &format!("{pods}/pause"), running).await
}

#[tokio::test]
async fn a_node_runs_pods_and_leaves_no_trace() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let Some(cluster) = need(Cluster::start(Tier::Node).await) else {
        return;
    };
    let pod = run_pause(&cluster).await;

    // Who refuses a connection has been reached.
    let address: IpAddr = pod["status"]["podIP"].as_str().unwrap().parse().unwrap();
    let refused = TcpStream::connect((address, 1)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);

    // No registry is dialled that is not trusted.
    let pods = "/api/v1/namespaces/apps/pods";
    let elsewhere = restricted_pod("elsewhere", "registry.invalid/a:1");
    cluster.api().create(pods, &elsewhere).await.unwrap();
    let refused = |pod: &Value| waiting(pod).contains("127.0.0.1:9");
    wait_for(cluster.api(), &format!("{pods}/elsewhere"), refused).await;

    pulls_from_trusted_registries(&cluster).await;
    answers_for_a_service(&cluster).await;
    assert_leaves_nothing(cluster);
    assert_no_trace();
}

/// Why the first container of a pod waits.
fn waiting(pod: &Value) -> String {
    pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"].to_string()
}

/// A server on the node's address stands for a pod, behind the address of a Service.
async fn answers_for_a_service(cluster: &Cluster) {
    let api = cluster.api();
    let node = api.get("/api/v1/nodes/n1").await.unwrap().unwrap();
    let address = node["status"]["addresses"][0]["address"].as_str().unwrap();
    let server = TcpListener::bind((address, 0)).await.unwrap();
    let _balancer = cluster.load_balancer().unwrap();
    let service = json!({
        "metadata": { "name": "web" },
        "spec": { "type": "LoadBalancer", "ports": [{ "port": 80 }] },
    });
    api.create("/api/v1/namespaces/apps/services", &service)
        .await
        .unwrap();
    let slice = json!({
        "metadata": { "name": "web", "labels": { "kubernetes.io/service-name": "web" } },
        "addressType": "IPv4",
        "ports": [{ "port": server.local_addr().unwrap().port() }],
        "endpoints": [{ "addresses": [address] }],
    });
    let slices = "/apis/discovery.k8s.io/v1/namespaces/apps/endpointslices";
    api.create(slices, &slice).await.unwrap();

    let ingress = |service: &Value| service["status"]["loadBalancer"]["ingress"][0]["ip"].clone();
    let path = "/api/v1/namespaces/apps/services/web";
    let service = wait_for(api, path, |service| ingress(service).is_string()).await;
    let outer: IpAddr = ingress(&service).as_str().unwrap().parse().unwrap();
    let deadline = Instant::now() + Duration::from_mins(1);
    let connected = async {
        // Refused until kube-proxy has written its rules.
        while TcpStream::connect((outer, 80)).await.is_err() {
            assert!(Instant::now() < deadline, "{outer}:80 does not answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let (accepted, ()) = tokio::join!(server.accept(), connected);
    accepted.unwrap();

    // A connection that finds no rules does not leave the machine.
    let route = Command::new("ip")
        .args(["route", "get", &outer.to_string()])
        .output()
        .unwrap();
    let route = String::from_utf8_lossy(&route.stdout).into_owned();
    assert!(route.contains("dev modelship0"), "{route}");
}

async fn pulls_from_trusted_registries(cluster: &Cluster) {
    let Some(open) = need(DockerRegistry::open().await) else {
        return;
    };
    pulls_from(cluster, &open, "open").await;
    let Some(secured) = need(DockerRegistry::tls_htpasswd().await) else {
        return;
    };
    pulls_from(cluster, &secured, "secured").await;
}

/// The image has no program: that its pod fails for this alone proves the pull.
async fn pulls_from(cluster: &Cluster, registry: &DockerRegistry, name: &str) {
    let judge = Judge::of(registry).unwrap();
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
    let Some(copied) = need(judge.ask(Tool::Skopeo, &copy).await) else {
        return;
    };
    copied.succeeded();
    cluster
        .trust_registry(&registry.host(), registry.ca_pem())
        .unwrap();
    // With the credentials of the judge.
    let config = std::fs::read_to_string(judge.home().join(".docker/config.json")).unwrap();
    let secret = json!({
        "metadata": { "name": name },
        "type": "kubernetes.io/dockerconfigjson",
        "stringData": { ".dockerconfigjson": config },
    });
    let api = cluster.api();
    api.create("/api/v1/namespaces/apps/secrets", &secret)
        .await
        .unwrap();
    let mut pod = restricted_pod(name, &image);
    pod["spec"]["imagePullSecrets"] = json!([{ "name": name }]);
    let pods = "/api/v1/namespaces/apps/pods";
    api.create(pods, &pod).await.unwrap();
    let pulled = |pod: &Value| waiting(pod).contains("no command specified");
    wait_for(api, &format!("{pods}/{name}"), pulled).await;
}

const CHILD: &str = "MODELSHIP_TESTKIT_KILLED_NODE";

/// Starts a node with a pod, says so, and waits to be killed. Only as a child of the test below.
#[tokio::test]
async fn child_with_a_node_that_waits_to_be_killed() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let cluster = Cluster::start(Tier::Node).await.unwrap();
    run_pause(&cluster).await;
    println!("\nSTARTED {}", cluster.kubeconfig().display());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_start_removes_what_a_killed_node_left() {
    let _alone = ONE_AT_A_TIME.lock().await;
    // Says whether a node can run here at all.
    let Some(first) = need(Cluster::start(Tier::Node).await) else {
        return;
    };
    assert_leaves_nothing(first);

    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "node::child_with_a_node_that_waits_to_be_killed",
            "--nocapture",
        ])
        .env(CHILD, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let line = lines
        .into_iter()
        .find(|line| line.starts_with("STARTED "))
        .unwrap();
    let left = Path::new(&line["STARTED ".len()..]).parent().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(left.is_dir());

    let next = Cluster::start(Tier::Node).await.unwrap();
    assert!(!left.exists(), "{} is still there", left.display());
    run_pause(&next).await;
    assert_leaves_nothing(next);
    assert_no_trace();
}
