//! Signatures by the reference implementation, over versions in a store.
//!
//! `fixtures/signing/make.py` says how they were made.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use modelship_model_store::signing::{SignaturePolicy, Signer, Verified, Verifier};
use modelship_model_store::{Error, ErrorKind, ModelStore, ModelVersion, StoreOptions, Trust};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::fixtures::{dir, publish};

const FILES: [&str; 5] = [
    ".gitattributes",
    "config.json",
    "notes.txt",
    "tokenizer/vocab.txt",
    "weights.safetensors",
];

fn fixture(name: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/signing");
    fs::read(folder.join(name)).unwrap()
}

fn model_files() -> Vec<(String, Vec<u8>)> {
    let read = |path: &str| (path.to_owned(), fixture(&format!("model/{path}")));
    FILES.into_iter().map(read).collect()
}

/// A version with these files, in a store of its own.
async fn version(files: &[(String, Vec<u8>)]) -> (ModelStore, ModelVersion) {
    let store = ModelStore::open(&"memory://m".parse().unwrap(), &StoreOptions::default()).unwrap();
    let borrowed: Vec<_> = files
        .iter()
        .map(|(path, bytes)| (path.as_str(), bytes.as_slice()))
        .collect();
    let source = dir(&borrowed);
    let model = publish(&store, source.path(), "1.0.0").await.unwrap();
    (store, model)
}

/// The model of the fixtures with the signature of this name in it.
async fn signed(bundle: &str) -> (ModelStore, ModelVersion) {
    let mut files = model_files();
    files.push(("model.sig".into(), fixture(&format!("{bundle}.sig"))));
    version(&files).await
}

fn key(name: &str) -> Verifier {
    Verifier::from_public_key_pem(&fixture(&format!("{name}.pem"))).unwrap()
}

/// 1 January of a year, some leap days off.
fn year(year: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs((year - 1970) * 31_557_600)
}

fn roots() -> Verifier {
    Verifier::from_certificates_pem(&fixture("roots.pem"), year(2026)).unwrap()
}

async fn verify(
    verifier: &Verifier,
    (store, model): &(ModelStore, ModelVersion),
) -> Result<Verified, Error> {
    let found = store.verify_signature(model, verifier, SignaturePolicy::Required);
    found.await.map(Option::unwrap)
}

/// Why the signature of this name does not hold.
async fn refused(verifier: &Verifier, bundle: &str) -> String {
    let error = verify(verifier, &signed(bundle).await).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Untrusted, "{error:?}");
    assert_eq!(error.stage(), "verify signature");
    format!("{error}; {}", error.hint().unwrap_or_default())
}

#[tokio::test]
async fn keys_of_the_reference_tool_verify() {
    for name in ["p256", "p384", "p521"] {
        let place = signed(name).await;
        let verified = verify(&key(name), &place).await.unwrap();
        assert!(matches!(verified.signer(), Signer::Key { .. }), "{name}");
        assert_eq!(verified.name(), "model");
        assert_eq!(
            verified.predicate_type(),
            "https://model_signing/signature/v1.0"
        );
        assert_eq!(verified.unsigned(), [".gitattributes", "model.sig"]);
        let model = verified.into_model();
        assert_eq!(model.tree_digest(), place.1.tree_digest());
        for file in model.files() {
            let covered = ![".gitattributes", "model.sig"].contains(&file.path.as_str());
            assert_eq!(file.trust == Some(Trust::Signed), covered, "{file:?}");
        }
    }
}

#[tokio::test]
async fn certificates_of_the_reference_tool_verify() {
    for (bundle, subject) in [
        ("certificate", "CN=certificate,O=Acme\\, Inc."),
        ("extended-only", "CN=extended-only,O=Acme\\, Inc."),
    ] {
        let verified = verify(&roots(), &signed(bundle).await).await.unwrap();
        let Signer::Certificate {
            subject: found,
            issuer,
            not_before,
            not_after,
            fingerprint,
        } = verified.signer()
        else {
            panic!("{:?}", verified.signer());
        };
        assert_eq!(
            (found.as_str(), issuer.as_str()),
            (subject, "CN=mid,O=Acme\\, Inc.")
        );
        // The whole of 2025 to 2124.
        assert_eq!((*not_before, *not_after), (1_735_689_600, 4_891_363_200));
        assert_eq!(fingerprint.len(), 64);
        assert!(verified.signer().to_string().starts_with(subject));
    }
}

