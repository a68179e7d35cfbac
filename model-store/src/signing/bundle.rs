//! A Sigstore bundle with a DSSE envelope in it, read strictly: what is unknown is refused.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::refused::Refused;

/// The largest bundle that is looked at, in bytes: room for some 50,000 files.
pub(super) const MAX_BUNDLE: u64 = 16 << 20;
/// The media type that model-signing writes; the bundle format is the protobuf-specs' v0.3.
const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// More certificates than this are no chain but an attempt to keep us busy.
const MAX_CHAIN: usize = 8;

/// What a bundle says, decoded, not yet verified.
#[derive(Debug)]
pub(super) struct Bundle {
    pub(super) payload: Vec<u8>,
    pub(super) signature: Vec<u8>,
    /// Who the signature says made it; nothing depends on it but the error.
    pub(super) keyid: Option<String>,
    pub(super) material: Material,
}

/// What a bundle brings along to verify it with.
#[derive(Debug)]
pub(super) enum Material {
    /// Nothing but a hint at the key.
    Key { hint: Option<String> },
    /// Certificates in DER, the signer's first.
    Chain(Vec<Vec<u8>>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawBundle {
    media_type: String,
    verification_material: RawMaterial,
    dsse_envelope: Option<RawEnvelope>,
    message_signature: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawMaterial {
    public_key: Option<RawKey>,
    x509_certificate_chain: Option<RawChain>,
    certificate: Option<IgnoredAny>,
    #[serde(default)]
    tlog_entries: Vec<IgnoredAny>,
    timestamp_verification_data: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawKey {
    hint: Option<String>,
    /// Version 0.2 of model-signing put the key itself here; a key in the bundle proves nothing.
    #[serde(rename = "rawBytes")]
    _raw_bytes: Option<IgnoredAny>,
    #[serde(rename = "keyDetails")]
    _key_details: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawChain {
    certificates: Vec<RawCertificate>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawCertificate {
    raw_bytes: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawEnvelope {
    payload: String,
    payload_type: String,
    signatures: Vec<RawSignature>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSignature {
    sig: String,
    keyid: Option<String>,
}

impl Bundle {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Refused> {
        if bytes.len() as u64 > MAX_BUNDLE {
            return Err(Refused::new("the bundle is larger than 16 MiB"));
        }
        let raw: RawBundle = serde_json::from_slice(bytes)
            .map_err(|why| Refused::new(format!("the bundle cannot be read: {why}")))?;
        if raw.media_type != MEDIA_TYPE {
            let detail = format!(
                "the bundle has media type {:?}, not {MEDIA_TYPE}",
                raw.media_type
            );
            return Err(Refused::new(detail));
        }
        let material = material(raw.verification_material)?;
        if raw.message_signature.is_some() {
            let detail = "the bundle signs a single digest, not a statement about files";
            return Err(Refused::new(detail));
        }
        let envelope = raw
            .dsse_envelope
            .ok_or_else(|| Refused::new("the bundle has no dsseEnvelope"))?;
        Self::open(&envelope, material)
    }

    fn open(envelope: &RawEnvelope, material: Material) -> Result<Self, Refused> {
        if envelope.payload_type != PAYLOAD_TYPE {
            let detail = format!(
                "the payload has type {:?}, not {PAYLOAD_TYPE}",
                envelope.payload_type
            );
            return Err(Refused::new(detail));
        }
        let [signature] = envelope.signatures.as_slice() else {
            let detail = format!(
                "the envelope has {} signatures, not exactly one",
                envelope.signatures.len()
            );
            return Err(Refused::new(detail));
        };
        Ok(Self {
            payload: decode("payload", &envelope.payload)?,
            signature: decode("signature", &signature.sig)?,
            keyid: signature.keyid.clone().filter(|id| !id.is_empty()),
            material,
        })
    }

    /// What was signed: the pre-authentication encoding of DSSE 1.0 ("Protocol").
    pub(super) fn signed_bytes(&self) -> Vec<u8> {
        let head = format!(
            "DSSEv1 {} {PAYLOAD_TYPE} {} ",
            PAYLOAD_TYPE.len(),
            self.payload.len()
        );
        [head.as_bytes(), &self.payload].concat()
    }
}

fn material(raw: RawMaterial) -> Result<Material, Refused> {
    const OWN: &str = "sign with a key or a certificate of your own: `model_signing sign key` or \
                       `model_signing sign certificate`";
    if raw.certificate.is_some() || !raw.tlog_entries.is_empty() {
        let detail = "the signature is keyless: its certificate lived for minutes, and only a \
                      transparency log, which is not asked here, says when it was used";
        return Err(Refused::new(detail).with_hint(OWN));
    }
    if raw.timestamp_verification_data.is_some() {
        let detail = "the bundle has timestamps of another authority, which are not verified here";
        return Err(Refused::new(detail).with_hint(OWN));
    }
    match (raw.public_key, raw.x509_certificate_chain) {
        (Some(key), None) => Ok(Material::Key {
            hint: key.hint.filter(|hint| !hint.is_empty()),
        }),
        (None, Some(chain)) => {
            let count = chain.certificates.len();
            if !(1..=MAX_CHAIN).contains(&count) {
                let detail = format!("the bundle has {count} certificates, not 1 to {MAX_CHAIN}");
                return Err(Refused::new(detail));
            }
            let certificates = chain.certificates.iter();
            let decoded = certificates.map(|one| decode("certificate", &one.raw_bytes));
            decoded.collect::<Result<_, _>>().map(Material::Chain)
        }
        _ => Err(Refused::new(
            "the bundle has not exactly one of publicKey and x509CertificateChain",
        )),
    }
}

fn decode(what: &str, text: &str) -> Result<Vec<u8>, Refused> {
    STANDARD
        .decode(text)
        .map_err(|why| Refused::new(format!("the {what} is not base64: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn good() -> serde_json::Value {
        json!({
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": {"publicKey": {"hint": "ab"}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": "aGVsbG8gd29ybGQ=",
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": "AAAA", "keyid": ""}],
            },
        })
    }

    fn refused(change: impl Fn(&mut serde_json::Value)) -> String {
        let mut bundle = good();
        change(&mut bundle);
        assert_ne!(bundle, good());
        Bundle::parse(bundle.to_string().as_bytes())
            .unwrap_err()
            .detail
    }

    #[test]
    fn the_encoding_that_is_signed_is_that_of_the_protocol() {
        let bundle = Bundle::parse(good().to_string().as_bytes()).unwrap();
        assert_eq!(
            bundle.signed_bytes(),
            b"DSSEv1 28 application/vnd.in-toto+json 11 hello world"
        );
        assert_eq!(bundle.keyid, None);
    }

    #[test]
    fn what_is_unknown_is_refused_by_name() {
        let types: [(&str, serde_json::Value, &str); 3] = [
            (
                "mediaType",
                json!("application/vnd.dev.sigstore.bundle+json;version=0.2"),
                "0.2",
            ),
            ("more", json!(1), "unknown field `more`"),
            ("messageSignature", json!({}), "single digest"),
        ];
        for (key, value, why) in types {
            let found = refused(|bundle| bundle[key] = value.clone());
            assert!(found.contains(why), "{key}: {found}");
        }
        let envelope: [(&str, serde_json::Value, &str); 7] = [
            ("payloadType", json!("text/plain"), "text/plain"),
            ("signatures", json!([]), "0 signatures"),
            (
                "signatures",
                json!([{"sig": "AAAA"}, {"sig": "AAAA"}]),
                "2 signatures",
            ),
            ("payload", json!("aGVsbG8gd29ybGQ"), "payload is not base64"),
            (
                "payload",
                json!("aGVsbG8gd29ybGR="),
                "payload is not base64",
            ),
            (
                "payload",
                json!("aGVs\nbG8gd29ybGQ="),
                "payload is not base64",
            ),
            ("more", json!(1), "unknown field `more`"),
        ];
        for (key, value, why) in envelope {
            let found = refused(|bundle| bundle["dsseEnvelope"][key] = value.clone());
            assert!(found.contains(why), "{key}: {found}");
        }
        let chain = json!({"certificates": [{"rawBytes": "AAAA"}]});
        let material: [(&str, serde_json::Value, &str); 6] = [
            ("certificate", json!({"rawBytes": "AAAA"}), "keyless"),
            ("tlogEntries", json!([{"logIndex": "1"}]), "keyless"),
            ("timestampVerificationData", json!({}), "timestamps"),
            ("x509CertificateChain", chain, "exactly one"),
            ("publicKey", json!(null), "exactly one"),
            ("more", json!(1), "unknown field `more`"),
        ];
        for (key, value, why) in material {
            let found = refused(|bundle| bundle["verificationMaterial"][key] = value.clone());
            assert!(found.contains(why), "{key}: {found}");
        }
    }

    #[test]
    fn fields_that_are_there_twice_are_refused() {
        let text = good().to_string();
        for field in ["\"payload\":", "\"mediaType\":", "\"sig\":", "\"hint\":"] {
            let twice = text.replacen(field, &format!("{field}\"AAAA\",{field}"), 1);
            let found = Bundle::parse(twice.as_bytes()).unwrap_err().detail;
            assert!(found.contains("duplicate field"), "{field}: {found}");
        }
        let trailing = Bundle::parse(format!("{text} {{}}").as_bytes()).unwrap_err();
        assert!(trailing.detail.contains("trailing"), "{}", trailing.detail);
    }

    proptest! {
        #[test]
        fn no_input_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Bundle::parse(&bytes).is_err());
        }
    }
}
