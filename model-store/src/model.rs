//! `ModelVersion`: a model reference resolved once to an immutable lock.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
use crate::layout::Format;
use crate::names::{check_path, check_sha256, check_version};
use crate::resolve::file_path;
use crate::selector::Selector;
use crate::store_url::StoreUrl;

const STAGE: &str = "read model lock";

/// Who says which bytes a file has, from the weakest to the strongest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Trust {
    /// Nobody: the bytes were hashed as they came, and only their length and tag were compared.
    Observed,
    /// The store: an MD5 of the whole object.
    StoreMd5,
    /// The store: a CRC-64/NVME of the whole object.
    StoreCrc64,
    /// The store: a SHA-256 of the whole object.
    StoreSha256,
    /// A file of checksums beside the model's files.
    Sidecar,
    /// The manifest of the version.
    Manifest,
    /// The digest by which the version was asked for.
    Pinned,
    /// A signed statement, whose signature was verified.
    Signed,
}

/// One file of a model version.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ModelFile {
    /// The path inside the version: relative, `/` between segments.
    pub path: String,
    /// The size in bytes.
    pub size: u64,
    /// The SHA-256 of the content, in lower-case hexadecimal, where somebody states it; without
    /// it the file is known by its tag and size only, until it is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Who states the SHA-256.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<Trust>,
    /// The store's tag of exactly these bytes, which reads are pinned to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// The store's own version of the object, in stores that keep old ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
}

impl ModelFile {
    /// A file whose place in a store is not known yet.
    pub(crate) fn new(path: String, size: u64, sha256: Option<String>) -> Self {
        Self {
            path,
            size,
            trust: sha256.is_some().then_some(Trust::Manifest),
            sha256,
            etag: None,
            version_id: None,
        }
    }

    /// What tells these bytes from others: their SHA-256, else the store's names for them.
    fn identity(&self) -> String {
        let by_tag = || {
            let tag = self.etag.as_deref().unwrap_or_default();
            let version = self.version_id.as_deref().unwrap_or_default();
            format!("etag:{tag} version:{version}")
        };
        self.sha256.clone().unwrap_or_else(by_tag)
    }
}

/// A model reference resolved **once**: which version, which files, which bytes.
///
/// It serialises to stable JSON, and reading it back checks every rule again, so that it can be
/// kept as a lock file and used later, on another machine, for exactly the same bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Lock", into = "Lock")]
pub struct ModelVersion(Lock);

/// The fields of a lock, as they are serialised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lock {
    pub(crate) url: StoreUrl,
    pub(crate) selector: Selector,
    pub(crate) policy: String,
    pub(crate) version: String,
    pub(crate) tree_digest: String,
    pub(crate) total_size: u64,
    /// Where the files are: a folder below the model's own; without it the model is one object,
    /// and the URL is its.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) folder: Option<String>,
    /// Absent in locks that were written before it was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) format: Option<Format>,
    pub(crate) files: Vec<ModelFile>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) metadata: BTreeMap<String, String>,
}

impl ModelVersion {
    /// The model's name.
    pub fn name(&self) -> &str {
        self.0.url.model_name()
    }

    /// The version.
    pub fn version(&self) -> &str {
        &self.0.version
    }

    /// Where the model's versions live.
    pub fn url(&self) -> &StoreUrl {
        &self.0.url
    }

    /// What was asked for.
    pub fn selector(&self) -> &Selector {
        &self.0.selector
    }

    /// How the selector was decided, in words, such as `latest.json names this version`.
    pub fn policy(&self) -> &str {
        &self.0.policy
    }

    /// `sha256:…` over the lines `path size sha256` of all files, sorted by path. A file whose
    /// SHA-256 is not known has the store's tag and version in its place, so the digest of a
    /// version that is not [sealed](Self::is_sealed) changes when it is.
    pub fn tree_digest(&self) -> &str {
        &self.0.tree_digest
    }

