//! What an answer was decided by, and one cheap request that tells whether that is still so.

use serde::{Deserialize, Serialize};

use super::STAGE;
use crate::error::Result;
use crate::store::{Fetched, ModelStore};

/// What decides a selector's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Basis {
    /// A document: a pointer, an index, or the manifest of a version that never changes.
    Document { path: String, etag: Option<String> },
    /// What is below a folder. The fingerprint is taken before the answer it belongs to, so that
    /// what changes in between is seen by the next look.
    Listing {
        folder: String,
        fingerprint: Option<String>,
    },
    /// The model's one object, or one of its versions.
    Object {
        etag: Option<String>,
        version: Option<String>,
    },
}

/// What a look at the basis of an answer says.
#[derive(Debug)]
pub(crate) enum Probe {
    Same,
    /// It is another one, which the answer is to be kept with.
    Other(Basis),
}

impl Basis {
    pub(crate) fn document(path: &str, etag: Option<String>) -> Self {
        Self::Document {
            path: path.to_owned(),
            etag,
        }
    }

    /// A folder whose fingerprint is not known yet: the next look takes it, and answers anew.
    pub(crate) fn listing(folder: &str) -> Self {
        Self::Listing {
            folder: folder.to_owned(),
            fingerprint: None,
        }
    }

    /// This basis of a new answer, as of an earlier look at the same folder.
    pub(crate) fn or_earlier(self, earlier: Self) -> Self {
        match (&self, &earlier) {
            (Self::Listing { folder, .. }, Self::Listing { folder: other, .. })
                if folder == other =>
            {
                earlier
            }
            _ => self,
        }
    }
}

impl ModelStore {
    /// One request, without a body in its answer when nothing changed. A listing takes one for
    /// each thousand objects.
    pub(crate) async fn probe(&self, basis: &Basis) -> Result<Probe> {
        let now = match basis {
            Basis::Document { path, etag } => {
                match self.fetch(STAGE, path, etag.as_deref()).await? {
                    Fetched::NotModified => return Ok(Probe::Same),
                    Fetched::Found { etag, .. } => Basis::document(path, etag),
                    Fetched::Missing => Basis::document(path, None),
                }
            }
            Basis::Listing { folder, .. } => Basis::Listing {
                folder: folder.clone(),
                fingerprint: Some(self.fingerprint(folder).await?),
            },
            Basis::Object { version, .. } => {
                let meta = self.head_version("", version.as_deref()).await?;
                Basis::Object {
                    etag: meta.and_then(|found| found.meta.e_tag),
                    version: version.clone(),
                }
            }
        };
        // A tag that is not there tells nothing.
        let known = !matches!(
            now,
            Basis::Document { etag: None, .. } | Basis::Object { etag: None, .. }
        );
        Ok(if known && now == *basis {
            Probe::Same
        } else {
            Probe::Other(now)
        })
    }
}
