//! What the cluster says, reduced to what decides a rollout.
//!
//! The views are read from plain JSON and never fail: a field that is missing, new or of another
//! type reads as absent, so that an older or newer API server cannot stop a rollout.

use std::collections::BTreeSet;

use serde_json::Value;

/// Everything seen of one application at (nearly) one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observation {
    /// The Deployment; `None` when the server says that there is none.
    pub deployment: Option<DeploymentView>,
    /// The ReplicaSets with the application's label.
    pub replica_sets: Vec<ReplicaSetView>,
    /// The pods with the application's label.
    pub pods: Vec<PodView>,
    /// Names of the pods that the Service sends requests to.
    pub serving: BTreeSet<String>,
    /// Whether the cluster autoscaler is adding a node for a pod of the application.
    pub scaling_up: bool,
}

/// A Deployment's counts and conditions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeploymentView {
    /// Identity that outlives renames of nothing and dies with the object.
    pub uid: String,
    /// Version of the specification.
    pub generation: i64,
    /// Version of the specification that the counts below speak about.
    pub observed_generation: i64,
    /// Replicas asked for.
    pub desired: u64,
    /// Pods of every ReplicaSet.
    pub replicas: u64,
    /// Pods of the newest ReplicaSet.
    pub updated: u64,
    /// Pods ready for at least the minimum ready time.
    pub available: u64,
    /// The revision number, as `kubectl rollout history` shows it.
    pub revision: Option<u64>,
    /// The condition of type Progressing.
    pub progressing: Option<Condition>,
    /// The pod template.
    pub template: Value,
}

/// A condition of an object's status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Why, as one word.
    pub reason: String,
    /// Why, as a sentence.
    pub message: String,
    /// When it was last written, as the server's text.
    pub updated: String,
}

/// A ReplicaSet: one generation of pods.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReplicaSetView {
    /// Its name.
    pub name: String,
    /// Its identity.
    pub uid: String,
    /// The identity of the Deployment that controls it.
    pub owner: String,
    /// When it was made, as the server's text, which sorts by time.
    pub created: String,
    /// The pod template without the hash label that tells ReplicaSets apart.
    pub template: Value,
    /// The condition of type ReplicaFailure, when it is true.
    pub failure: Option<Condition>,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodView {
    /// Its name.
    pub name: String,
    /// The identity of the ReplicaSet that controls it.
    pub owner: String,
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    pub phase: String,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// Whether the cluster took it away (eviction, preemption, lost node): not its own fault.
    pub disrupted: bool,
    /// Whether its condition Ready is true.
    pub ready: bool,
    /// The condition PodScheduled, when it is false.
    pub unscheduled: Option<Condition>,
    /// Its containers, init containers first.
    pub containers: Vec<ContainerView>,
}

impl PodView {
    /// Whether it counts: alive, and not taken away.
    pub fn is_active(&self) -> bool {
        !self.terminating && !self.disrupted && self.phase != "Failed" && self.phase != "Succeeded"
    }
}

/// A container of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerView {
    /// Its name.
    pub name: String,
    /// Whether it is ready.
    pub ready: bool,
    /// How often it was started again.
    pub restarts: u64,
    /// What it does now.
    pub state: ContainerState,
    /// How it ended the last time.
    pub last: Option<Ended>,
}

/// What a container does now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ContainerState {
    /// Nothing is known yet.
    #[default]
    Unknown,
    /// It is not started, for this reason.
    Waiting {
        /// The kubelet's one word.
        reason: String,
        /// The kubelet's sentence.
        message: String,
    },
    /// It runs.
    Running,
    /// It has ended.
    Terminated(Ended),
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// The kubelet's one word, such as `OOMKilled`.
    pub reason: String,
    /// The kubelet's sentence, or the application's termination message.
    pub message: String,
    /// The exit code.
    pub exit_code: i64,
}

impl DeploymentView {
    /// Reads a Deployment.
    pub fn from_json(object: &Value) -> Self {
        Self {
            uid: text(object, "/metadata/uid"),
            generation: integer(object, "/metadata/generation"),
            observed_generation: integer(object, "/status/observedGeneration"),
            desired: object
                .pointer("/spec/replicas")
                .and_then(Value::as_u64)
                .unwrap_or(1),
            replicas: count(object, "/status/replicas"),
            updated: count(object, "/status/updatedReplicas"),
            available: count(object, "/status/availableReplicas"),
            revision: text(
                object,
                "/metadata/annotations/deployment.kubernetes.io~1revision",
            )
            .parse()
            .ok(),
            progressing: condition(object, "Progressing"),
            template: object
                .pointer("/spec/template")
                .cloned()
                .unwrap_or_default(),
        }
    }
}

impl ReplicaSetView {
    /// Reads a ReplicaSet.
    pub fn from_json(object: &Value) -> Self {
        let mut template = object
            .pointer("/spec/template")
            .cloned()
            .unwrap_or_default();
        if let Some(labels) = template
            .pointer_mut("/metadata/labels")
            .and_then(Value::as_object_mut)
        {
            labels.remove("pod-template-hash");
        }
        Self {
            name: text(object, "/metadata/name"),
            uid: text(object, "/metadata/uid"),
            owner: controller(object),
            created: text(object, "/metadata/creationTimestamp"),
            template,
            failure: condition(object, "ReplicaFailure").filter(|c| c.status == "True"),
        }
    }
}

