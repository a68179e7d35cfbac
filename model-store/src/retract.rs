//! Retraction: a version that is never chosen again, and stays readable by its digest.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::names::check_version;
use crate::note::Note;
use crate::store::{Fetched, ModelStore};

const STAGE: &str = "retract model";
/// The folder of the documents.
const FOLDER: &str = "retracted";

/// That a version is retracted, `retracted/V.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Retraction {
    /// The version.
    pub version: String,
    /// What it holds, as `sha256:…`; not known where only the names were listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree_digest: Option<String>,
    /// When, by whom and why; empty where only the names were listed.
    #[serde(default)]
    pub note: Note,
}

/// The path of the document that retracts a version.
pub(crate) fn retraction_path(version: &str) -> String {
    format!("{FOLDER}/{version}.json")
}

impl ModelStore {
    /// The retracted versions by name, with one list request: enough to leave them out. Their
    /// documents are not read; [`retraction`](Self::retraction) does, for a message.
    pub(crate) async fn retracted(&self) -> Result<BTreeMap<String, Retraction>> {
        let named = self.documents(STAGE, FOLDER).await?;
        let retraction = |version: String| Retraction {
            version,
            tree_digest: None,
            note: Note::default(),
        };
        let versions = named
            .into_keys()
            .filter(|version| check_version(version).is_ok());
        Ok(versions
            .map(|version| (version.clone(), retraction(version)))
            .collect())
    }

    /// Why a version is retracted; nothing when it is not.
    ///
    /// # Errors
    /// Those of the store. A document that cannot be understood still retracts.
    pub async fn retraction(&self, version: &str) -> Result<Option<Retraction>> {
        let path = retraction_path(version);
        let bytes = match self.fetch(STAGE, &path, None).await? {
            Fetched::Found { bytes, .. } => bytes,
            Fetched::Missing | Fetched::NotModified => return Ok(None),
        };
        let found = serde_json::from_slice(&bytes).unwrap_or(Retraction {
            version: String::new(),
            tree_digest: None,
            note: Note::default(),
        });
        Ok(Some(Retraction {
            version: version.to_owned(),
            ..found
        }))
    }

    /// The error of whoever asks for a retracted version by its name.
    pub(crate) fn retracted_error(&self, stage: &'static str, retraction: &Retraction) -> Error {
        let note = &retraction.note;
        let mut detail = "the version is retracted".to_owned();
        for (word, text) in [("on", &note.at), ("by", &note.by)] {
            if let Some(text) = text {
                detail.push_str(&format!(" {word} {text}"));
            }
        }
        if let Some(reason) = &note.reason {
            detail.push_str(&format!(": {reason}"));
        }
        let object = self.name_of(&format!("versions/{}", retraction.version));
        Error::new(ErrorKind::Retracted, stage, object, detail)
            .with_hint("choose another version; its bytes are still read by their sha256 digest")
    }
}
