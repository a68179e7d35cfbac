//! The JSON documents in a store: the manifest of a version, and the pointers to versions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::model::{ModelFile, check_tree};
use crate::names::{check_sha256, check_version};

/// The version of the layout that this crate writes and reads.
const SCHEMA: u32 = 1;

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

/// `latest.json`, `aliases/A.json` and `versions/V/claim.json`: a version and what is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pointer {
    schema_version: u32,
    pub(crate) version: String,
    pub(crate) tree_digest: String,
}

impl Pointer {
    pub(crate) fn new(version: &str, tree_digest: &str) -> Self {
        Self {
            schema_version: SCHEMA,
            version: version.to_owned(),
            tree_digest: tree_digest.to_owned(),
        }
    }

    /// Parses and checks a pointer.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let pointer: Self = parse(bytes)?;
        check_schema(pointer.schema_version)?;
        check_version(&pointer.version)?;
        let hex = pointer
            .tree_digest
            .strip_prefix("sha256:")
            .ok_or("the digest is not a sha256")?;
        check_sha256(hex)?;
        Ok(pointer)
    }

    /// The bytes to store.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec_pretty(self)
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("the document cannot be read: {error}"))
}

fn check_schema(version: u32) -> Result<(), String> {
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
}