impl PodView {
    /// Reads a pod.
    pub fn from_json(object: &Value) -> Self {
        let taken = [
            "Evicted",
            "Preempting",
            "Terminated",
            "NodeLost",
            "NodeShutdown",
            "Shutdown",
        ];
        let statuses = |path| items(object, path).map(ContainerView::from_json);
        Self {
            name: text(object, "/metadata/name"),
            owner: controller(object),
            phase: text(object, "/status/phase"),
            terminating: object.pointer("/metadata/deletionTimestamp").is_some(),
            disrupted: taken.contains(&text(object, "/status/reason").as_str())
                || condition(object, "DisruptionTarget").is_some_and(|c| c.status == "True"),
            ready: condition(object, "Ready").is_some_and(|c| c.status == "True"),
            unscheduled: condition(object, "PodScheduled").filter(|c| c.status == "False"),
            containers: statuses("/status/initContainerStatuses")
                .chain(statuses("/status/containerStatuses"))
                .collect(),
        }
    }
}

impl ContainerView {
    fn from_json(status: &Value) -> Self {
        let state = if let Some(waiting) = status.pointer("/state/waiting") {
            ContainerState::Waiting {
                reason: text(waiting, "/reason"),
                message: text(waiting, "/message"),
            }
        } else if let Some(terminated) = status.pointer("/state/terminated") {
            ContainerState::Terminated(Ended::from_json(terminated))
        } else if status.pointer("/state/running").is_some() {
            ContainerState::Running
        } else {
            ContainerState::Unknown
        };
        Self {
            name: text(status, "/name"),
            ready: status
                .pointer("/ready")
                .and_then(Value::as_bool)
                .unwrap_or(false),
            restarts: count(status, "/restartCount"),
            state,
            last: status
                .pointer("/lastState/terminated")
                .map(Ended::from_json),
        }
    }
}

impl Ended {
    fn from_json(terminated: &Value) -> Self {
        Self {
            reason: text(terminated, "/reason"),
            message: text(terminated, "/message"),
            exit_code: integer(terminated, "/exitCode"),
        }
    }
}

/// The names of the pods that an EndpointSlice marks ready (discovery.k8s.io/v1: an absent
/// `ready` means ready).
pub(crate) fn ready_endpoints(slice: &Value) -> impl Iterator<Item = String> + '_ {
    items(slice, "/endpoints")
        .filter(|endpoint| {
            endpoint
                .pointer("/conditions/ready")
                .and_then(Value::as_bool)
                .unwrap_or(true)
        })
        .map(|endpoint| text(endpoint, "/targetRef/name"))
}

/// The text at a JSON pointer (RFC 6901), or nothing.
pub(crate) fn text(value: &Value, pointer: &str) -> String {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

/// The items of the array at a JSON pointer.
pub(crate) fn items<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

fn integer(value: &Value, pointer: &str) -> i64 {
    value
        .pointer(pointer)
        .and_then(Value::as_i64)
        .unwrap_or_default()
}

fn count(value: &Value, pointer: &str) -> u64 {
    value
        .pointer(pointer)
        .and_then(Value::as_u64)
        .unwrap_or_default()
}

fn condition(object: &Value, kind: &str) -> Option<Condition> {
    let found = items(object, "/status/conditions").find(|c| text(c, "/type") == kind)?;
    Some(Condition {
        status: text(found, "/status"),
        reason: text(found, "/reason"),
        message: text(found, "/message"),
        updated: text(found, "/lastUpdateTime"),
    })
}

fn controller(object: &Value) -> String {
    items(object, "/metadata/ownerReferences")
        .find(|owner| owner.pointer("/controller").and_then(Value::as_bool) == Some(true))
        .map(|owner| text(owner, "/uid"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn a_replica_set_is_recognized_without_its_hash() {
        let template = json!({ "metadata": { "labels": { "app": "a" } } });
        let object = json!({ "spec": { "template": {
            "metadata": { "labels": { "app": "a", "pod-template-hash": "77" } } } } });
        assert_eq!(ReplicaSetView::from_json(&object).template, template);
    }

    #[test]
    fn an_endpoint_without_conditions_is_ready() {
        let slice = json!({ "endpoints": [
            { "targetRef": { "name": "a" } },
            { "targetRef": { "name": "b" }, "conditions": { "ready": false } },
        ] });
        assert_eq!(ready_endpoints(&slice).collect::<Vec<_>>(), ["a"]);
    }

    proptest! {
        /// Whatever the server sends, reading it ends.
        #[test]
        fn reading_never_fails(text in ".{0,40}", number in any::<i64>()) {
            for odd in [json!(null), json!(text), json!(number), json!([text]), json!({ &text: number })] {
                let object = json!({
                    "metadata": odd, "spec": { "template": odd, "replicas": odd },
                    "status": { "conditions": [odd], "containerStatuses": [odd, { "state": odd }] },
                });
                DeploymentView::from_json(&object);
                ReplicaSetView::from_json(&object);
                PodView::from_json(&object);
                let slice = json!({ "endpoints": [odd] });
                prop_assert!(ready_endpoints(&slice).count() <= 1);
            }
        }
    }
}
