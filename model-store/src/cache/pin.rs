//! `Pin`: which object, and which state of it, the bytes of a file come from.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::model::{ModelFile, ModelVersion};

/// One state of one object. Bytes that arrived under one pin never go together with those of
/// another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pin {
    url: String,
    object: String,
    etag: Option<String>,
    version_id: Option<String>,
    pub(super) size: u64,
    /// What the lock says of the content, where it does.
    pub(super) sha256: Option<String>,
}

impl Pin {
    pub(super) fn of(model: &ModelVersion, file: &ModelFile) -> Self {
        Self {
            url: model.url().to_string(),
            object: model.object(file),
            etag: file.etag.clone(),
            version_id: file.version_id.clone(),
            size: file.size,
            sha256: file.sha256.clone(),
        }
    }

    /// The name under which the file arrives: of its content where that is known, so that one
    /// content arrives once, else of its object.
    pub(super) fn key(&self) -> String {
        self.sha256.clone().unwrap_or_else(|| self.object_key())
    }

    /// A name for the object.
    pub(super) fn object_key(&self) -> String {
        // Neither has a line break, so the text has one reading.
        hex::encode(Sha256::digest(format!("{}\n{}", self.url, self.object)))
    }

    /// Whether the store itself tells this state of the object from others.
    pub(super) fn is_exact(&self) -> bool {
        self.etag.is_some() || self.version_id.is_some()
    }

    /// How errors call the file.
    pub(super) fn name(&self) -> String {
        if self.object.is_empty() {
            self.url.clone()
        } else {
            format!("{}/{}", self.url, self.object)
        }
    }
}