#[tokio::test]
async fn only_the_right_signer_is_trusted() {
    let fingerprint = "the bundle is for key";
    assert!(refused(&key("other"), "p256").await.contains(fingerprint));
    assert!(refused(&key("p384"), "p256").await.contains(fingerprint));
    for (bundle, why) in [
        ("for-servers", "not for code signing"),
        ("for-agreement", "is not for signing"),
        ("for-nothing", "is not for signing"),
        ("incomplete", "leads to no root"),
        ("under-wrong", "may not issue any"),
        ("expired", "valid from 2025-01-01 to 2025-02-01"),
        ("p256", "signed by a bare key"),
    ] {
        let found = refused(&roots(), bundle).await;
        assert!(found.contains(why), "{bundle}: {found}");
    }
    let found = refused(&key("p256"), "certificate").await;
    assert!(found.contains("signed by a certificate"), "{found}");
    let stranger = Verifier::from_certificates_pem(&fixture("stranger.pem"), year(2026)).unwrap();
    let found = refused(&stranger, "certificate").await;
    assert!(found.contains("leads to no root"), "{found}");
    // While it was valid, the brief one is good.
    let then = UNIX_EPOCH + Duration::from_secs(1_736_000_000);
    let early = Verifier::from_certificates_pem(&fixture("roots.pem"), then).unwrap();
    verify(&early, &signed("expired").await).await.unwrap();
}

#[test]
fn trust_anchors_are_read_strictly() {
    for (pem, now, why) in [
        (fixture("roots.pem"), year(2126), "no root is valid on 2126"),
        (fixture("roots.pem"), year(2000), "no root is valid on 2000"),
        (
            fixture("roots.pem"),
            UNIX_EPOCH - Duration::from_secs(1),
            "no root is valid",
        ),
        (fixture("p256.pem"), year(2026), "no CERTIFICATE block"),
        (Vec::new(), year(2026), "no CERTIFICATE block"),
    ] {
        let error = Verifier::from_certificates_pem(&pem, now).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains(why), "{error}");
    }
    let error = Verifier::from_public_key_pem(&fixture("roots.pem")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn forms_that_are_not_supported_are_refused_by_name() {
    for (bundle, why) in [
        ("shards", "by \"shards\""),
        ("blake2", "of \"blake2b\""),
        ("old", "model-signing 0.2"),
    ] {
        let found = refused(&key("p256"), bundle).await;
        assert!(
            found.contains(why) && found.contains("sign the model again"),
            "{found}"
        );
    }
}

#[tokio::test]
async fn every_file_is_bound() {
    let verifier = key("p256");
    for (at, (path, content)) in model_files().iter().enumerate() {
        let git = path.starts_with(".git");
        // Each byte of each file.
        for byte in 0..content.len() {
            let mut files = model_files();
            files[at].1[byte] ^= 1;
            let (_, model) = version(&files).await;
            let result = verifier.verify(&model, &fixture("p256.sig"));
            assert_eq!(result.is_ok(), git, "{path} {byte}");
        }
        let mut files = model_files();
        files.remove(at);
        let (_, model) = version(&files).await;
        let result = verifier.verify(&model, &fixture("p256.sig"));
        assert_eq!(result.is_ok(), git, "{path} removed");
        files.push((format!("{path}2"), content.clone()));
        let (_, model) = version(&files).await;
        let error = verifier.verify(&model, &fixture("p256.sig")).unwrap_err();
        assert!(
            error.to_string().contains(&format!("\"{path}2\"")),
            "{error}"
        );
        assert_eq!(error.to_string().contains("missing"), !git, "{error}");
    }
    let mut files = model_files();
    files.push(("more/evil.pkl".into(), b"cos\nsystem\n.".to_vec()));
    let (_, model) = version(&files).await;
    let error = verifier.verify(&model, &fixture("p256.sig")).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("nobody signed: \"more/evil.pkl\""),
        "{error}"
    );
    let found = refused(&verifier, "other-model").await;
    assert!(
        found.contains("other bytes than were signed: \"config.json\""),
        "{found}"
    );
}

#[tokio::test]
async fn what_the_signer_left_out_needs_permission() {
    let found = refused(&key("p256"), "left-out").await;
    assert!(found.contains("nobody signed: \"notes.txt\""), "{found}");
    let place = signed("left-out").await;
    let verified = verify(&key("p256").with_ignored_files(), &place)
        .await
        .unwrap();
    assert_eq!(
        verified.unsigned(),
        [".gitattributes", "model.sig", "notes.txt"]
    );
    let notes = verified.model().file("notes.txt").unwrap();
    assert_eq!(notes.trust, Some(Trust::Manifest));
}

#[tokio::test]
async fn policies_say_what_a_missing_signature_means() {
    let (store, model) = version(&model_files()).await;
    let verifier = key("p256");
    for (policy, passes) in [
        (SignaturePolicy::Required, false),
        (SignaturePolicy::IfPresent, true),
        (SignaturePolicy::Off, true),
    ] {
        let result = store.verify_signature(&model, &verifier, policy).await;
        match result {
            Ok(found) => assert!(passes && found.is_none()),
            Err(error) => {
                assert!(!passes, "{error:?}");
                assert_eq!(error.kind(), ErrorKind::Untrusted);
                assert!(
                    error.to_string().contains("there is no \"model.sig\""),
                    "{error}"
                );
            }
        }
    }
    // A bad one is bad even where none is required.
    let (store, model) = signed("other-model").await;
    let result = store.verify_signature(&model, &verifier, SignaturePolicy::IfPresent);
    assert_eq!(result.await.unwrap_err().kind(), ErrorKind::Untrusted);
    let off = store.verify_signature(&model, &verifier, SignaturePolicy::Off);
    assert!(off.await.unwrap().is_none());
    // Another name, and a folder.
    let mut files = model_files();
    files.push(("signatures/acme.json".into(), fixture("p256.sig")));
    let place = version(&files).await;
    let elsewhere = verifier.with_signature_file("signatures/acme.json");
    let verified = verify(&elsewhere, &place).await.unwrap();
    assert_eq!(
        verified.unsigned(),
        [".gitattributes", "signatures/acme.json"]
    );
}

