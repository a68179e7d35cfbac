//! Verifies the OpenPGP signature over a suite's `InRelease`.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use pgp::composed::{CleartextSignedMessage, Deserializable, SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Signature, SignatureType};
use pgp::types::{KeyDetails, VerifyingKey};

use crate::error::{Error, ErrorKind, Result};

const STAGE: &str = "verify release";

/// Whose signature a source accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignedBy {
    /// Any key apt itself trusts on the machine the sources were read from.
    Machine,
    /// Any key in one of these files, ASCII-armored or binary.
    Keyrings(Vec<PathBuf>),
    /// Any key in this ASCII-armored text.
    Inline(String),
    /// Keys of the machine with one of these fingerprints.
    Fingerprints(Vec<String>),
    /// Nobody's: the source is used unsigned, because its owner said `trusted`.
    Nobody,
}

/// The keys one source may be signed with.
#[derive(Debug, Default)]
pub(super) struct Keyring {
    keys: Vec<SignedPublicKey>,
}

impl Keyring {
    /// Loads the keys of `signed_by`; `machine` holds the files of [`SignedBy::Machine`].
    pub(super) fn load(signed_by: &SignedBy, machine: &[PathBuf]) -> Result<Self> {
        match signed_by {
            SignedBy::Machine => Self::from_files(machine, false),
            SignedBy::Keyrings(files) => Self::from_files(files, true),
            SignedBy::Inline(text) => {
                let mut keys = Vec::new();
                read_keys(text.as_bytes(), &mut keys).map_err(|error| {
                    Error::new(
                        ErrorKind::Invalid,
                        STAGE,
                        "Signed-By",
                        "the inline key is malformed",
                    )
                    .with_source(error)
                })?;
                Ok(Self { keys })
            }
            SignedBy::Fingerprints(wanted) => {
                let mut all = Self::from_files(machine, false)?;
                all.keys.retain(|key| {
                    let ours = key.fingerprint().to_string();
                    wanted
                        .iter()
                        .any(|one| one.trim_end_matches('!').eq_ignore_ascii_case(&ours))
                });
                Ok(all)
            }
            SignedBy::Nobody => Ok(Self::default()),
        }
    }

    /// Reads key files. Of the machine's own collection unreadable ones are passed over, as apt
    /// does; a file named for a source must be good.
    fn from_files(files: &[PathBuf], strict: bool) -> Result<Self> {
        let mut keys = Vec::new();
        for file in files {
            match read_file(file, &mut keys) {
                Err(error) if strict => return Err(error),
                _ => {}
            }
        }
        Ok(Self { keys })
    }

    /// Checks that one key of the ring signed `message` and gives the text that was signed.
    ///
    /// Only the returned text may be used afterwards: what surrounds it is not covered.
    pub(super) fn verify(
        &self,
        message: &[u8],
        suite: &str,
        now: Option<SystemTime>,
    ) -> Result<String> {
        let refuse = |detail: &str| Error::new(ErrorKind::Unverified, STAGE, suite, detail);
        if self.keys.is_empty() {
            return Err(refuse("there is no key to verify it with")
                .with_hint("install the archive's keyring, or name it with `Signed-By`"));
        }
        let (message, _) = CleartextSignedMessage::from_armor(message)
            .map_err(|error| refuse("it is not a signed release").with_source(error))?;
        let text = message.signed_text();
        let mut known = false;
        for signature in message
            .signatures()
            .iter()
            .filter(|signature| is_strong(signature))
        {
            for key in self.keys.iter().filter(|key| is_current(key, now)) {
                known |= signed_with(key, signature);
                if verifies(key, signature, text.as_bytes(), now) {
                    return Ok(text);
                }
            }
        }
        Err(if known {
            refuse("the signature does not match the text").with_hint(
                "the release was altered or cut on its way; try again, or another mirror",
            )
        } else {
            refuse("no trusted key signed it")
                .with_hint("add the archive's key with `Signed-By` in the apt sources")
        })
    }
}

fn read_file(path: &Path, keys: &mut Vec<SignedPublicKey>) -> Result<()> {
    let bytes = std::fs::read(path)
        .map_err(|error| Error::io(STAGE, path, "cannot read the keyring", error))?;
    read_keys(&bytes, keys).map_err(|error| {
        let object = path.display().to_string();
        Error::new(
            ErrorKind::Invalid,
            STAGE,
            object,
            "it is not an OpenPGP keyring",
        )
        .with_source(error)
    })
}

