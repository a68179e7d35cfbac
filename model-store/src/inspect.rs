//! What a store holds, told to people: a list of versions, one version, the difference of two.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};
use crate::history::LOOKUPS;
use crate::manifest::Manifest;
use crate::model::{ModelFile, ModelVersion};
use crate::names::check_version;
use crate::pointer_name::PointerName;
use crate::retract::Retraction;
use crate::store::ModelStore;
use crate::survey::Found;
use crate::version_order::sort;

const STAGE: &str = "inspect model";

/// What a version is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum VersionState {
    /// It can be resolved.
    Complete,
    /// Its publisher is at work, or gave up.
    Unfinished,
    /// It is never chosen again.
    Retracted,
    /// Garbage collection is removing it, or was interrupted.
    Removing,
}

/// One version of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct VersionInfo {
    /// The version.
    pub version: String,
    /// What it is.
    pub state: VersionState,
    /// The sizes of its files together, in bytes: of those that are there, when it is unfinished.
    pub size: u64,
    /// How many files it has, where that is known.
    pub files: Option<usize>,
    /// `sha256:…` over its files, where that is known.
    pub tree_digest: Option<String>,
    /// What its publisher wrote about it.
    pub metadata: BTreeMap<String, String>,
    /// The pointers that name it.
    pub named_by: Vec<PointerName>,
    /// The holds on it.
    pub held_by: Vec<String>,
    /// Why it is retracted, if it is.
    pub retraction: Option<Retraction>,
}

/// One version, with its files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct VersionDetails {
    /// What a list says about it.
    #[serde(flatten)]
    pub info: VersionInfo,
    /// Its files, as its manifest states them; none when it is unfinished.
    pub contents: Vec<ModelFile>,
}

/// A file that two versions both have, with other bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ChangedFile {
    /// The path.
    pub path: String,
    /// Its size in the one version, in bytes.
    pub from: u64,
    /// Its size in the other.
    pub to: u64,
}

/// What a version has that another one has not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct VersionDiff {
    /// Files that are only in the new version.
    pub added: Vec<ModelFile>,
    /// Files that are only in the old version.
    pub removed: Vec<ModelFile>,
    /// Files with other bytes.
    pub changed: Vec<ChangedFile>,
    /// How many files are the same.
    pub same: usize,
    /// The bytes that whoever has the old version must move for the new one. A file with the
    /// bytes of any old one, under whatever path, is not moved.
    pub bytes_to_move: u64,
    /// Metadata that differs, with the old and the new value.
    pub metadata: BTreeMap<String, (Option<String>, Option<String>)>,
}

impl VersionDiff {
    /// Compares two versions, of whatever stores.
    pub fn between(from: &ModelVersion, to: &ModelVersion) -> Self {
        Self::of((from.files(), from.metadata()), (to.files(), to.metadata()))
    }

    fn of(from: Content<'_>, to: Content<'_>) -> Self {
        let by_path = |files: &'_ [ModelFile]| -> BTreeMap<String, ModelFile> {
            files
                .iter()
                .map(|file| (file.path.clone(), file.clone()))
                .collect()
        };
        let (old, new) = (by_path(from.0), by_path(to.0));
        let known: BTreeSet<_> = from.0.iter().map(content).collect();
        let mut diff = Self::default();
        for (path, file) in &new {
            match old.get(path) {
                None => diff.added.push(file.clone()),
                Some(before) if content(before) == content(file) => diff.same += 1,
                Some(before) => diff.changed.push(ChangedFile {
                    path: path.clone(),
                    from: before.size,
                    to: file.size,
                }),
            }
            if !known.contains(&content(file)) {
                diff.bytes_to_move += file.size;
            }
        }
        let gone = old.iter().filter(|(path, _)| !new.contains_key(*path));
        diff.removed = gone.map(|(_, file)| file.clone()).collect();
        let keys: BTreeSet<&String> = from.1.keys().chain(to.1.keys()).collect();
        for key in keys {
            let values = (from.1.get(key).cloned(), to.1.get(key).cloned());
            if values.0 != values.1 {
                diff.metadata.insert(key.clone(), values);
            }
        }
        diff
    }
}

