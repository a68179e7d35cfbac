//! SHA-256 digests, computed while bytes move.

use std::str::FromStr;

use oci_spec::image::{Digest, Sha256Digest};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, ErrorKind, Result};

/// A running digest and the number of bytes it has seen.
#[derive(Clone, Default)]
pub(crate) struct Hasher {
    state: Sha256,
    seen: u64,
}

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.state.update(bytes);
        self.seen += bytes.len() as u64;
    }

    /// The bytes seen so far.
    pub(crate) fn seen(&self) -> u64 {
        self.seen
    }

    pub(crate) fn finish(self) -> Digest {
        let hex = hex::encode(self.state.finalize());
        let digest = Sha256Digest::from_str(&hex);
        digest
            .expect("64 lower-case hex digits are a SHA-256 digest")
            .into()
    }
}

/// The digest of bytes in memory.
pub(crate) fn digest(bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::default();
    hasher.update(bytes);
    hasher.finish()
}

/// The hex part of a SHA-256 digest, the only algorithm this crate computes.
pub(crate) fn sha256_hex(digest: &Digest) -> Result<&str> {
    match digest.algorithm().as_ref() {
        "sha256" => Ok(digest.digest()),
        other => {
            let detail = format!("the digest algorithm `{other}` is not supported");
            Err(Error::new(
                ErrorKind::Unsupported,
                "check digest",
                digest.to_string(),
                detail,
            )
            .with_hint("use an image whose digests are SHA-256"))
        }
    }
}

/// Checks bytes against the digest and size that a descriptor states.
pub(crate) fn verify(what: &str, stated: (&Digest, u64), found: (&Digest, u64)) -> Result<()> {
    if stated == found {
        return Ok(());
    }
    let detail = format!(
        "stated are {} and {} bytes, found are {} and {} bytes",
        stated.0, stated.1, found.0, found.1
    );
    Err(
        Error::new(ErrorKind::DigestMismatch, "verify", what, detail)
            .with_hint("fetch it again; if the mismatch stays, its source is damaged"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_digest_is_the_known_one() {
        let known = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest(b"").to_string(), known);
        assert!(verify("x", (&digest(b""), 0), (&digest(b""), 1)).is_err());
    }

    #[test]
    fn other_algorithms_are_refused_by_name() {
        let other: Digest = format!("sha512:{}", "0".repeat(128)).parse().unwrap();
        let error = sha256_hex(&other).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}
