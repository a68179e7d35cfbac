//! Signatures of models by [OpenSSF model-signing](https://github.com/sigstore/model-transparency),
//! verified offline with a public key or with root certificates.
//!
//! A signature is a Sigstore bundle, the file `model.sig` of a version: a DSSE envelope around an
//! in-toto statement that names every file with its SHA-256. A sealed lock says the same of the
//! version, so nothing is read again; that a read gives the bytes of the lock is checked wherever
//! bytes are read. What is unknown, missing or too much is an error, never a warning.
//!
//! A signature says who made these bytes. It does not say that they are the newest: who can write
//! to the store can offer an older signed version again.

mod bundle;
mod certificate;
mod coverage;
mod der;
mod find;
mod key;
mod refused;
mod statement;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use self::bundle::{Bundle, Material};
use self::certificate::{Leaf, Roots};
use self::coverage::Coverage;
use self::key::PublicKey;
use self::refused::Refused;
use self::statement::{PREDICATE_TYPE, Statement};
use crate::error::{ErrorKind, Result};
use crate::model::ModelVersion;

/// The file of a version that holds its signature, unless another one is named.
const SIGNATURE_FILE: &str = "model.sig";

/// What to ask of a version's signature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum SignaturePolicy {
    /// There has to be a signature, and it has to hold.
    Required,
    /// If there is a signature, it has to hold. Who can write to the store can remove it.
    IfPresent,
    /// Nothing is looked at.
    #[default]
    Off,
}

/// Who is trusted to sign models.
#[derive(Clone, Debug)]
pub struct Verifier {
    trusted: Trusted,
    file: String,
    accept_ignored: bool,
}

#[derive(Clone, Debug)]
enum Trusted {
    Key(PublicKey),
    Roots(Roots),
}

/// Who signed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Signer {
    /// The holder of a key.
    Key {
        /// The SHA-256 of the key's PEM text, in hexadecimal.
        fingerprint: String,
    },
    /// The holder of a certificate.
    Certificate {
        /// The certificate's subject, as RFC 4514 writes it.
        subject: String,
        /// The certificate's issuer, as RFC 4514 writes it.
        issuer: String,
        /// The SHA-256 of the certificate, in hexadecimal.
        fingerprint: String,
        /// Since when the certificate is valid, in seconds since 1970.
        not_before: i64,
        /// Until when the certificate is valid, in seconds since 1970.
        not_after: i64,
    },
}

/// A version whose signature holds.
#[derive(Clone, Debug)]
pub struct Verified {
    model: ModelVersion,
    signer: Signer,
    name: String,
    unsigned: Vec<String>,
}

impl Verifier {
    /// Trusts the holder of one key: a `PUBLIC KEY` block, ECDSA on P-256, P-384 or P-521, or
    /// Ed25519.
    ///
    /// # Errors
    /// `Invalid` for anything else, a private key among it.
    pub fn from_public_key_pem(pem: &[u8]) -> Result<Self> {
        PublicKey::from_pem(pem)
            .map(|key| Self::new(Trusted::Key(key)))
            .map_err(|why| why.about(ErrorKind::Invalid, "public key"))
    }

    /// Trusts whoever has a certificate for signing code that leads to one of the roots and is
    /// valid at `now`, as are all certificates above it. Revocation is not asked for: nothing is
    /// sent anywhere.
    ///
    /// # Errors
    /// `Invalid` for roots that cannot be read, and when none of them is valid at `now`.
    pub fn from_certificates_pem(roots: &[u8], now: SystemTime) -> Result<Self> {
        Roots::from_pem(roots, now)
            .map(|roots| Self::new(Trusted::Roots(roots)))
            .map_err(|why| why.about(ErrorKind::Invalid, "root certificates"))
    }

    fn new(trusted: Trusted) -> Self {
        Self {
            trusted,
            file: SIGNATURE_FILE.to_owned(),
            accept_ignored: false,
        }
    }

    /// Looks for the signature in this file of a version; without it, in `model.sig`.
    #[must_use]
    pub fn with_signature_file(mut self, path: impl Into<String>) -> Self {
        self.file = path.into();
        self
    }

    /// Accepts every file that the signer chose to leave out. Without it only what belongs to git
    /// (`.git`, `.gitattributes`, `.github`, `.gitignore`) may be there unsigned, as the signing
    /// tool leaves it out on its own.
    #[must_use]
    pub const fn with_ignored_files(mut self) -> Self {
        self.accept_ignored = true;
        self
    }

    /// The file of a version that holds its signature.
    pub fn signature_file(&self) -> &str {
        &self.file
    }