type Content<'a> = (&'a [ModelFile], &'a BTreeMap<String, String>);

/// What tells the bytes of one file from another's; a file nobody vouches for is like no other.
fn content(file: &ModelFile) -> (u64, Option<&str>, Option<&str>) {
    match &file.sha256 {
        Some(sha256) => (file.size, Some(sha256.as_str()), None),
        None => (file.size, file.etag.as_deref(), file.version_id.as_deref()),
    }
}

/// What is known of all versions.
struct Surroundings {
    pointers: BTreeMap<PointerName, String>,
    held: BTreeMap<String, Vec<String>>,
    retracted: BTreeSet<String>,
    marked: BTreeSet<String>,
}

impl ModelStore {
    /// Every version of which there is anything, from lowest to highest, with what it is and who
    /// names it.
    ///
    /// # Errors
    /// `Invalid` for a document that breaks a rule, and those of the store.
    pub async fn list(&self) -> Result<Vec<VersionInfo>> {
        let surroundings = self.surroundings().await?;
        let mut found = self.survey(STAGE).await?;
        for version in &surroundings.retracted {
            found.entry(version.clone()).or_default();
        }
        let mut versions: Vec<String> = found.keys().cloned().collect();
        sort(&mut versions);
        let (found, surroundings) = (&found, &surroundings);
        let info = |version: String| async move {
            let found = found.get(&version).cloned().unwrap_or_default();
            let details = self.details(&version, &found, surroundings).await?;
            Ok::<_, Error>(details.info)
        };
        let listed = stream::iter(versions).map(info).buffered(LOOKUPS);
        listed.try_collect().await
    }

    /// One version with its files, retracted and unfinished ones included.
    ///
    /// # Errors
    /// `NotFound` for a version of which there is nothing; otherwise as [`list`](Self::list).
    pub async fn show(&self, version: &str) -> Result<VersionDetails> {
        check_version(version).map_err(|why| {
            Error::invalid(STAGE, version, why)
                .with_hint("a name has letters, digits and . _ + - only")
        })?;
        let surroundings = self.surroundings().await?;
        let found = self.survey(STAGE).await?.remove(version);
        if found.is_none() && !surroundings.retracted.contains(version) {
            return Err(self.nothing(version).await);
        }
        self.details(version, &found.unwrap_or_default(), &surroundings)
            .await
    }

    /// What the version `to` has that `from` has not; also for retracted versions.
    ///
    /// # Errors
    /// `NotFound` for a version that is not complete, and those of the store.
    pub async fn diff(&self, from: &str, to: &str) -> Result<VersionDiff> {
        let (from, to) = (self.complete_one(from).await?, self.complete_one(to).await?);
        let files = (from.model_files(), to.model_files());
        Ok(VersionDiff::of(
            (&files.0, &from.metadata),
            (&files.1, &to.metadata),
        ))
    }

    async fn complete_one(&self, version: &str) -> Result<Manifest> {
        check_version(version).map_err(|why| {
            Error::invalid(STAGE, version, why)
                .with_hint("a name has letters, digits and . _ + - only")
        })?;
        match self.manifest(version).await? {
            Some(manifest) => Ok(manifest),
            None => Err(self.nothing(version).await),
        }
    }

    async fn nothing(&self, version: &str) -> Error {
        let known = match self.versions().await {
            Ok(known) => known,
            Err(error) => return error,
        };
        let detail = match known.as_slice() {
            [] => format!("version {version} is not there, nor any other"),
            known => format!("version {version} is not there: found {}", known.join(", ")),
        };
        Error::new(ErrorKind::NotFound, STAGE, self.name_of(""), detail)
            .with_hint("name one of the versions that are there, or publish this one")
    }

