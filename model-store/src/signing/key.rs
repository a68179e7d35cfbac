//! Public keys in SubjectPublicKeyInfo (RFC 5480, RFC 8410), and signatures by them.

use std::fmt;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ECDSA_P521_SHA512_ASN1, ED25519,
    ParsedPublicKey, VerificationAlgorithm,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};

use super::refused::Refused;

/// A kind of key: how its SubjectPublicKeyInfo begins, up to the key itself, and how long that is.
///
/// DER has one spelling, so the beginning can be compared and needs no parser. A curve goes with
/// the hash of its size, as in the registry of Sigstore's algorithms.
struct Kind {
    name: &'static str,
    algorithm: &'static dyn VerificationAlgorithm,
    prefix: &'static str,
    key: usize,
}

fn kinds() -> [Kind; 4] {
    [
        Kind {
            name: "ECDSA P-256",
            algorithm: &ECDSA_P256_SHA256_ASN1,
            prefix: "3059301306072a8648ce3d020106082a8648ce3d030107034200",
            key: 65,
        },
        Kind {
            name: "ECDSA P-384",
            algorithm: &ECDSA_P384_SHA384_ASN1,
            prefix: "3076301006072a8648ce3d020106052b81040022036200",
            key: 97,
        },
        Kind {
            name: "ECDSA P-521",
            algorithm: &ECDSA_P521_SHA512_ASN1,
            prefix: "30819b301006072a8648ce3d020106052b8104002303818600",
            key: 133,
        },
        Kind {
            name: "Ed25519",
            algorithm: &ED25519,
            prefix: "302a300506032b6570032100",
            key: 32,
        },
    ]
}

/// A public key of a kind that is trusted to sign.
#[derive(Clone)]
pub(super) struct PublicKey {
    kind: &'static str,
    key: ParsedPublicKey,
    fingerprint: String,
}

impl PublicKey {
    /// Reads exactly one `PUBLIC KEY` block.
    pub(super) fn from_pem(pem: &[u8]) -> Result<Self, Refused> {
        const HINT: &str = "`openssl pkey -in KEY -pubout` writes it";
        if String::from_utf8_lossy(pem).contains("PRIVATE KEY-----") {
            let detail = "this is a private key, and the public one belongs here";
            return Err(Refused::new(detail).with_hint(HINT));
        }
        let keys: Vec<_> = SubjectPublicKeyInfoDer::pem_slice_iter(pem)
            .collect::<Result<_, _>>()
            .map_err(|why| Refused::new(format!("the key is not PEM: {why}")))?;
        if let [key] = keys.as_slice() {
            return Self::from_der(key);
        }
        let detail = format!("there are {} PUBLIC KEY blocks, not one", keys.len());
        Err(Refused::new(detail).with_hint(HINT))
    }

    /// Reads a SubjectPublicKeyInfo.
    pub(super) fn from_der(der: &[u8]) -> Result<Self, Refused> {
        let text = hex::encode(der);
        let Some((kind, start)) = kinds().into_iter().find_map(|kind| {
            let start = kind.prefix.len() / 2;
            (text.starts_with(kind.prefix) && der.len() == start + kind.key)
                .then_some((kind, start))
        }) else {
            let detail = "the key is of no kind that is supported: ECDSA on P-256, P-384 or P-521 \
                          with the point written out, or Ed25519";
            return Err(Refused::new(detail));
        };
        let key = ParsedPublicKey::new(kind.algorithm, &der[start..])
            .map_err(|_| Refused::new(format!("the key is no {} key", kind.name)))?;
        Ok(Self {
            kind: kind.name,
            key,
            fingerprint: fingerprint(der),
        })
    }

    /// Whether `signature` is of `message`, by this key.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.key.verify_sig(message, signature).is_ok()
    }

    /// The SHA-256 of the key's PEM text, in hexadecimal: what bundles give as a hint.
    pub(super) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.fingerprint)
    }
}

/// The digest of the PEM that OpenSSL and its kin write, whatever the given file looks like.
fn fingerprint(der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let mut hasher = Sha256::new();
    hasher.update("-----BEGIN PUBLIC KEY-----\n");
    for line in base64.as_bytes().chunks(64) {
        hasher.update(line);
        hasher.update("\n");
    }
    hasher.update("-----END PUBLIC KEY-----\n");
    hex::encode(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{
        KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData as _,
    };

    #[test]
    fn every_kind_of_key_is_known_by_its_spelling() {
        for (algorithm, name) in [
            (&PKCS_ECDSA_P256_SHA256, "ECDSA P-256"),
            (&PKCS_ECDSA_P384_SHA384, "ECDSA P-384"),
            (&PKCS_ED25519, "Ed25519"),
        ] {
            let pair = KeyPair::generate_for(algorithm).unwrap();
            let key = PublicKey::from_pem(pair.public_key_pem().as_bytes()).unwrap();
            assert_eq!(key.kind, name);
            let der = pair.subject_public_key_info();
            for length in 0..der.len() {
                assert!(PublicKey::from_der(&der[..length]).is_err());
            }
            assert!(PublicKey::from_der(&[der.as_slice(), b"\0"].concat()).is_err());
            let private = PublicKey::from_pem(pair.serialize_pem().as_bytes()).unwrap_err();
            assert!(private.detail.contains("private key"), "{}", private.detail);
            let twice = pair.public_key_pem().repeat(2);
            assert!(PublicKey::from_pem(twice.as_bytes()).is_err());
        }
    }

    #[test]
    fn a_point_that_is_on_no_curve_is_no_key() {
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut der = pair.subject_public_key_info();
        *der.last_mut().unwrap() ^= 1;
        assert!(PublicKey::from_der(&der).is_err());
    }

    proptest! {
        #[test]
        fn no_input_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "\\PC{0,80}") {
            prop_assert!(PublicKey::from_der(&bytes).is_err());
            prop_assert!(PublicKey::from_pem(&bytes).is_err());
            prop_assert!(PublicKey::from_pem(text.as_bytes()).is_err());
        }
    }
}
