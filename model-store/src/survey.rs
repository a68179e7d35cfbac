//! What is below `versions/`, with one list request for each thousand objects.

use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::error::Result;
use crate::names::check_version;
use crate::publish::claim_path;
use crate::resolve::manifest_path;
use crate::store::ModelStore;

const FOLDER: &str = "versions";

/// The objects of one version, as they were listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// The paths of its objects below the model's folder; claim and manifest are among them.
    pub(crate) objects: Vec<String>,
    /// Their sizes together, in bytes.
    pub(crate) bytes: u64,
    /// When the newest of them was written, by the store's clock.
    pub(crate) newest: Option<SystemTime>,
    /// When the manifest was written; nothing when there is none.
    pub(crate) completed: Option<SystemTime>,
}

impl Found {
    /// Whether it has a manifest.
    pub(crate) fn is_complete(&self) -> bool {
        self.completed.is_some()
    }
}

impl ModelStore {
    /// Every version of which there is any object.
    pub(crate) async fn survey(&self, stage: &'static str) -> Result<BTreeMap<String, Found>> {
        let mut versions = BTreeMap::<String, Found>::new();
        for (path, meta) in self.objects_below(stage, FOLDER).await? {
            let Some((version, _)) = path.split_once('/') else {
                continue;
            };
            // What others put there under names we would never write is not ours to judge.
            if check_version(version).is_err() {
                continue;
            }
            let path = format!("{FOLDER}/{path}");
            let written = SystemTime::from(meta.last_modified);
            let is_manifest = path == manifest_path(version);
            let found = versions.entry(version.to_owned()).or_default();
            found.objects.push(path);
            found.bytes += meta.size;
            found.newest = found.newest.max(Some(written));
            if is_manifest {
                found.completed = Some(written);
            }
        }
        Ok(versions)
    }

    /// The objects of one version.
    pub(crate) async fn found(&self, stage: &'static str, version: &str) -> Result<Vec<String>> {
        let folder = format!("{FOLDER}/{version}");
        let listed = self.objects_below(stage, &folder).await?;
        Ok(listed
            .into_keys()
            .map(|path| format!("{folder}/{path}"))
            .collect())
    }
}

/// Whether an object is one of the two by which publishers know a version.
pub(crate) fn is_document(version: &str, path: &str) -> bool {
    path == manifest_path(version) || path == claim_path(version)
}
