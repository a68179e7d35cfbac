//! Signatures made here, in the format of the reference tool, for what its fixtures do not show:
//! other keys, certificates that are wrong in one way each, and models of any shape.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519,
    SignatureAlgorithm, SigningKey as _,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::statement::tests::statement;
use super::*;
use crate::model::{ModelFile, tree_digest};

/// A sealed lock of these files.
fn model(files: &[(&str, &str)]) -> ModelVersion {
    let mut files: Vec<_> = files
        .iter()
        .map(|(path, content)| {
            let digest = hex::encode(Sha256::digest(content));
            ModelFile::new((*path).into(), content.len() as u64, Some(digest))
        })
        .collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let lock = json!({
        "url": "s3://bucket/digits",
        "selector": "1.0.0",
        "policy": "version: named exactly",
        "version": "1.0.0",
        "tree_digest": tree_digest(&files),
        "total_size": files.iter().map(|file| file.size).sum::<u64>(),
        "folder": "versions/1.0.0/files",
        "files": files,
    });
    serde_json::from_value(lock).unwrap()
}

/// A bundle around `payload`, signed by `key`.
fn bundle(payload: &str, key: &KeyPair, material: &Value) -> Vec<u8> {
    let signed = format!(
        "DSSEv1 28 application/vnd.in-toto+json {} {payload}",
        payload.len()
    );
    let signature = key.sign(signed.as_bytes()).unwrap();
    let bundle = json!({
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": material,
        "dsseEnvelope": {
            "payload": STANDARD.encode(payload),
            "payloadType": "application/vnd.in-toto+json",
            "signatures": [{"sig": STANDARD.encode(signature), "keyid": ""}],
        },
    });
    bundle.to_string().into_bytes()
}

fn by_key(payload: &str, key: &KeyPair) -> Vec<u8> {
    bundle(payload, key, &json!({"publicKey": {}, "tlogEntries": []}))
}

fn verifier(key: &KeyPair) -> Verifier {
    Verifier::from_public_key_pem(key.public_key_pem().as_bytes()).unwrap()
}

const FILES: [(&str, &str); 2] = [("a", "1"), ("b/c", "2")];

#[test]
fn every_kind_of_key_signs() {
    let payload = statement(&FILES, &["model.sig"]).to_string();
    for algorithm in [
        &PKCS_ECDSA_P256_SHA256,
        &PKCS_ECDSA_P384_SHA384,
        &PKCS_ED25519,
    ] {
        let (key, other) = (pair(algorithm), pair(algorithm));
        let made = by_key(&payload, &key);
        let verified = verifier(&key).verify(&model(&FILES), &made).unwrap();
        assert!(verified.unsigned().is_empty());
        let error = verifier(&other).verify(&model(&FILES), &made).unwrap_err();
        assert!(error.to_string().contains("is not one by key"), "{error}");
    }
}

#[test]
fn a_signed_statement_still_has_to_make_sense() {
    let key = pair(&PKCS_ED25519);
    let mut old = statement(&FILES, &[]);
    old["predicateType"] = json!("https://model_signing/Digests/v0.1");
    let good = statement(&FILES, &[]).to_string();
    for (payload, why) in [
        (old.to_string(), "Digests/v0.1"),
        ("[]".to_owned(), "cannot be read"),
        (good.clone() + "{}", "trailing"),
        (statement(&[], &[]).to_string(), "no file"),
        (
            statement(&[("a", "1"), ("a", "1")], &[]).to_string(),
            "twice",
        ),
        (
            statement(&[("a", "1")], &["b/c"]).to_string(),
            "nobody signed: \"b/c\"",
        ),
    ] {
        let error = verifier(&key)
            .verify(&model(&FILES), &by_key(&payload, &key))
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Untrusted);
        assert!(error.to_string().contains(why), "{error}");
    }
    assert!(
        verifier(&key)
            .verify(&model(&FILES), &by_key(&good, &key))
            .is_ok()
    );
}

