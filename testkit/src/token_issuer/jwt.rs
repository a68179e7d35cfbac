//! JSON Web Tokens as the distribution registries verify them.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{KeyPair, SigningKey};
use serde_json::{Value, json};

use super::Scope;
use crate::Missing;
use crate::tls::{Authority, Subject};

/// What registries add to a token's life against clocks that differ: `Leeway` in the registry's
/// `registry/auth/token`, the same in 2.8 and 3.1.
const LEEWAY_SECONDS: u64 = 60;

/// Signs tokens with a certified P-256 key (ES256; RFC 7518, section 3.4).
pub(super) struct Signer {
    root_pem: String,
    /// The certificate in the form of `x5c` (RFC 7515, section 4.1.6).
    certificate: String,
    key: KeyPair,
}

impl Signer {
    pub(super) fn new() -> Result<Self, Missing> {
        let authority = Authority::new()?;
        let subject = Subject {
            name: "token issuer",
            hosts: &["127.0.0.1"],
            ..Subject::default()
        };
        let identity = authority.issue(&subject)?;
        let lines = identity.certificate_pem.lines();
        let certificate = lines.filter(|line| !line.starts_with('-')).collect();
        Ok(Self {
            root_pem: authority.pem(),
            certificate,
            key: KeyPair::from_pem(&identity.key_pem).map_err(super::broken)?,
        })
    }

    pub(super) fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// A token that registries accept for `life` seconds from now, to the second.
    pub(super) fn token(
        &self,
        (issuer, service): (&str, &str),
        user: &str,
        access: &[Scope],
        life: u64,
    ) -> Result<String, Missing> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_err(super::broken)?.as_secs();
        let access: Vec<_> = access.iter().map(Scope::claim).collect();
        let header = json!({ "typ": "JWT", "alg": "ES256", "x5c": [self.certificate] });
        let claims = json!({
            "iss": issuer,
            "sub": user,
            "aud": service,
            "exp": now + life - LEEWAY_SECONDS.min(now),
            "nbf": now - LEEWAY_SECONDS.min(now),
            "iat": now,
            "jti": hex::encode(rand::random::<[u8; 8]>()),
            "access": access,
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = self.key.sign(signed.as_bytes()).map_err(super::broken)?;
        let signature = fixed_size(&signature).ok_or_else(|| super::broken("bad signature"))?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

impl Scope {
    fn claim(&self) -> Value {
        json!({ "type": self.kind, "name": self.name, "actions": self.actions })
    }
}

/// An ECDSA signature in ASN.1 as two numbers of 32 bytes (RFC 7518, section 3.4).
fn fixed_size(der: &[u8]) -> Option<[u8; 64]> {
    let [0x30, _, rest @ ..] = der else {
        return None;
    };
    let mut signature = [0; 64];
    let mut rest = rest;
    for half in signature.chunks_exact_mut(32) {
        let [0x02, length, tail @ ..] = rest else {
            return None;
        };
        let (number, tail) = tail.split_at_checked(usize::from(*length))?;
        // A leading zero keeps the number positive.
        let number = number.strip_prefix(&[0]).unwrap_or(number);
        half.get_mut(32_usize.checked_sub(number.len())?..)?
            .copy_from_slice(number);
        rest = tail;
    }
    Some(signature)
}

/// The user of `Authorization: Basic`, and the password.
pub(super) fn basic(value: &str) -> Option<(String, String)> {
    let text = STANDARD.decode(value.strip_prefix("Basic ")?).ok()?;
    let text = String::from_utf8(text).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}