    /// Whether the SHA-256 of every file is known: the lock then says which bytes these are, and
    /// not only where they were.
    pub fn is_sealed(&self) -> bool {
        self.0.files.iter().all(|file| file.sha256.is_some())
    }

    /// The same version with what was found of the files whose SHA-256 was not known: by path, the
    /// SHA-256 and who else says so. What was known already is not changed.
    pub(crate) fn seal(&self, found: &BTreeMap<String, (String, Trust)>) -> Result<Self> {
        let mut lock = self.0.clone();
        for file in lock.files.iter_mut().filter(|file| file.sha256.is_none()) {
            if let Some((sha256, trust)) = found.get(&file.path) {
                (file.sha256, file.trust) = (Some(sha256.clone()), Some(*trust));
            }
        }
        lock.tree_digest = tree_digest(&lock.files);
        Self::try_from(lock)
    }

    /// The path of a file's object below the model's folder; empty for the model that is one
    /// object.
    pub(crate) fn object(&self, file: &ModelFile) -> String {
        match self.0.folder.as_deref() {
            None => String::new(),
            Some("") => file.path.clone(),
            Some(folder) => format!("{folder}/{}", file.path),
        }
    }

    /// The files, sorted by path.
    pub fn files(&self) -> &[ModelFile] {
        &self.0.files
    }

    /// The file at `path`.
    pub fn file(&self, path: &str) -> Option<&ModelFile> {
        let at = self
            .0
            .files
            .binary_search_by(|file| file.path.as_str().cmp(path))
            .ok()?;
        self.0.files.get(at)
    }

    /// The sizes of all files together, in bytes.
    pub fn total_size(&self) -> u64 {
        self.0.total_size
    }

    /// Which format the model is in, told by the names of its files.
    pub fn format(&self) -> Format {
        let names = || self.0.files.iter().map(|file| file.path.as_str());
        self.0.format.unwrap_or_else(|| Format::detect(names()))
    }

    /// The folder of the files below the model's own, `None` for the model that is one object.
    pub(crate) fn folder(&self) -> Option<&str> {
        self.0.folder.as_deref()
    }

    /// Whether this is the layout that this crate publishes, whose manifest names the files.
    pub(crate) fn is_published(&self) -> bool {
        self.folder() == Some(file_path(self.version(), "").trim_end_matches('/'))
    }

    /// The same version with other pins of its files.
    pub(crate) fn with_files(&self, files: Vec<ModelFile>) -> Result<Self> {
        let mut lock = self.0.clone();
        lock.tree_digest = tree_digest(&files);
        lock.files = files;
        Self::try_from(lock)
    }

    /// What the publisher wrote about the version, such as the commit that trained it.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.0.metadata
    }
}

impl TryFrom<Lock> for ModelVersion {
    type Error = Error;

    fn try_from(lock: Lock) -> Result<Self> {
        let refuse =
            |detail| Error::invalid(STAGE, format!("{}@{}", lock.url, lock.version), detail);
        check_version(&lock.version).map_err(refuse)?;
        check_place(&lock).map_err(refuse)?;
        check_tree(&lock.files, &lock.tree_digest, lock.total_size).map_err(refuse)?;
        Ok(Self(lock))
    }
}

impl From<ModelVersion> for Lock {
    fn from(model: ModelVersion) -> Self {
        model.0
    }
}

/// Checks where a lock says that the files are: nowhere but below the model's own folder.
fn check_place(lock: &Lock) -> Result<(), String> {
    match lock.folder.as_deref() {
        Some("") => {}
        Some(folder) => check_path(folder).map_err(|why| format!("folder {folder:?}: {why}"))?,
        None if lock.files.len() > 1 => {
            return Err("it has several files and no folder for them".into());
        }
        None => {}
    }
    for file in &lock.files {
        let printable = |text: &str| text.len() <= 1_024 && !text.chars().any(char::is_control);
        let mut pins = [&file.etag, &file.version_id].into_iter().flatten();
        if !pins.all(|pin| printable(pin)) {
            return Err(format!("file {:?}: the tag cannot be one", file.path));
        }
    }
    Ok(())
}

