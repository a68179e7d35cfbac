//! An image reference that cannot move: registry, repository and digest.

use std::fmt;
use std::str::FromStr;

use oci_spec::distribution::Reference;
use oci_spec::image::{Digest, DigestAlgorithm};
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// `registry/repository@sha256:…`: names one manifest for ever. A tag, if one was written, is
/// dropped, because it says nothing about the content.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PinnedReference {
    registry: String,
    repository: String,
    digest: Digest,
}

impl PinnedReference {
    pub(crate) fn new(registry: &str, repository: &str, digest: Digest) -> Self {
        Self {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            digest,
        }
    }

    /// The registry's host, with its port if one is named.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository within the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The digest of the manifest.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// `registry/repository` without the digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }
}

impl fmt::Display for PinnedReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.registry, self.repository, self.digest)
    }
}

impl TryFrom<Reference> for PinnedReference {
    type Error = Error;

    fn try_from(reference: Reference) -> Result<Self> {
        let invalid = |detail: &str| {
            Error::new(
                ErrorKind::Invalid,
                "parse reference",
                reference.whole(),
                detail,
            )
        };
        let digest = reference.digest().ok_or_else(|| {
            invalid("has no digest").with_hint("write it as registry/repository@sha256:…")
        })?;
        let digest =
            Digest::from_str(digest).map_err(|error| invalid("bad digest").with_source(error))?;
        if digest.algorithm() != &DigestAlgorithm::Sha256 {
            return Err(invalid("only sha256 digests are supported"));
        }
        Ok(Self::new(
            reference.registry(),
            reference.repository(),
            digest,
        ))
    }
}

impl FromStr for PinnedReference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let reference = Reference::from_str(text).map_err(|error| {
            Error::new(
                ErrorKind::Invalid,
                "parse reference",
                text,
                "is not an image reference",
            )
            .with_source(error)
        })?;
        Self::try_from(reference)
    }
}

impl TryFrom<String> for PinnedReference {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<PinnedReference> for String {
    fn from(pinned: PinnedReference) -> Self {
        pinned.to_string()
    }
}

impl From<PinnedReference> for Reference {
    fn from(pinned: PinnedReference) -> Self {
        Self::with_digest(
            pinned.registry,
            pinned.repository,
            pinned.digest.to_string(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_tag_is_not_a_pin() {
        let error = "registry.invalid/a/b:1"
            .parse::<PinnedReference>()
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.hint().unwrap().contains("@sha256"));
        let upper = format!("registry.invalid/a@sha256:{}", "A".repeat(64));
        assert!(upper.parse::<PinnedReference>().is_err());
        let long = format!("registry.invalid/a@sha512:{}", "a".repeat(128));
        assert!(long.parse::<PinnedReference>().is_err());
    }

    proptest! {
        #[test]
        fn text_round_trips(
            host in "[a-z][a-z0-9]{0,8}\\.invalid(:[1-9][0-9]{0,3})?",
            path in "[a-z0-9]{1,8}(/[a-z0-9]{1,8}){0,3}",
            hex in "[0-9a-f]{64}",
        ) {
            let text = format!("{host}/{path}@sha256:{hex}");
            let pinned: PinnedReference = text.parse().unwrap();
            prop_assert_eq!(pinned.to_string(), text.clone());
            prop_assert_eq!(pinned.name(), format!("{host}/{path}"));
            let back = PinnedReference::try_from(Reference::from(pinned.clone())).unwrap();
            prop_assert_eq!(&back, &pinned);
            let json = serde_json::to_string(&pinned).unwrap();
            prop_assert_eq!(serde_json::from_str::<PinnedReference>(&json).unwrap(), pinned);
        }

        #[test]
        fn any_text_is_answered_without_panic(text in ".{0,80}") {
            let _ = text.parse::<PinnedReference>();
        }
    }
}
