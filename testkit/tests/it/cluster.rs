//! The API server alone, and with controllers.

use std::time::{Duration, Instant};

use modelship_testkit::cluster::Api;
use modelship_testkit::{Cluster, Tier, need};
use serde_json::{Value, json};

use crate::is_alive;

/// Reads `path` until `done` likes it.
pub(crate) async fn wait_for(api: &Api, path: &str, done: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        let seen = api.get(path).await.unwrap().unwrap_or_default();
        if done(&seen) {
            return seen;
        }
        assert!(Instant::now() < deadline, "{path} stayed {seen:#}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Drops the cluster and asserts that its processes and its folder are gone.
pub(crate) fn assert_leaves_nothing(cluster: Cluster) {
    let pids: Vec<_> = cluster
        .processes()
        .map(modelship_testkit::process::Process::pid)
        .collect();
    let folder = cluster.kubeconfig().parent().unwrap().to_owned();
    assert!(pids.iter().all(|pid| is_alive(*pid)) && folder.is_dir());
    drop(cluster);
    assert!(!pids.iter().any(|pid| is_alive(*pid)));
    assert!(!folder.exists(), "{} is still there", folder.display());
}

fn pod(security: &Value) -> Value {
    let container =
        json!({ "name": "c", "image": "test.local/pause:1", "securityContext": security });
    json!({ "metadata": { "name": "p" }, "spec": { "containers": [container] } })
}

#[tokio::test]
async fn the_control_plane_admits_by_the_restricted_standard() {
    let Some(cluster) = need(Cluster::start(Tier::ControlPlane).await) else {
        return;
    };
    cluster.namespace("strict").await.unwrap();
    let pods = "/api/v1/namespaces/strict/pods";
    let refused = cluster
        .api()
        .create(pods, &pod(&json!({})))
        .await
        .unwrap_err();
    assert!(refused.reason.contains("violates PodSecurity"), "{refused}");
    let strict = json!({
        "runAsNonRoot": true,
        "allowPrivilegeEscalation": false,
        "seccompProfile": { "type": "RuntimeDefault" },
        "capabilities": { "drop": ["ALL"] },
    });
    cluster.api().create(pods, &pod(&strict)).await.unwrap();
    let version = cluster.api().get("/version").await.unwrap().unwrap();
    assert_eq!(version["gitVersion"], "v1.36.3");
    assert_leaves_nothing(cluster);
}

#[tokio::test]
async fn controllers_make_pods_and_the_load_balancer_gives_addresses() {
    let Some(cluster) = need(Cluster::start(Tier::Controllers).await) else {
        return;
    };
    cluster.namespace("apps").await.unwrap();
    let api = cluster.api();
    let labels = json!({ "app": "web" });
    let deployment = json!({
        "metadata": { "name": "web" },
        "spec": {
            "replicas": 2,
            "selector": { "matchLabels": labels },
            "template": { "metadata": { "labels": labels }, "spec": {
                "securityContext": { "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } },
                "containers": [{ "name": "c", "image": "test.local/pause:1", "securityContext": {
                    "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } } }],
            } },
        },
    });
    api.create("/apis/apps/v1/namespaces/apps/deployments", &deployment)
        .await
        .unwrap();
    let unschedulable = |list: &Value| {
        list["items"].as_array().is_some_and(|pods| {
            let waits = |pod: &Value| pod["status"]["conditions"][0]["reason"] == "Unschedulable";
            pods.len() == 2 && pods.iter().all(waits)
        })
    };
    wait_for(api, "/api/v1/namespaces/apps/pods", unschedulable).await;

    let _balancer = cluster.load_balancer().unwrap();
    let service = json!({
        "metadata": { "name": "web" },
        "spec": { "type": "LoadBalancer", "selector": labels, "ports": [{ "port": 80 }] },
    });
    api.create("/api/v1/namespaces/apps/services", &service)
        .await
        .unwrap();
    let ingress = |service: &Value| service["status"]["loadBalancer"]["ingress"][0]["ip"].clone();
    let path = "/api/v1/namespaces/apps/services/web";
    let seen = wait_for(api, path, |service| ingress(service).is_string()).await;
    assert_eq!(ingress(&seen), seen["spec"]["clusterIP"]);
    assert_leaves_nothing(cluster);
}

#[tokio::test]
async fn tests_share_a_cluster_while_one_of_them_runs() {
    let Some(first) = need(Cluster::shared(Tier::ControlPlane).await) else {
        return;
    };
    let second = Cluster::shared(Tier::ControlPlane).await.unwrap();
    assert_eq!(first.kubeconfig(), second.kubeconfig());
    let folder = first.kubeconfig().parent().unwrap().to_owned();
    drop(first);
    assert!(second.api().is_ready().await);
    drop(second);
    assert!(!folder.exists());
}