#[tokio::test]
async fn the_size_of_a_signature_is_bounded() {
    let mut files = model_files();
    files.push(("model.sig".into(), vec![b' '; (16 << 20) + 1]));
    let error = verify(&key("p256"), &version(&files).await)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("larger than 16 MiB"), "{error}");
}

#[tokio::test]
async fn a_lock_that_is_not_sealed_says_nothing() {
    let (_, model) = signed("p256").await;
    let mut lock = serde_json::to_value(&model).unwrap();
    let file = lock["files"][1].as_object_mut().unwrap();
    file.remove("sha256");
    file.remove("trust");
    // The digest of the tree is of the tag, now.
    lock["tree_digest"] = json!(tree_digest(&lock["files"]));
    let unsealed: ModelVersion = serde_json::from_value(lock).unwrap();
    let error = key("p256")
        .verify(&unsealed, &fixture("p256.sig"))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Untrusted);
    assert!(error.hint().unwrap().contains("seal"), "{error:?}");
}

fn tree_digest(files: &Value) -> String {
    use sha2::{Digest as _, Sha256};
    let mut hasher = Sha256::new();
    for file in files.as_array().unwrap() {
        let text = |key: &str| file[key].as_str().unwrap_or_default().to_owned();
        let identity = if text("sha256").is_empty() {
            format!("etag:{} version:{}", text("etag"), text("version_id"))
        } else {
            text("sha256")
        };
        hasher.update(format!("{} {} {identity}\n", text("path"), file["size"]));
    }
    format!("sha256:{}", hex::encode(hasher.finalize()))
}

/// The payload and the signature of a bundle, if it has them.
fn content(bundle: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let parsed: Value = serde_json::from_slice(bundle).ok()?;
    let envelope = &parsed["dsseEnvelope"];
    let decoded = |value: &Value| STANDARD.decode(value.as_str()?).ok();
    Some((
        decoded(&envelope["payload"])?,
        decoded(&envelope["signatures"][0]["sig"])?,
    ))
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Runtime::new().unwrap().block_on(future)
}

#[test]
fn no_change_of_a_bundle_verifies() {
    let (_, model) = block_on(version(&model_files()));
    let places = [("p256", key("p256")), ("certificate", roots())];
    let bundles: Vec<_> = places
        .map(|(name, verifier)| {
            let bundle = fixture(&format!("{name}.sig"));
            assert!(verifier.verify(&model, &bundle).is_ok());
            (bundle, verifier)
        })
        .into();
    let config = ProptestConfig::with_cases(1_500);
    proptest!(config, |(which in 0..bundles.len(), at in any::<prop::sample::Index>(),
                        with in any::<u8>(), how in 0..4)| {
        let (bundle, verifier) = &bundles[which];
        let mut changed = bundle.clone();
        let at = at.index(changed.len());
        match how {
            0 => changed[at] = with,
            1 => changed[at] ^= 1 << (with % 8),
            2 => changed.truncate(at),
            _ => changed.insert(at, with),
        }
        if verifier.verify(&model, &changed).is_ok() {
            prop_assert_eq!(content(&changed), content(bundle), "{}", String::from_utf8_lossy(&changed));
        }
    });
}

#[test]
fn parts_of_other_bundles_do_not_verify() {
    let (_, model) = block_on(version(&model_files()));
    let good: Value = serde_json::from_slice(&fixture("p256.sig")).unwrap();
    let other: Value = serde_json::from_slice(&fixture("other-model.sig")).unwrap();
    let verify = |bundle: &Value| key("p256").verify(&model, bundle.to_string().as_bytes());
    assert!(verify(&good).is_ok());
    for pointer in ["/dsseEnvelope/payload", "/dsseEnvelope/signatures"] {
        let mut mixed = good.clone();
        *mixed.pointer_mut(pointer).unwrap() = other.pointer(pointer).unwrap().clone();
        let error = verify(&mixed).unwrap_err().to_string();
        assert!(error.contains("the signature is not one by key"), "{error}");
    }
    let mut hintless = good.clone();
    hintless["verificationMaterial"]["publicKey"] = json!({});
    assert!(verify(&hintless).is_ok(), "the hint is a hint");
    let mut foreign = good.clone();
    foreign["dsseEnvelope"]["signatures"][0]["keyid"] = json!("another");
    let error = verify(&foreign).unwrap_err().to_string();
    assert!(error.contains("\"another\""), "{error}");
}
