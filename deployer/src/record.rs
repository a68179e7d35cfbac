//! The history of an application: one ConfigMap per release, enough to explain it and to go back.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::cause::Cause;
use crate::cluster::{Apply, Cluster, Kind};
use crate::error::{Error, ErrorKind, Result};
use crate::evidence::Evidence;
use crate::observe::text;
use crate::render::{MANAGED_BY, MANAGED_BY_LABEL, NAME_LABEL, PREFIX, sorted};

const STAGE: &str = "record release";
/// A ConfigMap holds 1 MiB; the rest is for the record itself.
const MANIFEST_BYTES: usize = 900 * 1024;

/// What the caller knows about a release: where it comes from and who wants it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct ReleaseRecord {
    /// Identity of the release's inputs; the same key means the same release.
    pub release_key: String,
    /// The commit of the application.
    pub commit: Option<String>,
    /// The model's name.
    pub model_name: Option<String>,
    /// The model's version.
    pub model_version: Option<String>,
    /// The model's content digest.
    pub model_digest: Option<String>,
    /// Who or what started it.
    pub who: Option<String>,
    /// Anything else, such as the address of the run.
    pub notes: BTreeMap<String, String>,
}

impl ReleaseRecord {
    /// A record of the release with this key.
    pub fn new(release_key: impl Into<String>) -> Self {
        Self {
            release_key: release_key.into(),
            ..Self::default()
        }
    }

    /// The commit of the application.
    #[must_use]
    pub fn with_commit(mut self, commit: impl Into<String>) -> Self {
        self.commit = Some(commit.into());
        self
    }

    /// The model: its name, version and content digest.
    #[must_use]
    pub fn with_model(
        mut self,
        name: impl Into<String>,
        version: impl Into<String>,
        digest: impl Into<String>,
    ) -> Self {
        self.model_name = Some(name.into());
        self.model_version = Some(version.into());
        self.model_digest = Some(digest.into());
        self
    }

    /// Who or what started it.
    #[must_use]
    pub fn with_who(mut self, who: impl Into<String>) -> Self {
        self.who = Some(who.into());
        self
    }

    /// Anything else worth keeping.
    #[must_use]
    pub fn with_note(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.notes.insert(key.into(), value.into());
        self
    }
}

/// How a release stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ReleaseState {
    /// It was begun; if nobody holds the lock, its program died.
    Pending,
    /// It became available: it can be returned to.
    Available,
    /// It failed, and the release before it was restored.
    RolledBack,
    /// It failed, and the release before it could not be restored.
    RollbackFailed,
    /// It ended without a verdict, because the cluster said no or went out of reach.
    Aborted,
    /// It was available, and somebody returned to an earlier release.
    Withdrawn,
}

/// One entry of the history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Release {
    /// Its number, rising from one per application.
    pub number: u64,
    /// What the caller said about it.
    #[serde(flatten)]
    pub record: ReleaseRecord,
    /// The image, by digest.
    pub image: String,
    /// SHA-256 of its manifests, hexadecimal.
    pub manifest_sha256: String,
    /// How it stands.
    pub state: ReleaseState,
    /// When it began, RFC 3339.
    pub started: String,
    /// When it ended, RFC 3339.
    pub finished: Option<String>,
    /// The number of the release whose manifests these are, when it is a return to them.
    pub rollback_of: Option<u64>,
    /// Why it failed.
    pub cause: Option<Cause>,
    /// What was seen when it failed.
    pub evidence: Option<Evidence>,
}

/// A release with its manifests.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stored {
    pub(crate) release: Release,
    pub(crate) manifests: Vec<Value>,
}

/// The digest of manifests: hex SHA-256 of their JSON with sorted keys.
pub(crate) fn manifest_digest(manifests: &[Value]) -> String {
    let mut hash = Sha256::new();
    for manifest in manifests {
        hash.update(sorted(manifest).to_string().as_bytes());
        hash.update(b"\n");
    }
    hex::encode(hash.finalize())
}

/// The releases of `app`, newest first. Entries that cannot be read are left out.
pub(crate) async fn history(cluster: &Cluster, app: &str) -> Result<Vec<Stored>> {
    let labels = format!("{NAME_LABEL}={app},{PREFIX}/release");
    let found = cluster
        .list("read history", Kind::ConfigMap, &labels)
        .await?;
    let mut history: Vec<_> = found.iter().filter_map(parse).collect();
    history.sort_by_key(|stored| Reverse(stored.release.number));
    Ok(history)
}

/// Writes `stored` as release number so-and-so of `app`.
pub(crate) async fn write(
    cluster: &Cluster,
    manager: &str,
    app: &str,
    stored: &Stored,
) -> Result<()> {
    let object = to_config_map(cluster.namespace(), app, stored)?;
    cluster
        .apply(
            STAGE,
            &object,
            Apply {
                manager,
                dry_run: false,
                force: true,
            },
        )
        .await
        .map(drop)
}

/// When release `number` was first written, by the cluster's own clock; empty where that is unknown.
pub(crate) async fn begun(cluster: &Cluster, app: &str, number: u64) -> String {
    let found = cluster
        .get(STAGE, Kind::ConfigMap, &name(app, number))
        .await;
    let found = found.ok().flatten().unwrap_or_default();
    text(&found, "/metadata/creationTimestamp")
}

