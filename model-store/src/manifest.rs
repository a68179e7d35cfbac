//! The JSON documents in a store: the manifest of a version, and the pointers to versions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::model::{ModelFile, check_tree};
use crate::names::{check_sha256, check_version};

/// The version of the layout that this crate writes and reads.
pub(crate) const SCHEMA: u32 = 1;

/// `versions/V/manifest.json`: written after the files, so that its presence means completeness.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    schema_version: u32,
    pub(crate) version: String,
    pub(crate) tree_digest: String,
    pub(crate) total_size: u64,
    pub(crate) files: Vec<ManifestFile>,
    #[serde(default)]
    pub(crate) metadata: BTreeMap<String, String>,
}

/// One file of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ManifestFile {
    pub(crate) path: String,
    pub(crate) size: u64,
    pub(crate) sha256: String,
}

impl Manifest {
    /// The manifest of `files`, which are sorted, checked and hashed.
    pub(crate) fn new(
        version: &str,
        digest: &str,
        files: &[ModelFile],
        metadata: BTreeMap<String, String>,
    ) -> Self {
        let entry = |file: &ModelFile| ManifestFile {
            path: file.path.clone(),
            size: file.size,
            // A reader refuses an empty one by name.
            sha256: file.sha256.clone().unwrap_or_default(),
        };
        Self {
            schema_version: SCHEMA,
            version: version.to_owned(),
            tree_digest: digest.to_owned(),
            total_size: files.iter().map(|file| file.size).sum(),
            files: files.iter().map(entry).collect(),
            metadata,
        }
    }

    /// Parses and checks the manifest found under `version`.
    pub(crate) fn parse(bytes: &[u8], version: &str) -> Result<Self, String> {
        let manifest: Self = parse(bytes)?;
        check_schema(manifest.schema_version)?;
        if manifest.version != version {
            return Err(format!(
                "the manifest speaks of version {:?}",
                manifest.version
            ));
        }
        check_tree(
            &manifest.model_files(),
            &manifest.tree_digest,
            manifest.total_size,
        )?;
        Ok(manifest)
    }

    /// The files as they appear in a lock, not pinned yet.
    pub(crate) fn model_files(&self) -> Vec<ModelFile> {
        let file = |file: &ManifestFile| {
            ModelFile::new(file.path.clone(), file.size, Some(file.sha256.clone()))
        };
        self.files.iter().map(file).collect()
    }

    /// The bytes to store.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec_pretty(self)
    }
}

/// What a document names: a version and what is in it. By itself it is `versions/V/claim.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pointer {
    schema_version: u32,
    pub(crate) version: String,
    pub(crate) tree_digest: String,
}

/// `latest.json` and `aliases/A.json`: what they name, and the number of the move that did it.
#[derive(Serialize, Deserialize)]
struct Moved {
    schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tree_digest: Option<String>,
    /// Says that naming nothing is meant. A pointer is never deleted: stores cannot compare
    /// before they delete, and its number must not be given away again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    removed: bool,
    /// 0 in documents that were written by hand.
    #[serde(default)]
    sequence: u64,
}

impl Pointer {
    pub(crate) fn new(version: &str, tree_digest: &str) -> Self {
        Self {
            schema_version: SCHEMA,
            version: version.to_owned(),
            tree_digest: tree_digest.to_owned(),
        }
    }

