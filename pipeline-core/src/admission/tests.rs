//! Roads up to the gate, from a store in a folder: what is refused there goes no further.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use modelship_model_store::PublishOptions;
use tempfile::TempDir;

use super::*;
use crate::{Config, Edge, Event, Pipeline, Trigger};

/// A pickle that runs a command when it is loaded.
const EVIL: &[u8] = b"cos\nsystem\n(S'true'\ntR.";

/// What model-store's own tests verify: a model, and signatures of it by the reference tool.
fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model-store/tests/fixtures/signing")
}

/// A folder with an app, a store, and a lock whose base nobody can name: a road ends there at the
/// latest, and without asking anybody.
struct Road {
    folder: TempDir,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Road {
    /// The model of the fixtures, with these files besides, is published.
    async fn with(files: &[(&str, &[u8])]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |path: &str| folder.path().join(path);
        fs::create_dir_all(at("app")).unwrap();
        fs::write(at("app/app.py"), "").unwrap();
        let base = r#"{"Image": {"repository": "no reference", "digest": "sha256:0"}}"#;
        fs::write(
            at("base.lock"),
            base.replace(":0\"", &format!(":{}\"", "0".repeat(64))),
        )
        .unwrap();
        let model = at("model");
        fs::create_dir_all(model.join("tokenizer")).unwrap();
        for name in [
            "config.json",
            "notes.txt",
            "tokenizer/vocab.txt",
            "weights.safetensors",
        ] {
            fs::copy(fixtures().join("model").join(name), model.join(name)).unwrap();
        }
        for (name, content) in files {
            fs::write(model.join(name), content).unwrap();
        }
        let road = Self {
            folder,
            events: Arc::default(),
        };
        let pipeline = road.pipeline("").await.unwrap();
        let options = PublishOptions::default();
        let published = pipeline
            .store
            .publish(&model, "1.0.0", options, &drop)
            .await;
        published.unwrap();
        road
    }

    /// A road with these lines in its `[model]` section.
    async fn pipeline(&self, lines: &str) -> Result<Pipeline> {
        let text = format!(
            r#"
            state = "state"
            [app]
            name = "digits"
            path = "app"
            [model]
            url = "file://store/digits"
            {lines}
            [base]
            image = "registry.invalid/base"
            lock = "base.lock"
            [registry]
            layout = "out/image"
            [deploy]
            manifests = "out/manifests"
            "#
        );
        let mut config = Config::parse(&text, "modelship.toml")?;
        config.anchor(self.folder.path());
        let edge = Edge::from_env(|_| None).await?;
        let events = Arc::clone(&self.events);
        let keep = move |event| events.lock().unwrap().push(event);
        let pipeline = Pipeline::from_config(&config, edge).await?;
        Ok(pipeline.with_progress(Arc::new(keep)))
    }

    /// Why a run with these lines ends, and what it told at the gate.
    async fn run(&self, lines: &str) -> (Error, String) {
        self.events.lock().unwrap().clear();
        let pipeline = self.pipeline(lines).await.unwrap();
        let error = pipeline.run(&Trigger::now()).await.unwrap_err();
        for name in ["out", "state/cache/packed"] {
            let path = self.folder.path().join(name);
            assert!(!path.exists(), "{} was made", path.display());
        }
        let events = self.events.lock().unwrap();
        let told = events.iter().filter_map(|event| match event {
            Event::Note {
                stage: Stage::Admit,
                text,
            }
            | Event::Finished {
                stage: Stage::Admit,
                outcome: text,
                ..
            } => Some(text.as_str()),
            _ => None,
        });
        (error, told.collect::<Vec<_>>().join("\n"))
    }

    /// A run with these lines is refused at the gate.
    async fn refused(&self, lines: &str) -> (String, String) {
        let (error, told) = self.run(lines).await;
        assert_eq!(error.kind(), ErrorKind::ModelRefused, "{error:?}");
        assert_eq!(error.stage(), Stage::Admit);
        assert!(error.hint().is_some(), "{error:?}");
        (error.to_string(), told)
    }

    /// A run with these lines comes past the gate, to the base that is not there.
    async fn passes(&self, lines: &str) -> String {
        let (error, told) = self.run(lines).await;
        assert_eq!(error.stage(), Stage::Base, "{error:?}");
        told
    }
}

fn key(name: &str, policy: &str) -> String {
    let path = fixtures().join(format!("{name}.pem"));
    format!("signature = {{ key = '{}'{policy} }}", path.display())
}

fn roots(name: &str) -> String {
    let path = fixtures().join(format!("{name}.pem"));
    format!(
        "signature = {{ roots = '{}', policy = \"required\" }}",
        path.display()
    )
}

const REQUIRED: &str = ", policy = \"required\"";

#[tokio::test]
async fn a_pickle_that_runs_a_command_goes_no_further() {
    let road = Road::with(&[("model.pkl", EVIL)]).await;
    let (why, told) = road.refused("").await;
    assert!(why.contains("model.pkl") && why.contains("system"), "{why}");
    assert!(!told.contains("before"), "{told}");
    // The verdict is remembered, and is of these rules only.
    let (again, told) = road.refused("").await;
    assert_eq!(why, again);
    assert!(told.contains("looked into before"), "{told}");
    let warn = "admission = { unsafe-pickle = \"warn\" }";
    let told = road.passes(warn).await;
    assert!(told.contains("warning: model.pkl"), "{told}");
    assert!(told.ends_with("unsigned, 1 warning"), "{told}");
    let told = road.passes(warn).await;
    assert!(
        told.contains("looked into before") && told.contains("warning: model.pkl"),
        "{told}"
    );
}

#[tokio::test]
async fn the_models_of_the_example_are_admitted_without_a_warning() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/flask-app/models/digits");
    for version in ["1.0.0", "1.1.0"] {
        let folder = models.join(version);
        let read = |name: &str| fs::read(folder.join(name)).unwrap();
        let (model, weights) = (read("model.json"), read("weights.npz"));
        let road = Road::with(&[("model.json", &model), ("weights.npz", &weights)]).await;
        let told = road.passes("").await;
        assert_eq!(told, "unsigned, no warning");
    }
}

