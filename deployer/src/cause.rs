//! Why a rollout fails: the causes, and the rules that read them from a pod's status.
//!
//! The strings matched here are those of the kubelet, the scheduler and containerd. One sample
//! never condemns a release where the same sign is also seen in healthy rollouts: each sign has a
//! grace, and some only count once everything else has run out of time.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::observe::{ContainerState, ContainerView, Ended, PodView, ReplicaSetView};

/// Why a rollout failed, in the order in which one cause outweighs another on the same pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum CauseKind {
    /// The image's name or signature is refused.
    ImageInvalid,
    /// The registry does not hold the image.
    ImageNotFound,
    /// The registry does not let this cluster pull the image.
    ImageDenied,
    /// The image was built for another processor.
    WrongPlatform,
    /// A Secret or ConfigMap the container needs is missing.
    ConfigMissing,
    /// The container's process could not be started.
    StartFailed,
    /// The container used more memory than its limit.
    OutOfMemory,
    /// The container ends again and again.
    Crash,
    /// The cluster refuses to create the pods: quota, policy or webhook.
    PodsRejected,
    /// No node has room for the pod.
    Unschedulable,
    /// The application runs and its probes fail.
    NotReady,
    /// The registry does not answer, or answers with an error of its own.
    RegistryUnavailable,
    /// Somebody else changed the Deployment during the rollout.
    Superseded,
    /// Somebody else deleted the Deployment during the rollout.
    Deleted,
    /// Nothing moved any more, and no sign says why.
    DeadlineExceeded,
}

impl CauseKind {
    /// What to do about it.
    pub fn hint(self) -> &'static str {
        match self {
            Self::ImageInvalid => "check the image reference and the cluster's signature policy",
            Self::ImageNotFound => "push the image to that registry before it is released",
            Self::ImageDenied => {
                "let the cluster pull from the registry (AcrPull for the kubelet identity, or a pull secret)"
            }
            Self::WrongPlatform => "build the image for the platform of the cluster's nodes",
            Self::ConfigMissing => "create the Secret or ConfigMap the message names",
            Self::StartFailed => "check the image's entrypoint: the message names what cannot run",
            Self::OutOfMemory => "raise the memory limit; it has to hold the loaded model",
            Self::Crash => "read the log lines: the application ends by itself",
            Self::PodsRejected => "raise the quota, or meet the policy the message names",
            Self::Unschedulable => "add nodes, or ask for less processor time and memory",
            Self::NotReady => {
                "see what the readiness path answers; allow more startup time if it is slow"
            }
            Self::RegistryUnavailable => "check that the nodes reach the registry",
            Self::Superseded | Self::Deleted => "let one program at a time change the Deployment",
            Self::DeadlineExceeded => "see the events of the Deployment and its pods",
        }
    }
}

impl fmt::Display for CauseKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ImageInvalid => "image refused",
            Self::ImageNotFound => "image not found",
            Self::ImageDenied => "image pull denied",
            Self::WrongPlatform => "image for another platform",
            Self::ConfigMissing => "configuration missing",
            Self::StartFailed => "container cannot start",
            Self::OutOfMemory => "out of memory",
            Self::Crash => "application crashes",
            Self::PodsRejected => "pods rejected",
            Self::Unschedulable => "no node has room",
            Self::NotReady => "application not ready",
            Self::RegistryUnavailable => "registry unavailable",
            Self::Superseded => "changed by somebody else",
            Self::Deleted => "deleted by somebody else",
            Self::DeadlineExceeded => "progress deadline exceeded",
        })
    }
}

/// Why a rollout failed, and where it showed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Cause {
    /// The cause by meaning.
    pub kind: CauseKind,
    /// The object that shows it, such as `pod/digits-5b7-x1`.
    pub object: String,
    /// The cluster's own words.
    pub message: String,
}

