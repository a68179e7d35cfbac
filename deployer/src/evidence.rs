//! What was seen when a rollout failed, collected before anything is rolled back.

use kube::core::subresource::LogParams;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::cause::Cause;
use crate::cluster::Cluster;
use crate::observe::text;

const LOG_LINES: i64 = 50;
/// Read at most this much of those lines, and keep the end of it.
const LOG_READ_BYTES: i64 = 256 * 1024;
const LOG_BYTES: usize = 8 * 1024;
/// A container that starts anew between two looks hides its last run from both; then look again.
const LOG_LOOKS: usize = 2;
/// What a kubelet answers, as if it were the log, for a container that it has removed already.
const REMOVED: &str = "unable to retrieve container logs for ";
const EVENTS: usize = 10;
const EVENT_BYTES: usize = 1024;

/// What was seen when a rollout failed; at most some 30 KiB.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Evidence {
    /// The last log lines of the failing container, this run's and the run's before.
    pub logs: Vec<LogTail>,
    /// The last events about the failing object and the Deployment since the release began, oldest
    /// first.
    pub events: Vec<String>,
}

/// The end of a container's log: at most 50 lines and 8 KiB.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct LogTail {
    /// The pod.
    pub pod: String,
    /// Whether it is the log of the run before the current one.
    pub previous: bool,
    /// The lines.
    pub text: String,
}

/// Collects what can be had; what cannot be read is left out, for the cause is known already.
/// Events before `since`, in the cluster's own time, belong to other releases.
pub(crate) async fn collect(cluster: &Cluster, app: &str, cause: &Cause, since: &str) -> Evidence {
    let mut evidence = Evidence::default();
    if let Some(pod) = cause.object.strip_prefix("pod/") {
        evidence.logs = logs(cluster, app, pod).await;
    }
    let name = cause.object.split_once('/').map_or(app, |(_, name)| name);
    for object in if name == app {
        vec![app]
    } else {
        vec![app, name]
    } {
        evidence.events.extend(events(cluster, object, since).await);
    }
    evidence
}

/// The last events about the object `name` since the time `since`, oldest first.
pub(crate) async fn events(cluster: &Cluster, name: &str, since: &str) -> Vec<String> {
    let fields = format!("involvedObject.name={name}");
    let mut found = cluster
        .events("read events", &fields)
        .await
        .unwrap_or_default();
    found.retain(|event| second(&last_seen(event)) >= second(since));
    found.sort_by_key(last_seen);
    let first = found.len().saturating_sub(EVENTS);
    found[first..].iter().map(describe).collect()
}

async fn logs(cluster: &Cluster, app: &str, pod: &str) -> Vec<LogTail> {
    let mut logs = Vec::new();
    for _ in 0..LOG_LOOKS {
        for previous in [true, false] {
            logs.extend(log_tail(cluster, app, pod, previous).await);
        }
        if !logs.is_empty() {
            break;
        }
    }
    logs
}

async fn log_tail(cluster: &Cluster, app: &str, pod: &str, previous: bool) -> Option<LogTail> {
    let params = LogParams {
        container: Some(app.to_owned()),
        previous,
        tail_lines: Some(LOG_LINES),
        limit_bytes: Some(LOG_READ_BYTES),
        ..LogParams::default()
    };
    let log = cluster.logs(pod, &params).await.ok()?;
    let text = tail(log.trim_end(), LOG_BYTES).to_owned();
    (!text.is_empty() && !is_removed(&text)).then(|| LogTail {
        pod: pod.to_owned(),
        previous,
        text,
    })
}

/// Whether the kubelet says that there is no log, instead of a log.
fn is_removed(text: &str) -> bool {
    let starts = |begin: &str| begin.eq_ignore_ascii_case(REMOVED);
    text.get(..REMOVED.len()).is_some_and(starts) && !text.contains('\n')
}

/// A time of Kubernetes to the second: some have a fraction, some have none.
fn second(time: &str) -> &str {
    head(time, "2026-01-02T03:04:05".len())
}

fn last_seen(event: &Value) -> String {
    [
        "/series/lastObservedTime",
        "/lastTimestamp",
        "/eventTime",
        "/metadata/creationTimestamp",
    ]
    .iter()
    .map(|pointer| text(event, pointer))
    .find(|time| !time.is_empty())
    .unwrap_or_default()
}

fn describe(event: &Value) -> String {
    let kind = text(event, "/involvedObject/kind").to_ascii_lowercase();
    let name = text(event, "/involvedObject/name");
    let reason = text(event, "/reason");
    let line = format!("{kind}/{name} {reason}: {}", text(event, "/message").trim());
    head(&line, EVENT_BYTES).to_owned()
}

/// The last whole characters within `limit` bytes.
fn tail(text: &str, limit: usize) -> &str {
    let from = text.len().saturating_sub(limit);
    let from = (from..=text.len())
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(text.len());
    &text[from..]
}

/// The first whole characters within `limit` bytes.
fn head(text: &str, limit: usize) -> &str {
    let to = (0..=limit.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0);
    &text[..to]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_excuse_of_the_kubelet_is_no_log() {
        assert!(is_removed(
            "unable to retrieve container logs for containerd://c712"
        ));
        assert!(is_removed(
            "Unable to retrieve container logs for containerd://c712"
        ));
        for log in [
            "",
            "broken on purpose",
            "unable to retrieve container logs for my own reasons\nbut there is more",
        ] {
            assert!(!is_removed(log), "{log}");
        }
    }

    #[test]
    fn times_are_compared_by_whole_seconds() {
        let since = "2026-01-02T03:04:05Z";
        for (time, kept) in [
            ("2026-01-02T03:04:04.999999Z", false),
            ("2026-01-02T03:04:05Z", true),
            ("2026-01-02T03:04:05.000001Z", true),
            ("2026-01-02T03:04:06Z", true),
        ] {
            assert_eq!(second(time) >= second(since), kept, "{time}");
        }
        assert!(second("") >= second(""), "without a beginning all are kept");
    }

    proptest! {
        #[test]
        fn cutting_keeps_whole_characters(text in "\\PC{0,40}", limit in 0usize..60) {
            prop_assert!(text.ends_with(tail(&text, limit)) && tail(&text, limit).len() <= limit);
            prop_assert!(text.starts_with(head(&text, limit)) && head(&text, limit).len() <= limit);
        }
    }
}