/// The digest of a tree of files: `sha256:` over the lines `path size identity`, sorted by path.
///
/// Paths have no line breaks (checked before), so a line has one reading.
pub(crate) fn tree_digest(files: &[ModelFile]) -> String {
    let mut files: Vec<&ModelFile> = files.iter().collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let mut hasher = Sha256::new();
    for file in files {
        hasher.update(format!("{} {} {}\n", file.path, file.size, file.identity()));
    }
    format!("sha256:{}", hex::encode(hasher.finalize()))
}

/// Checks a list of files that came from outside: names, order, collisions, sums.
pub(crate) fn check_tree(files: &[ModelFile], digest: &str, total: u64) -> Result<(), String> {
    check_paths(files.iter().map(|file| file.path.as_str()))?;
    for file in files {
        let checked = file.sha256.as_deref().map_or(Ok(()), check_sha256);
        checked.map_err(|why| format!("file {:?}: {why}", file.path))?;
    }
    if !files.is_sorted_by(|a, b| a.path < b.path) {
        return Err("the files are not sorted by path".into());
    }
    let sum = files
        .iter()
        .try_fold(0_u64, |sum, file| sum.checked_add(file.size));
    if sum != Some(total) {
        return Err("the sizes of the files do not add up to the total size".into());
    }
    if tree_digest(files) != digest {
        return Err("the files do not have the tree digest".into());
    }
    Ok(())
}