#[test]
fn long_lists_of_files_are_cut_short_and_quoted() {
    let names: Vec<String> = (0..40).map(|at| format!("f{at:02} \u{202e}x")).collect();
    let mut files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "x")).collect();
    let key = pair(&PKCS_ED25519);
    let made = by_key(&statement(&FILES, &[]).to_string(), &key);
    files.extend(FILES);
    let error = verifier(&key)
        .verify(&model(&files), &made)
        .unwrap_err()
        .to_string();
    assert!(error.contains("and 32 more"), "{error}");
    assert!(
        error.contains("f00 \\u{202e}x") && !error.contains('\u{202e}'),
        "{error}"
    );
}

fn pair(algorithm: &'static SignatureAlgorithm) -> KeyPair {
    KeyPair::generate_for(algorithm).unwrap()
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(2025, 1, 1);
    params.not_after = rcgen::date_time_ymd(2035, 1, 1);
    params
}

fn authority(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn leaf() -> CertificateParams {
    let mut params = params("leaf");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
    params
}

type Change = fn(&mut Chain);

/// Root, one between, leaf; each as its parameters say, with keys of one kind.
struct Chain {
    root: CertificateParams,
    mid: CertificateParams,
    leaf: CertificateParams,
    kind: &'static SignatureAlgorithm,
}

impl Default for Chain {
    fn default() -> Self {
        Self {
            root: authority("root"),
            mid: authority("mid"),
            leaf: leaf(),
            kind: &PKCS_ECDSA_P256_SHA256,
        }
    }
}

impl Chain {
    /// What the roots, valid in 2026, say of a model that the leaf signed.
    fn verify(self) -> Result<Verified> {
        let root = CertifiedIssuer::self_signed(self.root, pair(self.kind)).unwrap();
        let mid = CertifiedIssuer::signed_by(self.mid, pair(self.kind), &root).unwrap();
        let key = pair(self.kind);
        let leaf = self.leaf.signed_by(&key, &mid).unwrap();
        let certificates =
            [leaf.der(), mid.as_ref().der()].map(|der| json!({"rawBytes": STANDARD.encode(der)}));
        let material = json!({"x509CertificateChain": {"certificates": certificates}});
        let payload = statement(&FILES, &["model.sig"]).to_string();
        let made = bundle(&payload, &key, &material);
        Verifier::from_certificates_pem(root.pem().as_bytes(), in_2026())?
            .verify(&model(&FILES), &made)
    }

    fn refused(self) -> String {
        let error = self.verify().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Untrusted);
        error.to_string()
    }
}

fn in_2026() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_780_000_000)
}

#[test]
fn every_kind_of_certificate_signs() {
    for kind in [
        &PKCS_ECDSA_P256_SHA256,
        &PKCS_ECDSA_P384_SHA384,
        &PKCS_ED25519,
    ] {
        let chain = Chain {
            kind,
            ..Chain::default()
        };
        let verified = chain.verify().unwrap();
        let text = verified.signer().to_string();
        assert_eq!(text, "CN=leaf (certificate issued by CN=mid)");
        let json = serde_json::to_string(verified.signer()).unwrap();
        assert_eq!(
            &serde_json::from_str::<Signer>(&json).unwrap(),
            verified.signer()
        );
    }
}