#[tokio::test]
async fn a_signature_that_is_required_has_to_be_there() {
    let road = Road::with(&[]).await;
    let (why, _) = road.refused(&key("p256", REQUIRED)).await;
    assert!(why.contains("there is no \"model.sig\""), "{why}");
    let told = road.passes(&key("p256", "")).await;
    assert!(told.starts_with("not signed by anybody"), "{told}");
    let told = road.passes("").await;
    assert!(!told.contains("not signed"), "{told}");
}

#[tokio::test]
async fn only_the_signature_of_who_is_trusted_opens_the_gate() {
    let signature = fs::read(fixtures().join("p256.sig")).unwrap();
    let road = Road::with(&[("model.sig", &signature)]).await;
    let told = road.passes(&key("p256", REQUIRED)).await;
    assert!(told.starts_with("signed by key "), "{told}");
    assert!(told.contains("not signed: \"model.sig\""), "{told}");
    for policy in [REQUIRED, ", policy = \"if-present\"", ""] {
        let (why, _) = road.refused(&key("other", policy)).await;
        assert!(why.contains("the bundle is for key"), "{why}");
    }
    let (why, _) = road.refused(&roots("roots")).await;
    assert!(why.contains("signed by a bare key"), "{why}");
    road.passes(&key("other", ", policy = \"off\"")).await;
    // Elsewhere, and with more than was signed.
    let (why, _) = road
        .refused(&key("p256", ", policy = \"required\", file = \"x.sig\""))
        .await;
    assert!(why.contains("there is no \"x.sig\""), "{why}");
    let road = Road::with(&[("model.sig", &signature), ("more.txt", b"more")]).await;
    let (why, _) = road.refused(&key("p256", "")).await;
    assert!(why.contains("nobody signed: \"more.txt\""), "{why}");
}

