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
const EVENTS: usize = 10;
const EVENT_BYTES: usize = 1024;

/// What was seen when a rollout failed; at most some 30 KiB.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Evidence {
    /// The last log lines of the failing container, this run's and the run's before.
    pub logs: Vec<LogTail>,
    /// The last events about the failing object and the Deployment, oldest first.
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
pub(crate) async fn collect(cluster: &Cluster, app: &str, cause: &Cause) -> Evidence {
    let mut evidence = Evidence::default();
    if let Some(pod) = cause.object.strip_prefix("pod/") {
        for previous in [true, false] {
            if let Some(tail) = log_tail(cluster, app, pod, previous).await {
                evidence.logs.push(tail);
            }
        }
    }
    let name = cause.object.split_once('/').map_or(app, |(_, name)| name);
    for object in if name == app {
        vec![app]
    } else {
        vec![app, name]
    } {
        evidence.events.extend(events(cluster, object).await);
    }
    evidence
}

/// The last events about the object `name`, oldest first.
pub(crate) async fn events(cluster: &Cluster, name: &str) -> Vec<String> {
    let fields = format!("involvedObject.name={name}");
    let mut found = cluster
        .events("read events", &fields)
        .await
        .unwrap_or_default();
    found.sort_by_key(last_seen);
    let first = found.len().saturating_sub(EVENTS);
    found[first..].iter().map(describe).collect()
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
    (!text.is_empty()).then(|| LogTail {
        pod: pod.to_owned(),
        previous,
        text,
    })
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

    proptest! {
        #[test]
        fn cutting_keeps_whole_characters(text in "\\PC{0,40}", limit in 0usize..60) {
            prop_assert!(text.ends_with(tail(&text, limit)) && tail(&text, limit).len() <= limit);
            prop_assert!(text.starts_with(head(&text, limit)) && head(&text, limit).len() <= limit);
        }
    }
}