#[test]
fn certificates_that_are_wrong_in_one_way_are_refused() {
    let changes: [(Change, &str); 8] = [
        (
            |chain| chain.mid.key_usages = vec![KeyUsagePurpose::CrlSign],
            "may not issue any",
        ),
        (
            |chain| chain.mid.is_ca = IsCa::ExplicitNoCa,
            "may not issue any",
        ),
        (
            |chain| chain.leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            "of an authority",
        ),
        (
            |chain| chain.mid.not_after = rcgen::date_time_ymd(2026, 1, 1),
            "not valid on 2026-05-28",
        ),
        (
            |chain| chain.leaf.not_after = rcgen::date_time_ymd(2026, 1, 1),
            "valid from 2025-01-01 to 2026-01-01",
        ),
        (
            |chain| chain.leaf.not_before = rcgen::date_time_ymd(2030, 1, 1),
            "valid from 2030-01-01 to 2035-01-01",
        ),
        (
            |chain| chain.mid.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth],
            "not for code signing",
        ),
        (
            |chain| chain.leaf.key_usages = vec![KeyUsagePurpose::KeyAgreement],
            "not for signing",
        ),
    ];
    for (change, why) in changes {
        let mut chain = Chain::default();
        change(&mut chain);
        let found = chain.refused();
        assert!(found.contains(why), "{why}: {found}");
    }
}

#[test]
fn a_chain_is_of_the_signer_and_not_of_anybody_else() {
    let root = CertifiedIssuer::self_signed(authority("root"), pair(&PKCS_ED25519)).unwrap();
    let (key, other) = (pair(&PKCS_ED25519), pair(&PKCS_ED25519));
    let mine = leaf().signed_by(&key, &root).unwrap();
    let payload = statement(&FILES, &[]).to_string();
    let chain = |ders: &[&[u8]]| {
        let certificates: Vec<Value> = ders
            .iter()
            .map(|der| json!({"rawBytes": STANDARD.encode(der)}))
            .collect();
        json!({"x509CertificateChain": {"certificates": certificates}})
    };
    let roots = Verifier::from_certificates_pem(root.pem().as_bytes(), in_2026()).unwrap();
    let verify = |made: &[u8]| roots.verify(&model(&FILES), made);
    assert!(verify(&bundle(&payload, &key, &chain(&[mine.der()]))).is_ok());
    let error = verify(&bundle(&payload, &other, &chain(&[mine.der()]))).unwrap_err();
    assert!(
        error.to_string().contains("is not one by CN=leaf"),
        "{error}"
    );
    // The signer's own certificate comes first, and is not looked for.
    let stray = params("stray").self_signed(&other).unwrap();
    assert!(verify(&bundle(&payload, &key, &chain(&[stray.der(), mine.der()]))).is_err());
    let many = vec![mine.der().as_ref(); 9];
    for ders in [&[][..], &many, &[b"no certificate"]] {
        assert!(verify(&bundle(&payload, &key, &chain(ders))).is_err());
    }
}

fn view(files: &[(String, String)]) -> Vec<(&str, &str)> {
    files
        .iter()
        .map(|(path, content)| (path.as_str(), content.as_str()))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever the tree, its own signature holds, and no other tree's does.
    #[test]
    fn a_signature_is_of_one_tree(
        tree in prop::collection::btree_map("[a-c]{1,3}", "[01]", 1..5),
        other in prop::collection::btree_map("[a-c]{1,3}", "[01]", 1..5),
        gits in prop::collection::btree_set("[a-c]", 0..3),
    ) {
        let key = pair(&PKCS_ED25519);
        let pairs = |tree: &BTreeMap<String, String>| -> Vec<(String, String)> {
            tree.iter().map(|(path, content)| (format!("{path}.bin"), content.clone())).collect()
        };
        let borrowed = |tree: &[(String, String)]| -> Vec<(String, String)> {
            let mut files = tree.to_vec();
            files.extend(gits.iter().map(|name| (format!(".git/{name}"), "x".to_owned())));
            files
        };
        let signed = pairs(&tree);
        let made = by_key(&statement(&view(&signed), &[".git", "model.sig"]).to_string(), &key);
        let verifier = verifier(&key);
        let here = verifier.verify(&model(&view(&borrowed(&signed))), &made);
        prop_assert_eq!(here.unwrap().unsigned().len(), gits.len());
        let there = verifier.verify(&model(&view(&borrowed(&pairs(&other)))), &made);
        prop_assert_eq!(there.is_ok(), tree == other);
    }
}
