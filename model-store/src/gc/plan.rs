//! What would be removed, and what stays although it could go.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::gc::locks::Locks;
use crate::gc::{GcOptions, STAGE};
use crate::store::ModelStore;
use crate::survey::Found;
use crate::version_order::sort;

/// Why a version is garbage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum GcReason {
    /// Its publisher never finished it.
    Unfinished,
    /// It is retracted.
    Retracted,
    /// Enough higher versions are there.
    Superseded,
    /// An earlier garbage collection began to remove it.
    Interrupted,
}

/// A version that is garbage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct GcItem {
    /// The version.
    pub version: String,
    /// Why it goes.
    pub reason: GcReason,
    /// How many objects it has.
    pub objects: usize,
    /// Their sizes together, in bytes.
    pub bytes: u64,
}

/// A version that would be garbage, if nobody locked it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Kept {
    /// The version.
    pub version: String,
    /// Who keeps it, such as `latest`, `alias:prod` or `hold:cluster-a`.
    pub by: Vec<String>,
}

/// What a garbage collection would do now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct GcPlan {
    /// What would be removed.
    pub remove: Vec<GcItem>,
    /// What stays although it could go.
    pub keep: Vec<Kept>,
}

/// What a garbage collection did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct GcReport {
    /// What was removed.
    pub removed: Vec<GcItem>,
    /// What stayed although it could go; someone may have begun to name it meanwhile.
    pub kept: Vec<Kept>,
}

/// What the store says about its versions, to judge them by.
#[derive(Debug)]
pub(super) struct Evidence {
    pub(super) found: BTreeMap<String, Found>,
    /// When each retracted version was.
    pub(super) retracted: BTreeMap<String, SystemTime>,
    /// When each marked version was.
    pub(super) marked: BTreeMap<String, SystemTime>,
}

impl Evidence {
    /// The versions that may go, were they not locked. Pure, so that it can be tested to the end.
    pub(super) fn garbage(&self, options: &GcOptions) -> Vec<GcItem> {
        let superseded = self.superseded(options.keep_last);
        let judged = self.found.iter().filter_map(|(version, found)| {
            let reason = self.judge(version, found, &superseded, options)?;
            Some(GcItem {
                version: version.clone(),
                reason,
                objects: found.objects.len(),
                bytes: found.bytes,
            })
        });
        judged.collect()
    }

    /// Whether what was marked by us is garbage still.
    pub(super) fn confirms(&self, item: &GcItem, options: &GcOptions) -> bool {
        // Of one that is all gone, only the mark is left to remove.
        let Some(found) = self.found.get(&item.version) else {
            return true;
        };
        if item.reason == GcReason::Interrupted {
            return !found.is_complete();
        }
        let superseded = self.superseded(options.keep_last);
        self.judge_unmarked(&item.version, found, &superseded, options)
            .is_some()
    }

    fn judge(
        &self,
        version: &str,
        found: &Found,
        superseded: &BTreeSet<&str>,
        options: &GcOptions,
    ) -> Option<GcReason> {
        if let Some(marked) = self.marked.get(version) {
            // A young mark is another collection's, at work right now.
            if !options.is_older(Some(*marked), options.grace) {
                return None;
            }
            if !found.is_complete() {
                return Some(GcReason::Interrupted);
            }
        }
        self.judge_unmarked(version, found, superseded, options)
    }

    fn judge_unmarked(
        &self,
        version: &str,
        found: &Found,
        superseded: &BTreeSet<&str>,
        options: &GcOptions,
    ) -> Option<GcReason> {
        if !options.is_older(found.newest, options.grace) {
            return None;
        }
        if !found.is_complete() {
            return Some(GcReason::Unfinished);
        }
        if let Some(at) = self.retracted.get(version) {
            let age = options.retracted_after?;
            return options
                .is_older(Some(*at), age)
                .then_some(GcReason::Retracted);
        }
        superseded.contains(version).then_some(GcReason::Superseded)
    }

    /// Complete versions below the last `keep`; retracted ones do not count.
    fn superseded(&self, keep: Option<usize>) -> BTreeSet<&str> {
        let Some(keep) = keep else {
            return BTreeSet::new();
        };
        let complete = self.found.iter().filter(|(version, found)| {
            found.is_complete() && !self.retracted.contains_key(*version)
        });
        let mut versions: Vec<String> = complete.map(|(version, _)| version.clone()).collect();
        sort(&mut versions);
        versions.truncate(versions.len().saturating_sub(keep));
        let low: BTreeSet<String> = versions.into_iter().collect();
        let known = self.found.keys().map(String::as_str);
        known.filter(|version| low.contains(*version)).collect()
    }
}