    async fn surroundings(&self) -> Result<Surroundings> {
        let states = self.pointers().await?.into_iter();
        let mut held = BTreeMap::<String, Vec<String>>::new();
        for (name, hold) in self.holds().await? {
            for version in hold.versions.into_keys() {
                held.entry(version).or_default().push(name.clone());
            }
        }
        let marked = self.documents(STAGE, "removing").await?;
        Ok(Surroundings {
            pointers: states
                .filter_map(|(pointer, state)| Some((pointer, state.target?.version)))
                .collect(),
            held,
            retracted: self.retracted().await?.into_keys().collect(),
            marked: marked.into_keys().collect(),
        })
    }

    async fn details(
        &self,
        version: &str,
        found: &Found,
        around: &Surroundings,
    ) -> Result<VersionDetails> {
        let manifest = if found.is_complete() {
            self.manifest(version).await?
        } else {
            None
        };
        let retraction = if around.retracted.contains(version) {
            self.retraction(version).await?
        } else {
            None
        };
        let state = if retraction.is_some() {
            VersionState::Retracted
        } else if around.marked.contains(version) {
            VersionState::Removing
        } else if manifest.is_some() {
            VersionState::Complete
        } else {
            VersionState::Unfinished
        };
        let named = around
            .pointers
            .iter()
            .filter(|(_, named)| *named == version);
        let contents = manifest.as_ref().map(Manifest::model_files);
        let info = VersionInfo {
            version: version.to_owned(),
            state,
            size: manifest
                .as_ref()
                .map_or(found.bytes, |manifest| manifest.total_size),
            files: contents.as_ref().map(Vec::len),
            tree_digest: manifest
                .as_ref()
                .map(|manifest| manifest.tree_digest.clone()),
            metadata: manifest
                .map(|manifest| manifest.metadata)
                .unwrap_or_default(),
            named_by: named.map(|(pointer, _)| pointer.clone()).collect(),
            held_by: around.held.get(version).cloned().unwrap_or_default(),
            retraction,
        };
        Ok(VersionDetails {
            info,
            contents: contents.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(path: &str, content: u8, size: u64) -> ModelFile {
        ModelFile::new(path.into(), size, Some(format!("{content:064x}")))
    }

    #[test]
    fn files_and_metadata_are_compared() {
        let old = [file("a", 1, 10), file("b", 2, 20), file("c", 3, 30)];
        let new = [
            file("a", 1, 10),
            file("b", 9, 25),
            file("d", 3, 30),
            file("e", 7, 1),
        ];
        let was = [("accuracy", "0.9"), ("commit", "x")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let is = [("accuracy", "0.9"), ("data", "y")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let diff = VersionDiff::of((&old, &was.into()), (&new, &is.into()));
        let paths = |files: &[ModelFile]| -> Vec<String> {
            files.iter().map(|file| file.path.clone()).collect()
        };
        assert_eq!(paths(&diff.added), ["d", "e"]);
        assert_eq!(paths(&diff.removed), ["c"]);
        assert_eq!(diff.changed.len(), 1);
        assert_eq!((diff.changed[0].from, diff.changed[0].to), (20, 25));
        // `d` has the bytes of `c`.
        assert_eq!((diff.same, diff.bytes_to_move), (1, 26));
        assert_eq!(diff.metadata.keys().collect::<Vec<_>>(), ["commit", "data"]);
    }

    proptest! {
        #[test]
        fn every_file_is_accounted_for(
            old in proptest::collection::btree_map("[a-e]", 0_u8..3, 0..5),
            new in proptest::collection::btree_map("[a-e]", 0_u8..3, 0..5),
        ) {
            let files = |named: &BTreeMap<String, u8>| -> Vec<ModelFile> {
                named.iter().map(|(path, content)| file(path, *content, u64::from(*content))).collect()
            };
            let (from, to, none) = (files(&old), files(&new), BTreeMap::new());
            let diff = VersionDiff::of((&from, &none), (&to, &none));
            prop_assert_eq!(diff.added.len() + diff.changed.len() + diff.same, to.len());
            prop_assert_eq!(diff.removed.len() + diff.changed.len() + diff.same, from.len());
            let itself = VersionDiff::of((&from, &none), (&from, &none));
            prop_assert_eq!((itself.same, itself.bytes_to_move), (from.len(), 0));
        }
    }
}