/// Checks paths one by one, and that every file system can hold all of them together.
pub(crate) fn check_paths<'a>(paths: impl Iterator<Item = &'a str> + Clone) -> Result<(), String> {
    let mut files = HashMap::new();
    for path in paths.clone() {
        check_path(path).map_err(|why| format!("file {path:?}: {why}"))?;
        if let Some(other) = files.insert(path.to_lowercase(), path) {
            return Err(format!(
                "file {path:?} collides with {other:?}, which differs only in case"
            ));
        }
    }
    if files.is_empty() {
        return Err("there are no files".into());
    }
    for path in paths {
        let lower = path.to_lowercase();
        let mut folders = lower.match_indices('/').map(|(at, _)| &lower[..at]);
        if let Some(folder) = folders.find(|folder| files.contains_key(*folder)) {
            return Err(format!("{folder:?} is both a file and a folder"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(path: &str, size: u64) -> ModelFile {
        ModelFile::new(path.into(), size, Some(hex::encode(Sha256::digest(path))))
    }

    fn lock(files: Vec<ModelFile>) -> Lock {
        Lock {
            url: "s3://bucket/digits".parse().unwrap(),
            selector: Selector::Latest,
            policy: "latest.json names this version".into(),
            version: "1.0.0".into(),
            tree_digest: tree_digest(&files),
            total_size: files.iter().map(|f| f.size).sum(),
            folder: Some("versions/1.0.0/files".into()),
            format: Some(Format::Plain),
            files,
            metadata: BTreeMap::from([("commit".into(), "abc".into())]),
        }
    }

    #[test]
    fn the_tree_digest_is_what_sha256sum_would_say() {
        // printf 'a 1 %064d\nb 2 %064d\n' 0 1 | sha256sum
        let files = [
            ModelFile::new("b".into(), 2, Some(format!("{:064}", 1))),
            ModelFile::new("a".into(), 1, Some(format!("{:064}", 0))),
        ];
        let text = format!("a 1 {:064}\nb 2 {:064}\n", 0, 1);
        assert_eq!(
            tree_digest(&files),
            format!("sha256:{}", hex::encode(Sha256::digest(text)))
        );
    }

    #[test]
    fn a_lock_round_trips_and_is_checked() {
        let model = ModelVersion::try_from(lock(vec![file("a/b", 3), file("c", 4)])).unwrap();
        let json = serde_json::to_string(&model).unwrap();
        assert_eq!(serde_json::from_str::<ModelVersion>(&json).unwrap(), model);
        assert_eq!((model.name(), model.total_size()), ("digits", 7));
        assert_eq!(model.file("c").unwrap().size, 4);
        assert!(model.file("d").is_none());
        let forged = json.replace("\"c\"", "\"../c\"");
        assert!(
            serde_json::from_str::<ModelVersion>(&forged)
                .unwrap_err()
                .to_string()
                .contains("..")
        );
        for (folder, why) in [
            ("..", ".."),
            ("/etc", "empty"),
            ("a/../../b", ".."),
            ("a//b", "empty"),
            ("C:", "drive"),
        ] {
            let folder = format!("\"folder\":{folder:?}");
            let forged = json.replace("\"folder\":\"versions/1.0.0/files\"", &folder);
            assert_ne!(forged, json);
            let error = serde_json::from_str::<ModelVersion>(&forged).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
        }
        let forged = json.replace("\"folder\":\"versions/1.0.0/files\",", "");
        let error = serde_json::from_str::<ModelVersion>(&forged).unwrap_err();
        assert!(error.to_string().contains("no folder"), "{error}");
        let forged = json.replace("\"size\":4", "\"size\":5");
        assert!(serde_json::from_str::<ModelVersion>(&forged).is_err());
    }

    #[test]
    fn a_lock_without_digests_is_told_by_the_stores_tags() {
        let mut unknown = file("a", 3);
        (unknown.sha256, unknown.trust) = (None, None);
        unknown.etag = Some("\"1\"".into());
        let other = ModelFile {
            etag: Some("\"2\"".into()),
            ..unknown.clone()
        };
        let model = ModelVersion::try_from(lock(vec![unknown])).unwrap();
        assert!(!model.is_sealed());
        let json = serde_json::to_string(&model).unwrap();
        assert_eq!(serde_json::from_str::<ModelVersion>(&json).unwrap(), model);
        assert_ne!(model.tree_digest(), tree_digest(&[other]));
        assert_eq!(model.object(&model.files()[0]), "versions/1.0.0/files/a");
        let found = (hex::encode(Sha256::digest("a")), Trust::Observed);
        let sealed = model.seal(&BTreeMap::from([("a".into(), found)])).unwrap();
        assert!(sealed.is_sealed());
        assert_eq!(sealed.tree_digest(), tree_digest(&[file("a", 3)]));
    }

    #[test]
    fn trees_that_no_file_system_can_hold_are_refused() {
        for (paths, why) in [
            (vec!["a", "A"], "case"),
            (vec!["a", "a/b"], "folder"),
            (vec!["A", "a/b"], "folder"),
            (vec![], "no files"),
            (vec!["/a"], "empty"),
        ] {
            let error = check_paths(paths.iter().copied()).unwrap_err();
            assert!(error.contains(why), "{paths:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn the_tree_digest_ignores_order_and_sees_everything_else(
            mut paths in prop::collection::btree_set("[a-z]{1,6}", 2..6), grow in 1_u64..100,
        ) {
            let files: Vec<_> = std::mem::take(&mut paths).iter().map(|p| file(p, 1)).collect();
            let digest = tree_digest(&files);
            let mut reversed = files.clone();
            reversed.reverse();
            prop_assert_eq!(&tree_digest(&reversed), &digest);
            let mut grown = files.clone();
            grown[0].size += grow;
            prop_assert_ne!(&tree_digest(&grown), &digest);
            let mut renamed = files.clone();
            renamed[0].path.push('0');
            prop_assert_ne!(&tree_digest(&renamed), &digest);
            prop_assert_ne!(&tree_digest(&files[1..]), &digest);
        }
    }
}
