//! A scripted kubelet: one node, and pods whose fate is written in their image's digest.
//!
//! The states are those a 1.36 kubelet with containerd reports; time runs faster. Tests share the
//! node, and each plays the pods of its own namespace.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, SecondsFormat, Utc};
use modelship_testkit::Missing;
use modelship_testkit::cluster::Api;
use serde_json::{Value, json};

const NODE: &str = "scripted";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
const TICK: Duration = Duration::from_millis(100);

/// The first hex digit of an image's digest says how its containers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Ready,
    NotFound,
    DeniedAtFirst,
    Crashes,
    NeverReady,
    OutOfMemory,
}

impl Fate {
    fn of(pod: &Value) -> Self {
        let image = pod["spec"]["containers"][0]["image"]
            .as_str()
            .unwrap_or_default();
        match image
            .split_once("sha256:")
            .and_then(|(_, hex)| hex.chars().next())
        {
            Some('b') => Self::NotFound,
            Some('c') => Self::Crashes,
            Some('d') => Self::DeniedAtFirst,
            Some('e') => Self::NeverReady,
            Some('f') => Self::OutOfMemory,
            _ => Self::Ready,
        }
    }

    /// The container's status after `ticks` looks at it.
    fn container(self, image: &str, ticks: u64) -> Value {
        let waiting = |reason: &str, message: String| json!({ "waiting": { "reason": reason, "message": message } });
        let pull = |error: &str| {
            let error = format!("failed to pull and unpack image {image:?}: {error}");
            if ticks % 10 < 3 {
                waiting("ErrImagePull", error)
            } else {
                waiting(
                    "ImagePullBackOff",
                    format!("Back-off pulling image {image:?}: ErrImagePull: {error}"),
                )
            }
        };
        let now = timestamp();
        let running = json!({ "running": { "startedAt": now } });
        let backoff = || {
            waiting(
                "CrashLoopBackOff",
                "back-off 10s restarting failed container".to_owned(),
            )
        };
        let restarts = ticks / 4;
        let ended = |reason: &str, code: i64| json!({ "terminated": { "reason": reason, "exitCode": code, "startedAt": now, "finishedAt": now } });
        let (state, last, restarts, ready) = match self {
            Self::NotFound => (
                pull("failed to resolve reference: not found"),
                json!({}),
                0,
                false,
            ),
            Self::DeniedAtFirst if ticks < 8 => (
                pull("failed to authorize: 401 Unauthorized"),
                json!({}),
                0,
                false,
            ),
            Self::Ready | Self::DeniedAtFirst => (running, json!({}), 0, true),
            Self::Crashes if restarts > 0 => (backoff(), ended("Error", 3), restarts, false),
            Self::OutOfMemory if restarts > 0 => {
                (backoff(), ended("OOMKilled", 137), restarts, false)
            }
            Self::NeverReady | Self::Crashes | Self::OutOfMemory => (running, json!({}), 0, false),
        };
        json!({
            "name": "", "image": image, "imageID": "", "ready": ready, "started": ready,
            "restartCount": restarts, "state": state, "lastState": last,
        })
    }
}

/// A running kubelet; it stops when dropped.
#[derive(Debug)]
pub(crate) struct Kubelet(tokio::task::JoinHandle<()>);