/// Reads every key of a binary keyring or of one or more armored blocks.
fn read_keys(bytes: &[u8], keys: &mut Vec<SignedPublicKey>) -> pgp::errors::Result<()> {
    const BEGIN: &[u8] = b"-----BEGIN PGP PUBLIC KEY BLOCK-----";
    let starts: Vec<usize> = bytes
        .windows(BEGIN.len())
        .enumerate()
        .filter(|(_, at)| *at == BEGIN)
        .map(|(at, _)| at)
        .collect();
    if starts.is_empty() {
        // One key of an algorithm we do not know must not hide the others.
        keys.extend(SignedPublicKey::from_bytes_many(bytes)?.filter_map(Result::ok));
        return Ok(());
    }
    for (nth, start) in starts.iter().enumerate() {
        let end = starts.get(nth + 1).copied().unwrap_or(bytes.len());
        let (block, _) = SignedPublicKey::from_armor_many(&bytes[*start..end])?;
        keys.extend(block.filter_map(Result::ok));
    }
    Ok(())
}

/// Whether it is a signature over a document whose digest still resists forgery.
fn is_strong(signature: &Signature) -> bool {
    let weak = [
        HashAlgorithm::Md5,
        HashAlgorithm::Sha1,
        HashAlgorithm::Ripemd160,
    ];
    matches!(
        signature.typ(),
        Some(SignatureType::Text | SignatureType::Binary)
    ) && signature
        .hash_alg()
        .is_some_and(|hash| !weak.contains(&hash))
}

/// Whether the certificate is neither revoked by its owner nor expired at `now`.
fn is_current(key: &SignedPublicKey, now: Option<SystemTime>) -> bool {
    let revoked = key
        .details
        .revocation_signatures
        .iter()
        .any(|signature| signature.verify_key(&key.primary_key).is_ok());
    let lifetime = key
        .details
        .users
        .iter()
        .flat_map(|user| &user.signatures)
        .chain(&key.details.direct_signatures)
        .filter(|signature| issued_by(&key.primary_key, signature))
        .max_by_key(|signature| signature.created())
        .and_then(Signature::key_expiration_time);
    !revoked
        && !has_ended(
            key.primary_key.created_at().into(),
            lifetime.map(Into::into),
            now,
        )
}

fn has_ended(
    from: SystemTime,
    lifetime: Option<std::time::Duration>,
    now: Option<SystemTime>,
) -> bool {
    let (Some(lifetime), Some(now)) = (lifetime, now) else {
        return false;
    };
    !lifetime.is_zero() && from.checked_add(lifetime).is_some_and(|end| end < now)
}

/// Whether the primary key or a properly bound signing subkey made the signature.
fn verifies(
    key: &SignedPublicKey,
    signature: &Signature,
    text: &[u8],
    now: Option<SystemTime>,
) -> bool {
    let expired = signature.created().is_some_and(|at| {
        has_ended(
            at.into(),
            signature.signature_expiration_time().map(Into::into),
            now,
        )
    });
    if expired {
        return false;
    }
    signature.verify(&key.primary_key, text).is_ok()
        || key
            .public_subkeys
            .iter()
            .any(|subkey| may_sign(key, subkey, now) && signature.verify(&subkey.key, text).is_ok())
}

/// Whether the primary key vouches for the subkey, for signing, and has not taken it back.
/// The subkey's own counter-signature is checked too (RFC 9580, 10.1.5).
fn may_sign(key: &SignedPublicKey, subkey: &SignedPublicSubKey, now: Option<SystemTime>) -> bool {
    let newest = subkey
        .signatures
        .iter()
        .filter(|signature| {
            signature
                .verify_subkey_binding(&key.primary_key, &subkey.key)
                .is_ok()
        })
        .max_by_key(|signature| signature.created());
    let Some(newest) = newest else { return false };
    // A revocation is a signature of its own type; the newest word counts.
    newest.typ() == Some(SignatureType::SubkeyBinding)
        && newest.key_flags().sign()
        && newest.embedded_signature().is_some_and(|back| {
            back.verify_primary_key_binding(&subkey.key, &key.primary_key)
                .is_ok()
        })
        && !has_ended(
            subkey.key.created_at().into(),
            newest.key_expiration_time().map(Into::into),
            now,
        )
}

/// Whether the signature says it was made by the primary key or a subkey of `key`.
fn signed_with(key: &SignedPublicKey, signature: &Signature) -> bool {
    issued_by(&key.primary_key, signature)
        || key
            .public_subkeys
            .iter()
            .any(|subkey| issued_by(&subkey.key, signature))
}

fn issued_by(key: &impl VerifyingKey, signature: &Signature) -> bool {
    let (id, fingerprint) = (key.legacy_key_id(), key.fingerprint());
    signature.issuer_key_id().contains(&&id)
        || signature.issuer_fingerprint().contains(&&fingerprint)
}
