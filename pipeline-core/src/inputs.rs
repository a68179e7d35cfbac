//! The identity of a release before it is built.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Everything that decides an image's bytes, and whether it may be made. Two runs with equal inputs
/// build the same image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Inputs {
    /// The base: the digest of the Debian lock, or of the base image's manifest.
    pub base: String,
    /// The digest of the app's files as they go into the image.
    pub app: String,
    /// The code's revision: a commit id, or the tree's own digest.
    pub revision: String,
    /// The model's name.
    pub model_name: String,
    /// The model's version.
    pub model_version: String,
    /// The digest of the model's file tree.
    pub model: String,
    /// The digest of the image configuration that the pipeline adds: command, environment, user.
    pub config: String,
    /// The digest of what the model had to pass: its signer and the policy of its content.
    #[serde(default)]
    pub checks: String,
}

/// Raised whenever the same inputs would make other bytes, so that old releases are not reused.
pub const LAYER_FORMAT: u32 = 2;

/// The digest of [`Inputs`]: the identity of a release before it is built.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReleaseKey(String);

impl Inputs {
    /// The key of these inputs.
    pub fn key(&self) -> ReleaseKey {
        let mut hash = Sha256::new();
        // Length-prefixed, so that no two lists of fields run together into the same bytes.
        for field in [
            "modelship release key",
            &LAYER_FORMAT.to_string(),
            &self.base,
            &self.app,
            &self.revision,
            &self.model_name,
            &self.model_version,
            &self.model,
            &self.config,
            &self.checks,
        ] {
            hash.update((field.len() as u64).to_be_bytes());
            hash.update(field.as_bytes());
        }
        ReleaseKey(hex::encode(hash.finalize()))
    }
}

impl ReleaseKey {
    /// A key as it was recorded elsewhere, compared but never trusted to be well-formed.
    pub(crate) fn from_text(text: String) -> Self {
        Self(text)
    }

    /// All 64 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The tag under which an image with this key is found again: it exists only for an image
    /// that passed its tests.
    pub fn tag(&self) -> String {
        format!("key-{}", self.0.get(..32).unwrap_or(&self.0))
    }

    /// The first twelve digits, for people.
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

impl fmt::Display for ReleaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ReleaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReleaseKey({})", self.short())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn inputs(fields: [String; 8]) -> Inputs {
        let [
            base,
            app,
            revision,
            model_name,
            model_version,
            model,
            config,
            checks,
        ] = fields;
        Inputs {
            base,
            app,
            revision,
            model_name,
            model_version,
            model,
            config,
            checks,
        }
    }

    proptest! {
        /// Equal keys mean equal inputs, also where text moves from one field to the next.
        #[test]
        fn keys_differ_where_inputs_differ(
            a in proptest::array::uniform8("[ab]{0,3}"),
            b in proptest::array::uniform8("[ab]{0,3}"),
        ) {
            let (a, b) = (inputs(a), inputs(b));
            prop_assert_eq!(a == b, a.key() == b.key());
        }
    }

    #[test]
    fn the_key_of_known_inputs_never_changes_unseen() {
        let key = inputs(
            [
                "base", "app", "rev", "digits", "1.0.0", "model", "config", "checks",
            ]
            .map(String::from),
        )
        .key();
        assert_eq!(key.as_str().len(), 64);
        assert_eq!(key.tag(), format!("key-{}", &key.as_str()[..32]));
        assert_eq!(
            key.short(),
            GOLDEN,
            "raise LAYER_FORMAT on purpose, then change this line"
        );
    }

    const GOLDEN: &str = "388159699b77";
}
