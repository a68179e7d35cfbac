//! What a model has to be before it enters an image: who signed it, and what its files may hold.

use std::path::{Path, PathBuf};

use modelship_model_store::signing::SignaturePolicy;
use serde::{Deserialize, Serialize};

use super::Problem;

/// Who has to have signed the model (OpenSSF model-signing), and whether anybody has to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct SignatureConfig {
    /// `required`: no image without a signature that holds. `if-present`: a signature that is there
    /// has to hold; the default where `key` or `roots` is named. `off`: nothing is looked at.
    pub policy: Option<SignaturePolicy>,
    /// The signer's public key, a PEM file. Exclusive with `roots`.
    pub key: Option<PathBuf>,
    /// Root certificates, a PEM file: whoever has a certificate for signing code that leads to one
    /// of them may sign. Exclusive with `key`.
    pub roots: Option<PathBuf>,
    /// The file of the model that holds the signature; default `model.sig`.
    pub file: Option<String>,
    /// Accepts every file that the signer left out of the signature; default `false`: of these,
    /// only what belongs to git may be there.
    pub accept_ignored: bool,
}

impl SignatureConfig {
    /// The policy that is in force.
    pub fn policy(&self) -> SignaturePolicy {
        let default = match (&self.key, &self.roots) {
            (None, None) => SignaturePolicy::Off,
            _ => SignaturePolicy::IfPresent,
        };
        self.policy.unwrap_or(default)
    }

    pub(super) fn problem(&self) -> Option<Problem> {
        if self.key.is_some() && self.roots.is_some() {
            let text = "name either `key` (a public key) or `roots` (root certificates)";
            return Some(("model.signature.key", text.to_owned()));
        }
        let nobody = self.key.is_none() && self.roots.is_none();
        if nobody && self.policy() != SignaturePolicy::Off {
            let text = "name the signer, with `key` (a public key) or `roots` (root certificates)";
            return Some(("model.signature.policy", text.to_owned()));
        }
        if self.file.as_deref() == Some("") {
            return Some(("model.signature.file", "the name is empty".to_owned()));
        }
        None
    }

    pub(super) fn anchor(&mut self, folder: &Path) {
        for path in [&mut self.key, &mut self.roots].into_iter().flatten() {
            *path = folder.join(path.as_path());
        }
    }
}