    /// Parses and checks a claim.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let pointer: Self = parse(bytes)?;
        pointer.check()?;
        Ok(pointer)
    }

    /// Parses and checks what `latest` or an alias names, and the number of its last move; nothing
    /// is named by a pointer that was removed.
    pub(crate) fn parse_moved(bytes: &[u8]) -> Result<(Option<Self>, u64), String> {
        let moved: Moved = parse(bytes)?;
        check_schema(moved.schema_version)?;
        let target = match (moved.version, moved.tree_digest) {
            (Some(version), Some(digest)) if !moved.removed => Self::new(&version, &digest),
            (None, None) if moved.removed => return Ok((None, moved.sequence)),
            _ => return Err("it must name a version and a tree digest, or be removed".into()),
        };
        target.check()?;
        Ok((Some(target), moved.sequence))
    }

    /// The bytes of `latest` or an alias.
    pub(crate) fn moved_bytes(
        target: Option<&Self>,
        sequence: u64,
    ) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec_pretty(&Moved {
            schema_version: SCHEMA,
            version: target.map(|target| target.version.clone()),
            tree_digest: target.map(|target| target.tree_digest.clone()),
            removed: target.is_none(),
            sequence,
        })
    }

    fn check(&self) -> Result<(), String> {
        check_schema(self.schema_version)?;
        check_version(&self.version)?;
        let hex = self.tree_digest.strip_prefix("sha256:");
        check_sha256(hex.ok_or("the digest is not a sha256")?)
    }

    /// The bytes of a claim.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec_pretty(self)
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("the document cannot be read: {error}"))
}

pub(crate) fn check_schema(version: u32) -> Result<(), String> {
    if version == SCHEMA {
        Ok(())
    } else {
        Err(format!(
            "the document has schema version {version}, this program reads {SCHEMA}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tree_digest;

    #[test]
    fn manifests_are_checked() {
        let files = [ModelFile::new("a".into(), 1, Some("0".repeat(64)))];
        let manifest = Manifest::new("1.0.0", &tree_digest(&files), &files, BTreeMap::new());
        let bytes = manifest.to_bytes().unwrap();
        assert_eq!(Manifest::parse(&bytes, "1.0.0").unwrap(), manifest);
        assert!(
            Manifest::parse(&bytes, "1.0.1")
                .unwrap_err()
                .contains("1.0.0")
        );
        let text = String::from_utf8(bytes).unwrap();
        for (from, to) in [
            ("\"a\"", "\"../a\""),
            ("version\": 1,", "version\": 2,"),
            ("\"size\": 1", "\"size\": 2"),
        ] {
            let forged = text.replacen(from, to, 1);
            assert_ne!(forged, text);
            assert!(
                Manifest::parse(forged.as_bytes(), "1.0.0").is_err(),
                "{from}"
            );
        }
    }

    #[test]
    fn pointers_are_checked() {
        let pointer = Pointer::new("1.0.0", &format!("sha256:{}", "a".repeat(64)));
        assert_eq!(
            Pointer::parse(&pointer.to_bytes().unwrap()).unwrap(),
            pointer
        );
        assert!(Pointer::parse(b"{}").is_err());
        assert!(
            Pointer::parse(
                &Pointer::new("../x", &pointer.tree_digest)
                    .to_bytes()
                    .unwrap()
            )
            .is_err()
        );
        assert!(Pointer::parse(&Pointer::new("1", "sha256:1").to_bytes().unwrap()).is_err());
    }

    #[test]
    fn moved_pointers_name_a_version_or_say_that_they_are_removed() {
        let pointer = Pointer::new("1.0.0", &format!("sha256:{}", "a".repeat(64)));
        let round = |target: Option<&Pointer>, sequence| {
            let bytes = Pointer::moved_bytes(target, sequence).unwrap();
            Pointer::parse_moved(&bytes).unwrap()
        };
        assert_eq!(round(Some(&pointer), 3), (Some(pointer.clone()), 3));
        assert_eq!(round(None, 4), (None, 4));
        let by_hand = pointer.to_bytes().unwrap();
        assert_eq!(Pointer::parse_moved(&by_hand), Ok((Some(pointer), 0)));
        for odd in [
            r#"{"schema_version": 1}"#,
            r#"{"schema_version": 1, "version": "1"}"#,
            r#"{"schema_version": 2, "removed": true}"#,
            r#"{"schema_version": 1, "removed": true, "version": "1", "tree_digest": "x"}"#,
        ] {
            assert!(Pointer::parse_moved(odd.as_bytes()).is_err(), "{odd}");
        }
    }
}