impl Cause {
    /// A cause seen on `object`.
    pub(crate) fn new(
        kind: CauseKind,
        object: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            object: object.into(),
            message: message.into(),
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        self.kind.hint()
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.kind, self.object)?;
        if self.message.is_empty() {
            Ok(())
        } else {
            write!(f, ": {}", self.message)
        }
    }
}

/// How long each sign may last before it is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Patience {
    /// Image not found, or for another platform: the time of a second attempt (12 s).
    pub image: Duration,
    /// Pull denied: a fresh permission takes time to reach the registry (90 s).
    pub denied: Duration,
    /// Missing Secret or ConfigMap, or a container that cannot start (20 s).
    pub config: Duration,
    /// Pods rejected by quota or policy (10 s).
    pub rejected: Duration,
    /// No node has room (60 s).
    pub unschedulable: Duration,
    /// No node has room and one is being added (10 min).
    pub scaling_up: Duration,
    /// Beyond the startup time, until the kubelet's own verdict is in (10 s).
    pub margin: Duration,
    /// Restarts after which a crash is no accident (2).
    pub restarts: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            image: Duration::from_secs(12),
            denied: Duration::from_secs(90),
            config: Duration::from_secs(20),
            rejected: Duration::from_secs(10),
            unschedulable: Duration::from_mins(1),
            scaling_up: Duration::from_mins(10),
            margin: Duration::from_secs(10),
            restarts: 2,
        }
    }
}

/// A sign of a cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sign {
    pub(crate) cause: Cause,
    /// How long it may last; `None`: it only explains a deadline that passed.
    pub(crate) grace: Option<Duration>,
}

/// What the rules need to know beside the pod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context<'a> {
    pub(crate) patience: &'a Patience,
    /// How long the application may take to become ready.
    pub(crate) startup: Duration,
    /// Whether a pod of the same ReplicaSet was ready: then a crash may be an accident.
    pub(crate) ever_ready: bool,
    pub(crate) scaling_up: bool,
}

/// The signs a pod of the new ReplicaSet shows.
pub(crate) fn signs(pod: &PodView, context: Context<'_>) -> Vec<Sign> {
    let mut found = Vec::new();
    if pod.ready || !pod.is_active() {
        return found;
    }
    let object = format!("pod/{}", pod.name);
    if let Some(condition) = &pod.unscheduled {
        let patience = context.patience;
        let grace = if context.scaling_up {
            patience.scaling_up
        } else {
            patience.unschedulable
        };
        let cause = Cause::new(CauseKind::Unschedulable, &object, &condition.message);
        found.push(Sign {
            cause,
            grace: Some(grace),
        });
    }
    for container in pod.containers.iter().filter(|container| !container.ready) {
        found.extend(waiting_sign(&object, container, context));
        found.extend(ended_sign(&object, container, context));
        if container.state == ContainerState::Running {
            let message = format!("container {} runs and is not ready", container.name);
            let cause = Cause::new(CauseKind::NotReady, &object, message);
            found.push(Sign {
                cause,
                grace: Some(context.startup.saturating_add(context.patience.margin)),
            });
        }
    }
    found
}

/// The sign of a ReplicaSet whose pods are refused.
pub(crate) fn rejection(set: &ReplicaSetView, patience: &Patience) -> Option<Sign> {
    let failure = set.failure.as_ref()?;
    let cause = Cause::new(
        CauseKind::PodsRejected,
        format!("replicaset/{}", set.name),
        &failure.message,
    );
    Some(Sign {
        cause,
        grace: Some(patience.rejected),
    })
}

