//! Certificates: from the signer's, by way of those in the bundle, to a root that is trusted.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use sha2::{Digest as _, Sha256};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath, anchor_from_trusted_cert};

use super::der::{CODE_SIGNING, Details, date};
use super::key::PublicKey;
use super::refused::Refused;

/// How certificates may be signed; the signer's own key is narrower, see [`PublicKey`].
fn algorithms() -> [&'static dyn SignatureVerificationAlgorithm; 15] {
    use webpki::aws_lc_rs::{
        ECDSA_P256_SHA256, ECDSA_P256_SHA384, ECDSA_P256_SHA512, ECDSA_P384_SHA256,
        ECDSA_P384_SHA384, ECDSA_P384_SHA512, ECDSA_P521_SHA256, ECDSA_P521_SHA384,
        ECDSA_P521_SHA512, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
        RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
        RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    };
    [
        ECDSA_P256_SHA256,
        ECDSA_P256_SHA384,
        ECDSA_P256_SHA512,
        ECDSA_P384_SHA256,
        ECDSA_P384_SHA384,
        ECDSA_P384_SHA512,
        ECDSA_P521_SHA256,
        ECDSA_P521_SHA384,
        ECDSA_P521_SHA512,
        ED25519,
        RSA_PKCS1_2048_8192_SHA256,
        RSA_PKCS1_2048_8192_SHA384,
        RSA_PKCS1_2048_8192_SHA512,
        RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
        RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
    ]
}

/// The roots that are trusted, and the time at which certificates have to be valid.
#[derive(Clone)]
pub(super) struct Roots {
    anchors: Vec<TrustAnchor<'static>>,
    now: u64,
}

/// A signer's certificate that leads to a root.
#[derive(Debug)]
pub(super) struct Leaf {
    pub(super) key: PublicKey,
    pub(super) details: Details,
    /// The SHA-256 of the certificate, in hexadecimal.
    pub(super) fingerprint: String,
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} roots on {}", self.anchors.len(), day(self.now))
    }
}

impl Roots {
    /// Reads every `CERTIFICATE` block; those that are not valid at `now` are not trusted.
    pub(super) fn from_pem(pem: &[u8], now: SystemTime) -> Result<Self, Refused> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut anchors = Vec::new();
        let mut stale = Vec::new();
        for root in CertificateDer::pem_slice_iter(pem) {
            let root = root.map_err(|why| Refused::new(format!("the roots are not PEM: {why}")))?;
            let anchor = anchor_from_trusted_cert(&root)
                .map_err(|why| Refused::new(format!("a root cannot be read: {why}")))?;
            let details = Details::read(&root)?;
            if valid(&details, now) {
                anchors.push(anchor.to_owned());
            } else {
                stale.push(format!("{} ({})", details.subject, period(&details)));
            }
        }
        if !anchors.is_empty() {
            return Ok(Self { anchors, now });
        }
        let detail = if stale.is_empty() {
            "there is no CERTIFICATE block".to_owned()
        } else {
            format!("no root is valid on {}: {}", day(now), stale.join(", "))
        };
        Err(Refused::new(detail))
    }

    /// Checks the path from the first of `chain` to a root: signatures, validity, what each key
    /// is for (RFC 5280, section 6).
    pub(super) fn leaf(&self, chain: &[Vec<u8>]) -> Result<Leaf, Refused> {
        let chain: Vec<CertificateDer<'_>> =
            chain.iter().map(|one| one.as_slice().into()).collect();
        let Some((first, others)) = chain.split_first() else {
            return Err(Refused::new("the bundle has no certificate"));
        };
        let refused = |why| self.refused(first, &why);
        let end = EndEntityCert::try_from(first).map_err(refused)?;
        end.verify_for_usage(
            &algorithms(),
            &self.anchors,
            others,
            UnixTime::since_unix_epoch(Duration::from_secs(self.now)),
            KeyUsage::required_if_present(CODE_SIGNING),
            None,
            Some(&may_certify),
        )
        .map_err(refused)?;
        let details = Details::read(first)?;
        if !details.may_sign() {
            let detail = format!(
                "the certificate of {} is not for signing: it needs the key usage \
                 digitalSignature or the extended key usage codeSigning, and none that excludes it",
                details.subject
            );
            return Err(Refused::new(detail));
        }
        Ok(Leaf {
            key: PublicKey::from_der(&details.key)?,
            fingerprint: hex::encode(Sha256::digest(first)),
            details,
        })
    }

    fn refused(&self, leaf: &[u8], why: &webpki::Error) -> Refused {
        let details = Details::read(leaf).ok();
        let subject = details.as_ref().map_or("unknown", |found| &found.subject);
        let text = match why {
            webpki::Error::CertExpired { .. } | webpki::Error::CertNotValidYet { .. } => {
                let at = details.as_ref().map(period).unwrap_or_default();
                format!(
                    "is, or a certificate above it is, not valid on {}: {at}",
                    day(self.now)
                )
            }
            webpki::Error::UnknownIssuer => "leads to no root that is trusted".to_owned(),
            webpki::Error::RequiredEkuNotFoundContext(_) => {
                "is not for code signing (extended key usage), or one above it is not".to_owned()
            }
            webpki::Error::EndEntityUsedAsCa => {
                "was issued by a certificate that may not issue any".to_owned()
            }
            webpki::Error::CaUsedAsEndEntity => {
                "is of an authority, which signs certificates and not models".to_owned()
            }
            webpki::Error::InvalidSignatureForPublicKey => {
                "is, or one above it is, not signed by its issuer".to_owned()
            }
            other => format!("cannot be accepted: {other}"),
        };
        Refused::new(format!("the certificate of {subject} {text}"))
            .with_hint("ask the signer for a signature by a certificate that your roots vouch for")
    }
}

/// Path validation does not look at the key usage of the certificates between.
fn may_certify(path: &VerifiedPath<'_>) -> Result<(), webpki::Error> {
    let good = path
        .intermediate_certificates()
        .all(|one| Details::read(&one.der()).is_ok_and(|details| details.may_sign_certificates()));
    good.then_some(()).ok_or(webpki::Error::EndEntityUsedAsCa)
}

fn valid(details: &Details, now: u64) -> bool {
    i64::try_from(now).is_ok_and(|now| (details.not_before..=details.not_after).contains(&now))
}

fn period(details: &Details) -> String {
    format!(
        "valid from {} to {}",
        date(details.not_before),
        date(details.not_after)
    )
}

fn day(seconds: u64) -> String {
    date(i64::try_from(seconds).unwrap_or(i64::MAX))
}
