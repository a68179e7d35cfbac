//! What the fuzz targets call, and what has to hold for any bytes. A finding is a panic. Tests run
//! the kept corpora through them; no other build has them.

use crate::admission::{AdmissionPolicy, check_bytes};
use crate::manifest::{Manifest, Pointer};
use crate::model::ModelVersion;
use crate::selector::{ModelRef, Selector};
use crate::version_order::Key;

/// A manifest that is accepted is written as it was read, and its files can be told apart.
pub fn manifest(data: &[u8]) {
    let _ = serde_json::from_slice::<ModelVersion>(data);
    let Ok(manifest) = Manifest::parse(data, "1.0.0") else {
        return;
    };
    let again = manifest.to_bytes().expect("what was parsed can be written");
    assert_eq!(Manifest::parse(&again, "1.0.0").as_ref(), Ok(&manifest));
    for file in &manifest.files {
        let path = std::path::Path::new("/root").join(&file.path);
        assert!(path.starts_with("/root"), "{}", path.display());
        assert!(!file.path.split('/').any(|part| part == ".."));
    }
}

/// A pointer that is accepted is written as it was read.
pub fn pointer(data: &[u8]) {
    let Ok(pointer) = Pointer::parse(data) else {
        return;
    };
    let again = pointer.to_bytes().expect("what was parsed can be written");
    assert_eq!(Pointer::parse(&again).as_ref(), Ok(&pointer));
}

/// Versions are in a total order, and references are shown as they are read.
pub fn version(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut lines = text.splitn(3, '\n');
    let texts = [(); 3].map(|()| lines.next().unwrap_or_default());
    let [low, middle, high] = texts.map(Key::new);
    assert_eq!(low.cmp(&middle), middle.cmp(&low).reverse());
    assert_eq!(low.cmp(&middle).is_eq(), texts[0] == texts[1]);
    assert!(!(low <= middle && middle <= high) || low <= high);
    let a = texts[0];
    if let Ok(selector) = a.parse::<Selector>() {
        assert_eq!(
            selector.to_string().parse::<Selector>().ok(),
            Some(selector)
        );
    }
    for text in [
        a.to_owned(),
        format!("s3://bucket/{a}"),
        format!("file:///{a}"),
    ] {
        if let Ok(reference) = text.parse::<ModelRef>() {
            assert_eq!(
                reference.to_string().parse::<ModelRef>().ok(),
                Some(reference)
            );
        }
    }
}

/// A pickle is looked at the same way twice, and one that begins with a call of the shell is never
/// let in, whatever follows.
pub fn pickle(data: &[u8]) {
    let policy = AdmissionPolicy::default();
    let report = check_bytes("model.pkl", data, &policy);
    assert_eq!(report, check_bytes("model.pkl", data, &policy));
    let attack = [b"cos\nsystem\n(S'id'\ntR0", data].concat();
    assert!(!check_bytes("model.pkl", &attack, &policy).admitted());
}

/// Files of every format are looked at the same way twice. The first byte decides on the name.
pub fn format(data: &[u8]) {
    const NAMES: [&str; 8] = [
        "m.safetensors",
        "m.onnx",
        "m.gguf",
        "m.pt",
        "m.npy",
        "m.npz",
        "m.keras",
        "m.joblib",
    ];
    let Some((first, rest)) = data.split_first() else {
        return;
    };
    let name = NAMES[usize::from(*first) % NAMES.len()];
    let policy = AdmissionPolicy::default();
    let report = check_bytes(name, rest, &policy);
    assert_eq!(report, check_bytes(name, rest, &policy));
}

#[cfg(test)]
mod tests {
    use super::*;

    type Target = fn(&[u8]);

    /// Every input that was worth keeping, so that a finding stays found.
    #[test]
    fn the_corpora_hold() {
        let targets: [(&str, Target); 5] = [
            ("manifest", manifest),
            ("pointer", pointer),
            ("version", version),
            ("pickle", pickle),
            ("format", format),
        ];
        for (name, target) in targets {
            let folder = format!("{}/fuzz/corpus/{name}", env!("CARGO_MANIFEST_DIR"));
            let mut inputs = 0;
            for entry in std::fs::read_dir(&folder).unwrap() {
                target(&std::fs::read(entry.unwrap().path()).unwrap());
                inputs += 1;
            }
            assert!(inputs > 0, "{folder} is empty");
        }
    }
}