fn waiting_sign(object: &str, container: &ContainerView, context: Context<'_>) -> Option<Sign> {
    let ContainerState::Waiting { reason, message } = &container.state else {
        return None;
    };
    let patience = context.patience;
    let (kind, grace) = match reason.as_str() {
        "InvalidImageName" | "ErrImageNeverPull" | "SignatureValidationFailed" => {
            (CauseKind::ImageInvalid, Some(Duration::ZERO))
        }
        "ErrImagePull" | "ImagePullBackOff" | "RegistryUnavailable" => pull(message, patience),
        // The kubelet's own cache may lag behind; that is no missing object.
        "CreateContainerConfigError"
            if message.contains("failed to sync") && message.contains("cache") =>
        {
            (CauseKind::ConfigMissing, None)
        }
        "CreateContainerConfigError" => (CauseKind::ConfigMissing, Some(patience.config)),
        "CreateContainerError" | "RunContainerError" => (start(message), Some(patience.config)),
        _ => return None,
    };
    Some(Sign {
        cause: Cause::new(kind, object, format!("{reason}: {message}")),
        grace,
    })
}

/// Whether the message is the kubelet's bare back-off, which repeats no reason.
pub(crate) fn is_bare_backoff(pod: &PodView) -> bool {
    pod.containers
        .iter()
        .any(|container| match &container.state {
            ContainerState::Waiting { reason, message } => {
                reason == "ImagePullBackOff" && !message.contains("ErrImagePull")
            }
            _ => false,
        })
}

/// Reads a pull failure. References and URLs are left out first: their names prove nothing.
fn pull(message: &str, patience: &Patience) -> (CauseKind, Option<Duration>) {
    let words: String = message
        .split_whitespace()
        .filter(|word| !word.contains('/') && !word.contains("sha256:"))
        .collect::<Vec<_>>()
        .join(" ")
        .to_ascii_lowercase();
    let says = |needles: &[&str]| needles.iter().any(|needle| words.contains(needle));
    if says(&["no match for platform"]) {
        (CauseKind::WrongPlatform, Some(patience.image))
    } else if says(&[
        "unauthorized",
        "forbidden",
        "denied",
        "failed to authorize",
        "authentication required",
    ]) {
        (CauseKind::ImageDenied, Some(patience.denied))
    } else if says(&[
        "not found",
        "manifest unknown",
        "name unknown",
        "= notfound",
    ]) {
        (CauseKind::ImageNotFound, Some(patience.image))
    } else {
        (CauseKind::RegistryUnavailable, None)
    }
}

fn start(message: &str) -> CauseKind {
    if message.contains("exec format error") {
        CauseKind::WrongPlatform
    } else {
        CauseKind::StartFailed
    }
}

fn ended_sign(object: &str, container: &ContainerView, context: Context<'_>) -> Option<Sign> {
    let backing_off = matches!(&container.state,
        ContainerState::Waiting { reason, .. } if reason == "CrashLoopBackOff");
    let (ended, now) = match &container.state {
        ContainerState::Terminated(ended) => (ended, true),
        _ => (container.last.as_ref()?, backing_off),
    };
    // The restart is counted when the next one starts.
    let ends = container.restarts + u64::from(now);
    let after = |enough: u64| (ends >= enough && !context.ever_ready).then_some(Duration::ZERO);
    let (kind, grace) = match ended.reason.as_str() {
        "StartError" | "ContainerCannotRun" => (
            start(&ended.message),
            after(2).or(Some(context.patience.config)),
        ),
        "OOMKilled" => (CauseKind::OutOfMemory, after(2)),
        _ => (CauseKind::Crash, after(context.patience.restarts + 1)),
    };
    let message = describe(container, ended, ends);
    Some(Sign {
        cause: Cause::new(kind, object, message),
        grace,
    })
}