#[tokio::test]
async fn certificates_open_the_gate_too() {
    let signature = fs::read(fixtures().join("certificate.sig")).unwrap();
    let road = Road::with(&[("model.sig", &signature)]).await;
    let told = road.passes(&roots("roots")).await;
    assert!(
        told.starts_with("signed by CN=certificate,O=Acme"),
        "{told}"
    );
    let (why, _) = road.refused(&roots("stranger")).await;
    assert!(why.contains("leads to no root"), "{why}");
    let expired = fs::read(fixtures().join("expired.sig")).unwrap();
    let road = Road::with(&[("model.sig", &expired)]).await;
    let (why, _) = road.refused(&roots("roots")).await;
    assert!(why.contains("not valid on"), "{why}");
}

#[tokio::test]
async fn a_configuration_that_cannot_hold_is_refused_by_its_key() {
    let road = Road::with(&[]).await;
    for (lines, object, text) in [
        (
            "signature = { policy = \"required\" }",
            "model.signature.policy",
            "name the signer",
        ),
        (
            "signature = { policy = \"if-present\" }",
            "model.signature.policy",
            "name the signer",
        ),
        (
            "signature = { key = \"a\", roots = \"b\" }",
            "model.signature.key",
            "either",
        ),
        (
            "signature = { key = \"a\", file = \"\" }",
            "model.signature.file",
            "empty",
        ),
        (
            "signature = { policy = \"always\" }",
            "modelship.toml:8",
            "always",
        ),
        ("signature = { kye = \"a\" }", "modelship.toml:8", "kye"),
        (
            "admission = { unsafe-pickel = \"warn\" }",
            "modelship.toml:8",
            "unsafe-pickel",
        ),
        (
            "admission = { unsafe-pickle = \"maybe\" }",
            "modelship.toml:8",
            "maybe",
        ),
        (
            "signature = { key = \"missing.pem\" }",
            "missing.pem",
            "No such file",
        ),
        (
            "signature = { key = \"base.lock\" }",
            "base.lock",
            "PUBLIC KEY",
        ),
        (
            "signature = { roots = \"base.lock\" }",
            "base.lock",
            "CERTIFICATE",
        ),
    ] {
        let error = road.pipeline(lines).await.unwrap_err();
        assert_eq!(error.stage(), Stage::Configure, "{error:?}");
        assert!(error.object().contains(object), "{lines}: {error}");
        assert!(error.to_string().contains(text), "{lines}: {error}");
    }
}

#[tokio::test]
async fn other_rules_make_another_release() {
    let road = Road::with(&[]).await;
    let mut keys = std::collections::BTreeSet::new();
    let all = [
        String::new(),
        "admission = { unknown-format = \"deny\" }".to_owned(),
        key("p256", ""),
        key("p256", REQUIRED),
        key("other", REQUIRED),
        roots("roots"),
        key("p256", ", policy = \"required\", accept_ignored = true"),
        key("p256", ", policy = \"required\", file = \"x\""),
    ];
    for lines in &all {
        let pipeline = road.pipeline(lines).await.unwrap();
        keys.insert(pipeline.observe().await.unwrap().key);
    }
    assert_eq!(keys.len(), all.len());
    // Who is named, but not asked, changes nothing.
    let off = key("p256", ", policy = \"off\"");
    let pipeline = road.pipeline(&off).await.unwrap();
    assert!(!keys.insert(pipeline.observe().await.unwrap().key));
}

/// A service runs roads on a runtime of many threads.
#[tokio::test]
async fn a_run_may_change_threads() {
    let road = Road::with(&[]).await;
    let pipeline = road.pipeline("").await.unwrap();
    let run = tokio::spawn(async move { pipeline.run(&Trigger::now()).await.map(drop) });
    assert_eq!(run.await.unwrap().unwrap_err().stage(), Stage::Base);
}

#[test]
fn a_record_survives_and_says_what_was_seen() {
    let signer = serde_json::json!({"key": {"fingerprint": "ab"}});
    let text = serde_json::json!({"signer": signer, "unsigned": ["model.sig"], "warnings": ["w"]});
    let admission: Admission = serde_json::from_value(text.clone()).unwrap();
    assert_eq!(admission.to_string(), "signed by key ab, 1 warning");
    assert_eq!(serde_json::to_value(&admission).unwrap(), text);
    assert_eq!(serde_json::to_string(&Admission::default()).unwrap(), "{}");
}