impl Kubelet {
    /// Joins the node and plays the pods of `namespace`.
    pub(crate) async fn start(api: Api, namespace: &str) -> Result<Self, Missing> {
        join(&api).await?;
        let pods = format!("/api/v1/namespaces/{namespace}/pods");
        let task = tokio::spawn(async move {
            let mut ages: BTreeMap<String, u64> = BTreeMap::new();
            for tick in 0u64.. {
                if tick % 50 == 0 {
                    let _ = renew(&api).await;
                }
                // A pod may vanish between two requests; the next tick sees the truth.
                let _ = play(&api, &pods, &mut ages).await;
                tokio::time::sleep(TICK).await;
            }
        });
        Ok(Self(task))
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn timestamp() -> String {
    DateTime::<Utc>::from(SystemTime::now()).to_rfc3339_opts(SecondsFormat::Secs, true)
}

async fn join(api: &Api) -> Result<(), Missing> {
    if api.get(&format!("/api/v1/nodes/{NODE}")).await?.is_none() {
        // Another test may join at the same moment.
        let _ = api
            .create("/api/v1/nodes", &json!({ "metadata": { "name": NODE } }))
            .await;
    }
    // Tests start side by side: another may have made the node and not yet its lease. Whoever
    // comes second is told that it exists, which is as good.
    let lease = json!({ "metadata": { "name": NODE }, "spec": { "holderIdentity": NODE } });
    let _ = api.create(LEASES, &lease).await;
    renew(api).await?;
    let now = timestamp();
    let room = json!({ "cpu": "64", "memory": "256Gi", "pods": "500" });
    let status = json!({ "status": {
        "capacity": room,
        "allocatable": room,
        "conditions": [{
            "type": "Ready", "status": "True", "reason": "KubeletReady",
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        }],
    } });
    api.patch(&format!("/api/v1/nodes/{NODE}/status"), &status)
        .await
        .map(drop)
}

async fn renew(api: &Api) -> Result<(), Missing> {
    let now = DateTime::<Utc>::from(SystemTime::now()).to_rfc3339_opts(SecondsFormat::Micros, true);
    let spec = json!({ "spec": { "renewTime": now, "leaseDurationSeconds": 40 } });
    api.patch(&format!("{LEASES}/{NODE}"), &spec)
        .await
        .map(drop)
}

async fn play(api: &Api, pods: &str, ages: &mut BTreeMap<String, u64>) -> Result<(), Missing> {
    let list = api.get(pods).await?.unwrap_or_default();
    for pod in list["items"].as_array().into_iter().flatten() {
        if pod["spec"]["nodeName"] != NODE {
            continue;
        }
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        if pod["metadata"].get("deletionTimestamp").is_some() {
            api.delete(&format!("{pods}/{name}?gracePeriodSeconds=0"))
                .await?;
            continue;
        }
        let ticks = ages.entry(name.to_owned()).or_default();
        *ticks += 1;
        let status = status(pod, *ticks);
        if pod["status"]["containerStatuses"] == status["containerStatuses"] {
            continue;
        }
        api.patch(
            &format!("{pods}/{name}/status"),
            &json!({ "status": status }),
        )
        .await?;
    }
    Ok(())
}

fn status(pod: &Value, ticks: u64) -> Value {
    let declared = &pod["spec"]["containers"][0];
    let mut container =
        Fate::of(pod).container(declared["image"].as_str().unwrap_or_default(), ticks);
    container["name"] = declared["name"].clone();
    // The kubelet writes a start once.
    let before = &pod["status"]["containerStatuses"][0]["state"]["running"];
    if before.is_object() && container["state"]["running"].is_object() {
        container["state"]["running"] = before.clone();
    }
    let ready = container["ready"] == true;
    let alive = container["state"].get("running").is_some();
    let ip = ip(pod);
    let condition = |kind: &str, yes: bool| {
        let status = if yes { "True" } else { "False" };
        json!({ "type": kind, "status": status, "lastTransitionTime": timestamp() })
    };
    json!({
        "phase": if alive { "Running" } else { "Pending" },
        "podIP": ip,
        "podIPs": [{ "ip": ip }],
        "hostIP": "10.77.0.1",
        "conditions": [
            condition("PodScheduled", true),
            condition("Initialized", true),
            condition("ContainersReady", ready),
            condition("Ready", ready),
        ],
        "containerStatuses": [container],
    })
}

/// An address of its own for each pod, made of its identity.
fn ip(pod: &Value) -> String {
    let uid: String = pod["metadata"]["uid"]
        .as_str()
        .unwrap_or_default()
        .replace('-', "");
    let byte = |at: usize| u8::from_str_radix(uid.get(at..at + 2).unwrap_or("1"), 16).unwrap_or(1);
    format!(
        "10.{}.{}.{}",
        88 + byte(0) % 8,
        byte(2),
        byte(4).clamp(1, 254)
    )
}