impl ModelStore {
    /// What a garbage collection with these options would do now. Nothing is changed.
    ///
    /// # Errors
    /// `Invalid` for a document that breaks a rule: what it locks is not known. Those of the store.
    pub async fn gc_plan(&self, options: &GcOptions) -> Result<GcPlan> {
        let evidence = self.evidence().await?;
        let locks = self.locks(options).await?;
        let mut plan = GcPlan::default();
        for item in evidence.garbage(options) {
            match self.keepers(&locks, &item.version).await? {
                Some(kept) => plan.keep.push(kept),
                None => plan.remove.push(item),
            }
        }
        Ok(plan)
    }

    pub(super) async fn evidence(&self) -> Result<Evidence> {
        let times = |listed: BTreeMap<String, object_store::ObjectMeta>| {
            let time = |(name, meta): (String, object_store::ObjectMeta)| {
                (name, SystemTime::from(meta.last_modified))
            };
            listed.into_iter().map(time).collect::<BTreeMap<_, _>>()
        };
        Ok(Evidence {
            found: self.survey(STAGE).await?,
            retracted: times(self.documents(STAGE, "retracted").await?),
            marked: times(self.documents(STAGE, "removing").await?),
        })
    }

    /// Who keeps a version, if anybody does.
    pub(super) async fn keepers(&self, locks: &Locks, version: &str) -> Result<Option<Kept>> {
        // A manifest that cannot be read locks nothing by its content; by its name it still may.
        let digest = match self.manifest(version).await {
            Ok(manifest) => manifest.map(|manifest| manifest.tree_digest),
            Err(error) if error.kind() == crate::ErrorKind::Invalid => None,
            Err(error) => return Err(error),
        };
        let by = locks.of(version, digest.as_deref());
        let version = version.to_owned();
        Ok::<_, Error>((!by.is_empty()).then_some(Kept { version, by }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const NOW: u64 = 1_000_000;

    fn at(age: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(NOW - age)
    }

    fn found(complete: bool, age: u64) -> Found {
        Found {
            objects: vec!["x".into()],
            bytes: 1,
            newest: Some(at(age)),
            completed: complete.then(|| at(age)),
        }
    }

    fn evidence(found: &[(&str, Found)]) -> Evidence {
        Evidence {
            found: found
                .iter()
                .map(|(name, found)| ((*name).to_owned(), found.clone()))
                .collect(),
            retracted: BTreeMap::new(),
            marked: BTreeMap::new(),
        }
    }

    fn garbage(evidence: &Evidence, options: &GcOptions) -> Vec<(String, GcReason)> {
        let items = evidence.garbage(options).into_iter();
        items.map(|item| (item.version, item.reason)).collect()
    }

    fn options() -> GcOptions {
        GcOptions::new(at(0)).with_grace(Duration::from_secs(100))
    }

    #[test]
    fn only_old_unfinished_versions_go_by_default() {
        let mut evidence = evidence(&[
            ("1", found(true, 5000)),
            ("2", found(false, 99)),
            ("3", found(false, 100)),
        ]);
        evidence.retracted.insert("1".into(), at(4000));
        assert_eq!(
            garbage(&evidence, &options()),
            [("3".into(), GcReason::Unfinished)]
        );
        // A clock that is behind the store's makes everything young.
        let early = GcOptions::new(at(200)).with_grace(Duration::ZERO);
        assert_eq!(garbage(&evidence, &early), []);
    }

    #[test]
    fn retracted_and_superseded_versions_go_on_request() {
        let names = ["1.0.0", "1.2.0", "1.9.0", "1.10.0"];
        let mut evidence = evidence(&names.map(|name| (name, found(true, 500))));
        evidence.retracted.insert("1.9.0".into(), at(300));
        let retracted = options().with_retracted_after(Duration::from_mins(5));
        assert_eq!(
            garbage(&evidence, &retracted),
            [("1.9.0".into(), GcReason::Retracted)]
        );
        let younger = options().with_retracted_after(Duration::from_secs(301));
        assert_eq!(garbage(&evidence, &younger), []);
        let keep_two = options().with_keep_last(2);
        assert_eq!(
            garbage(&evidence, &keep_two),
            [("1.0.0".into(), GcReason::Superseded)]
        );
        let keep_all = options().with_keep_last(9);
        assert_eq!(garbage(&evidence, &keep_all), []);
    }

    #[test]
    fn an_old_mark_is_finished_and_a_young_one_left_alone() {
        let mut evidence = evidence(&[("1", found(false, 500)), ("2", found(true, 500))]);
        for version in ["1", "2"] {
            evidence.marked.insert(version.into(), at(99));
        }
        assert_eq!(garbage(&evidence, &options()), []);
        for version in ["1", "2"] {
            evidence.marked.insert(version.into(), at(100));
        }
        assert_eq!(
            garbage(&evidence, &options()),
            [("1".into(), GcReason::Interrupted)]
        );
    }
}