/// Deletes what lies behind the newest `keep` releases, but never a release to return to.
pub(crate) async fn prune(cluster: &Cluster, app: &str, keep: usize) -> Result<()> {
    for number in superfluous(&history(cluster, app).await?, keep) {
        match cluster
            .delete(STAGE, Kind::ConfigMap, &name(app, number), None)
            .await
        {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The newest release that became available.
pub(crate) fn running(history: &[Stored]) -> Option<&Stored> {
    history
        .iter()
        .find(|stored| stored.release.state == ReleaseState::Available)
}

/// The newest available release before the running one whose manifests are other ones.
///
/// A return to an earlier release stands where that one stood: going back from there leads further
/// back, never forward to what was left.
pub(crate) fn previous(history: &[Stored]) -> Option<&Stored> {
    let current = running(history)?;
    history.iter().find(|stored| {
        stored.release.state == ReleaseState::Available
            && origin(stored) < origin(current)
            && stored.release.manifest_sha256 != current.release.manifest_sha256
    })
}

/// The number of the release that first had these manifests.
pub(crate) fn origin(stored: &Stored) -> u64 {
    stored.release.rollback_of.unwrap_or(stored.release.number)
}

/// The number of the next release.
pub(crate) fn next_number(history: &[Stored]) -> u64 {
    history
        .first()
        .map_or(1, |newest| newest.release.number + 1)
}

fn superfluous(history: &[Stored], keep: usize) -> Vec<u64> {
    let number = |stored: &Stored| stored.release.number;
    let kept = [running(history).map(number), previous(history).map(number)];
    history
        .iter()
        .skip(keep)
        .map(number)
        .filter(|number| !kept.contains(&Some(*number)))
        .collect()
}

fn name(app: &str, number: u64) -> String {
    format!("{app}-release-{number}")
}

fn to_config_map(namespace: &str, app: &str, stored: &Stored) -> Result<Value> {
    let number = stored.release.number;
    let name = name(app, number);
    let manifests = Value::Array(stored.manifests.clone()).to_string();
    if manifests.len() > MANIFEST_BYTES {
        let detail = format!("manifests of {} bytes do not fit", manifests.len());
        return Err(Error::new(ErrorKind::Invalid, STAGE, name, detail)
            .with_hint("pass fewer or shorter environment variables"));
    }
    let record = serde_json::to_string(&stored.release).map_err(|source| {
        Error::new(ErrorKind::Invalid, STAGE, &name, "is no JSON").with_source(source)
    })?;
    Ok(json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {
                NAME_LABEL: app,
                MANAGED_BY_LABEL: MANAGED_BY,
                format!("{PREFIX}/release"): number.to_string(),
            },
        },
        "data": { "record.json": record, "manifests.json": manifests },
    }))
}

fn parse(object: &Value) -> Option<Stored> {
    let release: Release = serde_json::from_str(&text(object, "/data/record.json")).ok()?;
    let manifests: Vec<Value> = serde_json::from_str(&text(object, "/data/manifests.json")).ok()?;
    // A record whose manifests were edited is no release to return to.
    (manifest_digest(&manifests) == release.manifest_sha256)
        .then_some(Stored { release, manifests })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ReleaseState as S;

    fn stored(number: u64, state: ReleaseState, content: u64) -> Stored {
        let manifests = vec![json!({ "content": content })];
        Stored {
            release: Release {
                number,
                record: ReleaseRecord::new("key")
                    .with_commit("c")
                    .with_note("run", "7"),
                image: "r.invalid/a@sha256:0".to_owned(),
                manifest_sha256: manifest_digest(&manifests),
                state,
                started: "then".to_owned(),
                finished: None,
                rollback_of: None,
                cause: None,
                evidence: None,
            },
            manifests,
        }
    }

    #[test]
    fn a_record_survives_its_config_map_and_an_edited_one_does_not() {
        let stored = stored(3, S::Available, 1);
        let mut object = to_config_map("prod", "digits", &stored).expect("fits");
        assert_eq!(object["metadata"]["name"], "digits-release-3");
        assert_eq!(parse(&object), Some(stored));
        object["data"]["manifests.json"] = json!("[{\"content\":2}]");
        assert_eq!(parse(&object), None);
    }

    #[test]
    fn the_release_to_return_to_is_available_older_and_other() {
        let history = [
            stored(6, S::RolledBack, 6),
            stored(5, S::Available, 2),
            stored(4, S::Withdrawn, 4),
            stored(3, S::Available, 2),
            stored(2, S::Available, 1),
        ];
        assert_eq!(running(&history).map(|s| s.release.number), Some(5));
        assert_eq!(previous(&history).map(|s| s.release.number), Some(2));
        assert_eq!(next_number(&history), 7);
        assert_eq!(superfluous(&history, 1), [4, 3]);
    }

    #[test]
    fn the_way_back_never_leads_forward() {
        let mut back = stored(4, S::Available, 1);
        back.release.rollback_of = Some(1);
        let mut history = vec![
            back,
            stored(3, S::Withdrawn, 3),
            stored(2, S::Available, 2),
            stored(1, S::Available, 1),
        ];
        assert_eq!(previous(&history), None);
        history.insert(0, stored(5, S::Available, 5));
        assert_eq!(previous(&history).map(|s| s.release.number), Some(4));
    }
}
