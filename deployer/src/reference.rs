//! Image references that name a digest and nothing else.

use std::fmt;
use std::str::FromStr;

use oci_spec::distribution::Reference;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

const STAGE: &str = "parse image";

/// `registry/repository@sha256:…`: the only kind of image reference that is deployed.
///
/// A tag beside the digest is dropped: it says nothing the cluster would check.
/// Grammar: OCI distribution specification, "Pulling manifests".
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PinnedReference {
    registry: String,
    repository: String,
    digest: String,
}

impl PinnedReference {
    /// The registry host, with its port where it has one.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository's path in its registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The manifest's digest, `sha256:` and 64 hex digits.
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

impl TryFrom<Reference> for PinnedReference {
    type Error = Error;

    fn try_from(reference: Reference) -> Result<Self> {
        let digest = reference
            .digest()
            .filter(|digest| is_sha256(digest))
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::Invalid,
                    STAGE,
                    format!("`{}`", reference.whole()),
                    "has no sha256 digest",
                )
                .with_hint("give the image as registry/repository@sha256:…; a tag can change")
            })?;
        Ok(Self {
            registry: reference.registry().to_owned(),
            repository: reference.repository().to_owned(),
            digest: digest.to_owned(),
        })
    }
}

impl From<PinnedReference> for Reference {
    fn from(pinned: PinnedReference) -> Self {
        Self::with_digest(pinned.registry, pinned.repository, pinned.digest)
    }
}

impl FromStr for PinnedReference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let reference: Reference = text.parse().map_err(|source| {
            Error::new(
                ErrorKind::Invalid,
                STAGE,
                format!("`{text}`"),
                "is not an image reference",
            )
            .with_source(Box::new(source) as crate::BoxError)
        })?;
        Self::try_from(reference)
    }
}

impl fmt::Display for PinnedReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.registry, self.repository, self.digest)
    }
}

impl Serialize for PinnedReference {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PinnedReference {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

fn is_sha256(digest: &str) -> bool {
    digest
        .strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_digests_pass_and_tags_are_dropped() {
        let hex = "a".repeat(64);
        let pinned: PinnedReference = format!("reg.invalid:5000/team/app:1.2@sha256:{hex}")
            .parse()
            .expect("tag and digest");
        assert_eq!(
            pinned.to_string(),
            format!("reg.invalid:5000/team/app@sha256:{hex}")
        );
        for bad in [
            "reg.invalid/app:1.2",
            "reg.invalid/app",
            "",
            "UPPER/x@sha256:00",
        ] {
            let error = bad.parse::<PinnedReference>().expect_err(bad);
            assert_eq!(error.kind(), ErrorKind::Invalid, "{bad}");
        }
    }
}