    /// Verifies that `bundle` signs exactly the files of `model`.
    ///
    /// # Errors
    /// `Untrusted`, with what does not hold: the signature, the signer, a file that is missing,
    /// surplus or of other bytes, or a bundle or statement of a form that is not known. Also when
    /// the lock is not sealed.
    pub fn verify(&self, model: &ModelVersion, bundle: &[u8]) -> Result<Verified> {
        const HINT: &str = "have the model signed again by whom you trust, with model-signing 1.0 \
                            or later; or trust who signed it";
        self.check(model, bundle).map_err(|mut why| {
            why.hint.get_or_insert(HINT);
            let object = format!("{}@{}", model.url(), model.version());
            why.about(ErrorKind::Untrusted, object)
        })
    }

    fn check(&self, model: &ModelVersion, bytes: &[u8]) -> Result<Verified, Refused> {
        check_sealed(model)?;
        let bundle = Bundle::parse(bytes)?;
        let (key, signer) = self.signer(&bundle)?;
        if !key.verifies(&bundle.signed_bytes(), &bundle.signature) {
            return Err(if Statement::is_old(&bundle.payload) {
                Statement::old()
            } else {
                Refused::new(format!("the signature is not one by {signer}"))
            });
        }
        let statement = Statement::parse(&bundle.payload)?;
        let coverage = Coverage::of(model, &statement, (bytes, self.accept_ignored))?;
        let model = coverage
            .apply(model)
            .map_err(|why| Refused::new(why.to_string()))?;
        Ok(Verified {
            model,
            signer,
            name: statement.name,
            unsigned: coverage.unsigned,
        })
    }

    /// The key that has to have signed, and whose it is.
    fn signer(&self, bundle: &Bundle) -> Result<(PublicKey, Signer), Refused> {
        match (&self.trusted, &bundle.material) {
            (Trusted::Key(key), Material::Key { hint }) => {
                let fingerprint = key.fingerprint().to_owned();
                let named = [hint, &bundle.keyid];
                if let Some(other) = named.into_iter().flatten().find(|id| **id != fingerprint) {
                    let detail = format!("the bundle is for key {other:?}, not {fingerprint}");
                    return Err(Refused::new(detail));
                }
                Ok((key.clone(), Signer::Key { fingerprint }))
            }
            (Trusted::Roots(roots), Material::Chain(chain)) => {
                let leaf = roots.leaf(chain)?;
                Ok((leaf.key.clone(), leaf.into()))
            }
            (Trusted::Key(_), Material::Chain(_)) => Err(Refused::new(
                "the bundle is signed by a certificate, and a key is what is trusted",
            )
            .with_hint("give the root certificates in place of the key")),
            (Trusted::Roots(_), Material::Key { .. }) => Err(Refused::new(
                "the bundle is signed by a bare key, and root certificates are what is trusted",
            )
            .with_hint("give the public key in place of the root certificates")),
        }
    }
}

fn check_sealed(model: &ModelVersion) -> Result<(), Refused> {
    let unknown = model.files().iter().filter(|file| file.sha256.is_none());
    match unknown.count() {
        0 => Ok(()),
        count => Err(Refused::new(format!(
            "the SHA-256 of {count} files is not known yet, so a signature of them says nothing"
        ))
        .with_hint("seal the version first: fetch it, or have the store read it through")),
    }
}

impl From<Leaf> for Signer {
    fn from(leaf: Leaf) -> Self {
        Self::Certificate {
            subject: leaf.details.subject,
            issuer: leaf.details.issuer,
            fingerprint: leaf.fingerprint,
            not_before: leaf.details.not_before,
            not_after: leaf.details.not_after,
        }
    }
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key { fingerprint } => write!(f, "key {fingerprint}"),
            Self::Certificate {
                subject, issuer, ..
            } => write!(f, "{subject} (certificate issued by {issuer})"),
        }
    }
}

impl Verified {
    /// The version, with [`Trust::Signed`](crate::Trust::Signed) in the files that are signed.
    pub const fn model(&self) -> &ModelVersion {
        &self.model
    }

    /// The version, by itself.
    pub fn into_model(self) -> ModelVersion {
        self.model
    }

    /// Who signed.
    pub const fn signer(&self) -> &Signer {
        &self.signer
    }

    /// What the signer called the model. It is the name of a folder, and binds nothing.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The kind of statement that was signed.
    pub const fn predicate_type(&self) -> &'static str {
        PREDICATE_TYPE
    }

    /// The files that the signature does not cover: the bundle itself, and what the signer left
    /// out.
    pub fn unsigned(&self) -> &[String] {
        &self.unsigned
    }
}