fn describe(container: &ContainerView, ended: &Ended, ends: u64) -> String {
    let mut text = format!(
        "container {} ended with exit code {} ({}), {ends} time(s)",
        container.name, ended.exit_code, ended.reason
    );
    if !ended.message.is_empty() {
        text.push_str(": ");
        text.push_str(ended.message.trim());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(status: &serde_json::Value, ever_ready: bool) -> Vec<Sign> {
        let pod = PodView::from_json(&json!({
            "metadata": { "name": "p" },
            "status": { "phase": "Pending", "containerStatuses": [status] },
        }));
        let patience = Patience::default();
        let startup = Duration::from_mins(1);
        signs(
            &pod,
            Context {
                patience: &patience,
                startup,
                ever_ready,
                scaling_up: false,
            },
        )
    }

    fn waiting(reason: &str, message: &str) -> Option<(CauseKind, Option<u64>)> {
        let status = json!({ "state": { "waiting": { "reason": reason, "message": message } } });
        read(&status, false)
            .first()
            .map(|s| (s.cause.kind, s.grace.map(|grace| grace.as_secs())))
    }

    /// The messages are those of a 1.36 kubelet with containerd.
    #[test]
    fn waiting_reasons_are_told_apart() {
        use CauseKind as K;
        let not_found = r#"rpc error: code = NotFound desc = failed to pull and unpack image "r.invalid/denied@sha256:401": failed to resolve reference "r.invalid/denied@sha256:401": r.invalid/denied@sha256:401: not found"#;
        let denied = "failed to authorize: failed to fetch anonymous token: unexpected status from GET request to https://r.invalid/oauth2/token: 401 Unauthorized";
        let platform = "no match for platform in manifest: not found";
        for (reason, message, expected) in [
            (
                "ErrImagePull",
                not_found,
                Some((K::ImageNotFound, Some(12))),
            ),
            (
                "ImagePullBackOff",
                not_found,
                Some((K::ImageNotFound, Some(12))),
            ),
            ("ErrImagePull", denied, Some((K::ImageDenied, Some(90)))),
            ("ErrImagePull", platform, Some((K::WrongPlatform, Some(12)))),
            (
                "ErrImagePull",
                "dial tcp: i/o timeout",
                Some((K::RegistryUnavailable, None)),
            ),
            ("InvalidImageName", "", Some((K::ImageInvalid, Some(0)))),
            (
                "CreateContainerConfigError",
                "secret \"x\" not found",
                Some((K::ConfigMissing, Some(20))),
            ),
            (
                "CreateContainerConfigError",
                "failed to sync secret cache: timed out",
                Some((K::ConfigMissing, None)),
            ),
            (
                "RunContainerError",
                "exec /app: exec format error",
                Some((K::WrongPlatform, Some(20))),
            ),
            ("ContainerCreating", "", None),
            ("PodInitializing", "", None),
        ] {
            assert_eq!(waiting(reason, message), expected, "{reason} {message}");
        }
    }

    #[test]
    fn a_crash_is_believed_after_the_second_restart_and_only_before_anything_was_ready() {
        let status = |restarts: u64| {
            json!({
                "restartCount": restarts,
                "state": { "waiting": { "reason": "CrashLoopBackOff" } },
                "lastState": { "terminated": { "reason": "Error", "exitCode": 3 } },
            })
        };
        assert_eq!(read(&status(1), false)[0].grace, None);
        assert_eq!(read(&status(2), false)[0].grace, Some(Duration::ZERO));
        assert_eq!(read(&status(2), true)[0].grace, None);
        assert_eq!(read(&status(2), false)[0].cause.kind, CauseKind::Crash);
    }

    #[test]
    fn memory_and_start_failures_are_believed_the_second_time() {
        let status = |reason: &str, message: &str| {
            json!({
                "restartCount": 1,
                "state": { "waiting": { "reason": "CrashLoopBackOff" } },
                "lastState": { "terminated": { "reason": reason, "exitCode": 128, "message": message } },
            })
        };
        for (reason, message, kind) in [
            ("OOMKilled", "", CauseKind::OutOfMemory),
            (
                "StartError",
                "exec: \"nosuch\": executable file not found in $PATH",
                CauseKind::StartFailed,
            ),
            (
                "StartError",
                "exec /app: exec format error",
                CauseKind::WrongPlatform,
            ),
        ] {
            let signs = read(&status(reason, message), false);
            assert_eq!(signs[0].cause.kind, kind);
            assert_eq!(signs[0].grace, Some(Duration::ZERO));
        }
    }
}
