//! Admission over files that real libraries wrote (`tests/data/admission/make.py`).

use std::path::PathBuf;

use modelship_model_store::admission::{Action, AdmissionPolicy, Check, check, check_bytes};

fn models() -> Vec<(String, PathBuf)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/admission");
    let mut models: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            (entry.file_name().into_string().unwrap(), entry.path())
        })
        .filter(|(name, _)| !name.starts_with("make") && name != "__pycache__")
        .collect();
    models.sort();
    assert!(models.len() > 25, "{models:?}");
    models
}

#[tokio::test]
async fn what_real_libraries_write_is_admitted() {
    let (closed, open): (Vec<_>, Vec<_>) = models()
        .into_iter()
        .partition(|(name, _)| name.contains(".bz2.") || name.contains(".lzma."));
    let policy = AdmissionPolicy::default();
    let report = check(&open, &policy).await.unwrap();
    assert!(report.findings.is_empty(), "{:#?}", report.findings);
    let report = check(&closed, &policy).await.unwrap();
    let checks: Vec<_> = report.denied().map(|finding| finding.check).collect();
    assert_eq!(checks, [Check::UnreadableArchive; 2]);
    let lenient = policy.with_action(Check::UnreadableArchive, Action::Warn);
    let report = check(&closed, &lenient).await.unwrap();
    assert!(report.admitted() && report.warnings().count() == 2);
}

/// A real model in which one name is changed imports something that no list has.
#[test]
fn a_changed_name_in_a_real_model_is_denied() {
    let policy = AdmissionPolicy::default();
    let mut changed = 0;
    for (name, path) in models() {
        let packed = [".zlib.", ".gzip.", ".xz.", ".bz2.", ".lzma.", ".npz"];
        if packed.iter().any(|kind| name.contains(kind)) {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        for word in ["numpy", "sklearn", "joblib", "pandas"] {
            let Some(at) = bytes.windows(word.len()).position(|w| w == word.as_bytes()) else {
                continue;
            };
            let mut bytes = bytes.clone();
            bytes[at] = b'Z';
            let report = check_bytes(&name, &bytes, &policy);
            assert!(!report.admitted(), "{name} with {word} changed");
            changed += 1;
        }
    }
    assert!(changed > 30, "{changed}");
}

/// A real model that is cut off anywhere is not a model.
#[test]
fn a_cut_model_is_denied() {
    let policy = AdmissionPolicy::default();
    for (name, path) in models() {
        let bytes = std::fs::read(&path).unwrap();
        // The first bytes of a stream of zlib unpack to nothing, which nobody can load.
        for end in (16..bytes.len()).step_by(1 + bytes.len() / 60) {
            let report = check_bytes(&name, &bytes[..end], &policy);
            assert!(!report.admitted(), "{name} cut at {end}");
        }
    }
}
