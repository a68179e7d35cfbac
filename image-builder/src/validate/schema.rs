//! The rules of image-spec for the JSON of indexes, manifests and configs.
//!
//! Fields that the specification does not name are tolerated, as it asks of readers.

use oci_spec::image::Digest;
use serde_json::{Map, Value};

use super::unique;
use crate::manifest::{
    DOCKER_CONFIG, DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, is_index,
};
use crate::time::is_rfc3339;

/// What is wrong with a document, in words.
type Problems = Vec<String>;

/// Checks an index (image-index.md).
pub(super) fn index(bytes: &[u8]) -> Problems {
    check(bytes, |json, found| {
        version(json, found);
        let stated = json.get("mediaType");
        if stated.is_some_and(|stated| !stated.as_str().is_some_and(is_index)) {
            found.push(format!("`mediaType` is not {OCI_INDEX}"));
        }
        descriptors(json, "manifests", found);
        common(json, found);
    })
}

/// Checks a manifest (manifest.md).
pub(super) fn manifest(bytes: &[u8]) -> Problems {
    check(bytes, |json, found| {
        version(json, found);
        let stated = json.get("mediaType").map(Value::as_str);
        if !matches!(stated, None | Some(Some(OCI_MANIFEST | DOCKER_MANIFEST))) {
            found.push(format!("`mediaType` is not {OCI_MANIFEST}"));
        }
        match json.get("config") {
            Some(config) => descriptor(config, "config", found),
            None => found.push("`config` is missing".to_owned()),
        }
        descriptors(json, "layers", found);
        common(json, found);
        agreement(json, found);
    })
}

/// Checks a config (config.md).
pub(super) fn config(bytes: &[u8]) -> Problems {
    check(bytes, |json, found| {
        for name in ["architecture", "os"] {
            if !json.get(name).and_then(Value::as_str).is_some_and(is_name) {
                found.push(format!("`{name}` is not the name of one"));
            }
        }
        for name in ["variant", "os.version", "author"] {
            text(json.get(name), name, found);
        }
        time(json.get("created"), "created", found);
        let rootfs = json.get("rootfs").and_then(Value::as_object);
        if rootfs.and_then(|rootfs| rootfs.get("type")?.as_str()) != Some("layers") {
            found.push("`rootfs.type` is not `layers`".to_owned());
        }
        let diff_ids = rootfs.and_then(|rootfs| rootfs.get("diff_ids")?.as_array());
        match diff_ids {
            Some(ids) if ids.iter().all(is_digest) => {}
            _ => found.push("`rootfs.diff_ids` is not a list of digests".to_owned()),
        }
        list(json.get("history"), "history", found, history);
        match json.get("config") {
            None | Some(Value::Null) => {}
            Some(Value::Object(container)) => settings(container, found),
            Some(_) => found.push("`config` is not an object".to_owned()),
        }
    })
}

fn check(bytes: &[u8], rules: impl Fn(&Map<String, Value>, &mut Problems)) -> Problems {
    let mut found = Problems::new();
    match unique::parse(bytes) {
        Ok(Value::Object(json)) => rules(&json, &mut found),
        Ok(_) => found.push("it is not a JSON object".to_owned()),
        Err(error) => found.push(format!("it is not JSON: {error}")),
    }
    found
}

fn version(json: &Map<String, Value>, found: &mut Problems) {
    if json.get("schemaVersion").and_then(Value::as_u64) != Some(2) {
        found.push("`schemaVersion` is not 2".to_owned());
    }
}

/// The fields that index and manifest share.
fn common(json: &Map<String, Value>, found: &mut Problems) {
    if let Some(subject) = json.get("subject") {
        descriptor(subject, "subject", found);
    }
    media_type(json.get("artifactType"), "artifactType", found);
    strings(json.get("annotations"), "annotations", found);
}

/// A manifest is Docker's throughout or OCI's throughout: readers refuse mixtures.
fn agreement(json: &Map<String, Value>, found: &mut Problems) {
    let type_of = |json: &Value| Some(json.get("mediaType")?.as_str()?.to_owned());
    let Some(config) = json.get("config").and_then(type_of) else {
        return;
    };
    let stated = json.get("mediaType").and_then(Value::as_str);
    let is_docker = stated == Some(DOCKER_MANIFEST);
    let is_foreign = if is_docker {
        config == OCI_CONFIG
    } else {
        config == DOCKER_CONFIG
    };
    let layers = json.get("layers").and_then(Value::as_array);
    let layers = layers.map(Vec::as_slice).unwrap_or_default();
    let is_mixed = layers
        .iter()
        .filter_map(type_of)
        .any(|layer| layer.contains("vnd.docker.") != is_docker && layer.contains(".tar"));
    if is_foreign || is_mixed {
        found.push("Docker's and OCI's media types are mixed".to_owned());
    }
}

fn descriptors(json: &Map<String, Value>, name: &str, found: &mut Problems) {
    match json.get(name).and_then(Value::as_array) {
        Some(list) => {
            for (at, entry) in list.iter().enumerate() {
                descriptor(entry, &format!("{name}[{at}]"), found);
            }
        }
        None => found.push(format!("`{name}` is not a list")),
    }
}

/// Checks a descriptor (descriptor.md).
fn descriptor(json: &Value, at: &str, found: &mut Problems) {
    let Some(json) = json.as_object() else {
        found.push(format!("`{at}` is not a descriptor"));
        return;
    };
    if json.get("mediaType").is_none() {
        found.push(format!("`{at}.mediaType` is missing"));
    }
    for name in ["mediaType", "artifactType"] {
        media_type(json.get(name), &format!("{at}.{name}"), found);
    }
    if !json.get("digest").is_some_and(is_digest) {
        found.push(format!("`{at}.digest` is not a digest"));
    }
    let size = json.get("size").and_then(Value::as_i64);
    if size.is_none_or(|size| size < 0) {
        found.push(format!("`{at}.size` is not a number of bytes"));
    }
    list(json.get("urls"), &format!("{at}.urls"), found, text);
    strings(json.get("annotations"), &format!("{at}.annotations"), found);
    text(json.get("data"), &format!("{at}.data"), found);
    match json.get("platform") {
        None => {}
        Some(Value::Object(platform)) => self::platform(platform, at, found),
        Some(_) => found.push(format!("`{at}.platform` is not an object")),
    }
}

fn platform(json: &Map<String, Value>, at: &str, found: &mut Problems) {
    for name in ["architecture", "os"] {
        if !json.get(name).and_then(Value::as_str).is_some_and(is_name) {
            found.push(format!("`{at}.platform.{name}` is not the name of one"));
        }
    }
    for name in ["variant", "os.version"] {
        text(json.get(name), &format!("{at}.platform.{name}"), found);
    }
    let features = json.get("os.features");
    list(features, &format!("{at}.platform.os.features"), found, text);
}

fn history(entry: Option<&Value>, at: &str, found: &mut Problems) {
    let Some(entry) = entry.and_then(Value::as_object) else {
        found.push(format!("`{at}` is not an object"));
        return;
    };
    time(entry.get("created"), &format!("{at}.created"), found);
    for name in ["created_by", "author", "comment"] {
        text(entry.get(name), &format!("{at}.{name}"), found);
    }
    if entry
        .get("empty_layer")
        .is_some_and(|empty| !empty.is_boolean())
    {
        found.push(format!("`{at}.empty_layer` is not true or false"));
    }
}

/// Checks what a container runs with. Go's programs write `null` for an empty list.
fn settings(json: &Map<String, Value>, found: &mut Problems) {
    for name in ["User", "WorkingDir", "StopSignal"] {
        text(json.get(name), name, found);
    }
    for name in ["Env", "Entrypoint", "Cmd", "OnBuild", "Shell"] {
        list(json.get(name), name, found, text);
    }
    let env = json.get("Env").and_then(Value::as_array);
    let is_unset = |entry: &&Value| entry.as_str().is_some_and(|entry| !entry.contains('='));
    if env.is_some_and(|env| env.iter().find(is_unset).is_some()) {
        found.push("an entry of `Env` is not NAME=VALUE".to_owned());
    }
    strings(json.get("Labels"), "Labels", found);
    for name in ["ExposedPorts", "Volumes"] {
        let value = json.get(name).unwrap_or(&Value::Null);
        if !value.is_null() && !value.is_object() {
            found.push(format!("`{name}` is not an object"));
        }
    }
    let ports = json.get("ExposedPorts").and_then(Value::as_object);
    if ports.is_some_and(|ports| !ports.keys().all(|port| is_port(port))) {
        found.push("a key of `ExposedPorts` is not a port".to_owned());
    }
}

/// `PORT`, `PORT/tcp` or `PORT/udp`.
fn is_port(text: &str) -> bool {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    port.parse::<u16>().is_ok() && ["tcp", "udp", "sctp"].contains(&protocol)
}

fn list(
    value: Option<&Value>,
    at: &str,
    found: &mut Problems,
    each: impl Fn(Option<&Value>, &str, &mut Problems),
) {
    match value {
        None | Some(Value::Null) => {}
        Some(Value::Array(entries)) => {
            for (place, entry) in entries.iter().enumerate() {
                each(Some(entry), &format!("{at}[{place}]"), found);
            }
        }
        Some(_) => found.push(format!("`{at}` is not a list")),
    }
}

fn text(value: Option<&Value>, at: &str, found: &mut Problems) {
    if value.is_some_and(|value| !value.is_string()) {
        found.push(format!("`{at}` is not text"));
    }
}

fn time(value: Option<&Value>, at: &str, found: &mut Problems) {
    if value.is_some_and(|value| !value.as_str().is_some_and(is_rfc3339)) {
        found.push(format!("`{at}` is not a time in RFC 3339"));
    }
}

/// A map of text to text whose keys are not empty (annotations.md, "Rules").
fn strings(value: Option<&Value>, at: &str, found: &mut Problems) {
    let is_fine = match value {
        None | Some(Value::Null) => true,
        Some(Value::Object(map)) => map
            .iter()
            .all(|(key, value)| !key.is_empty() && value.is_string()),
        Some(_) => false,
    };
    if !is_fine {
        found.push(format!("`{at}` is not a map of text to text"));
    }
}

/// A media type by RFC 6838, section 4.2: `type/subtype`.
fn media_type(value: Option<&Value>, at: &str, found: &mut Problems) {
    let is_part = |part: &str| {
        let is_fine = |c: char| c.is_ascii_alphanumeric() || "!#$&-^_.+".contains(c);
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.len() <= 127
            && part.chars().all(is_fine)
    };
    let is_type = |text: &str| {
        let (kind, rest) = text.split_once('/').unwrap_or_default();
        is_part(kind) && is_part(rest.split(';').next().unwrap_or_default())
    };
    if value.is_some_and(|value| !value.as_str().is_some_and(is_type)) {
        found.push(format!("`{at}` is not a media type"));
    }
}

fn is_name(text: &str) -> bool {
    let is_fine = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    !text.is_empty() && text.bytes().all(is_fine)
}

/// A digest (descriptor.md, "Digests"), with the length and the case of a known algorithm.
fn is_digest(value: &Value) -> bool {
    let Some(text) = value.as_str() else {
        return false;
    };
    let is_hex = |len: usize, hex: &str| {
        let is_lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        hex.len() == len && hex.bytes().all(is_lower)
    };
    match text.split_once(':') {
        Some(("sha256", hex)) => is_hex(64, hex),
        Some(("sha512", hex)) => is_hex(128, hex),
        _ => text.parse::<Digest>().is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn good_manifest() -> Value {
        let layer = json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": DIGEST, "size": 0,
            "annotations": { "a": "b" }, "urls": ["https://x.invalid"], "new": [1],
        });
        json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": [layer],
            "config": { "mediaType": OCI_CONFIG, "digest": DIGEST, "size": 2 },
            "annotations": {}, "new": {},
        })
    }

    fn good_config() -> Value {
        json!({
            "architecture": "arm64", "os": "linux", "variant": "v8", "created": "1970-01-01T00:00:01Z",
            "rootfs": { "type": "layers", "diff_ids": [DIGEST] },
            "history": [{ "created": "1970-01-01T00:00:01Z", "created_by": "x", "empty_layer": true }],
            "config": {
                "Env": ["A=1"], "Cmd": null, "OnBuild": null, "ExposedPorts": { "80/tcp": {}, "81": {} },
                "Labels": { "a": "b" }, "User": "", "Healthcheck": { "Test": ["NONE"] },
            },
        })
    }

    fn good_index() -> Value {
        let entry = json!({
            "mediaType": OCI_MANIFEST, "digest": DIGEST, "size": 3,
            "platform": { "os": "linux", "architecture": "arm", "variant": "v7" },
        });
        json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry] })
    }

    /// Damages the good document at each pointer, and sees that this is found.
    fn each_is_found(good: &Value, rules: fn(&[u8]) -> Problems, damages: &[(&str, Value)]) {
        assert_eq!(rules(good.to_string().as_bytes()), Problems::new());
        for (pointer, value) in damages {
            let mut bad = good.clone();
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            match bad.pointer_mut(parent).unwrap() {
                Value::Object(map) if *value == json!("REMOVED") => drop(map.remove(key)),
                Value::Object(map) => drop(map.insert(key.to_owned(), value.clone())),
                Value::Array(list) => list[key.parse::<usize>().unwrap()] = value.clone(),
                _ => unreachable!(),
            }
            assert_ne!(
                rules(bad.to_string().as_bytes()),
                Problems::new(),
                "{pointer} {value}"
            );
        }
    }

    #[test]
    fn each_rule_of_a_manifest_is_kept() {
        let docker_layer = "application/vnd.docker.image.rootfs.diff.tar.gzip";
        each_is_found(
            &good_manifest(),
            manifest,
            &[
                ("/schemaVersion", json!(1)),
                ("/schemaVersion", json!("2")),
                ("/mediaType", json!(OCI_INDEX)),
                ("/mediaType", json!(DOCKER_MANIFEST)),
                ("/config", json!("REMOVED")),
                ("/config", json!([])),
                ("/config/mediaType", json!(DOCKER_CONFIG)),
                ("/config/size", json!(-1)),
                ("/config/size", json!(1.5)),
                ("/config/size", json!("1")),
                ("/config/digest", json!("sha256:E3")),
                ("/config/digest", json!(DIGEST.to_uppercase())),
                ("/config/digest", json!("md")),
                ("/layers", json!({})),
                ("/layers", json!("REMOVED")),
                ("/layers/0", json!(1)),
                ("/layers/0/mediaType", json!(docker_layer)),
                ("/layers/0/mediaType", json!("tar")),
                ("/layers/0/mediaType", json!("REMOVED")),
                ("/layers/0/urls", json!([1])),
                ("/layers/0/annotations", json!({ "a": 1 })),
                ("/annotations", json!({ "": "x" })),
                ("/annotations", json!([])),
                ("/subject", json!({})),
                ("/artifactType", json!("x")),
            ],
        );
    }

    #[test]
    fn each_rule_of_a_config_is_kept() {
        each_is_found(
            &good_config(),
            config,
            &[
                ("/architecture", json!("")),
                ("/os", json!("REMOVED")),
                ("/variant", json!(8)),
                ("/created", json!("now")),
                ("/rootfs/type", json!("other")),
                ("/rootfs/diff_ids", json!("REMOVED")),
                ("/rootfs/diff_ids/0", json!("sha256:x")),
                ("/history", json!({})),
                ("/history/0", json!(1)),
                ("/history/0/created", json!("1970")),
                ("/history/0/empty_layer", json!("yes")),
                ("/history/0/created_by", json!(1)),
                ("/config", json!([])),
                ("/config/Env", json!(["A"])),
                ("/config/Env", json!("A=1")),
                ("/config/Cmd", json!("sh -c x")),
                ("/config/ExposedPorts", json!({ "x": {} })),
                ("/config/ExposedPorts", json!({ "80/foo": {} })),
                ("/config/ExposedPorts", json!([80])),
                ("/config/Labels", json!({ "a": 1 })),
                ("/config/User", json!(0)),
            ],
        );
    }

    #[test]
    fn each_rule_of_an_index_is_kept() {
        each_is_found(
            &good_index(),
            index,
            &[
                ("/schemaVersion", json!("REMOVED")),
                ("/mediaType", json!(OCI_MANIFEST)),
                ("/manifests", json!("REMOVED")),
                ("/manifests/0/platform", json!("linux/arm")),
                ("/manifests/0/platform/os", json!("REMOVED")),
                ("/manifests/0/platform/architecture", json!("a b")),
                ("/manifests/0/platform/variant", json!(7)),
                ("/manifests/0/platform/os.features", json!("x")),
                ("/manifests/0/digest", json!("REMOVED")),
            ],
        );
    }

    #[test]
    fn a_key_that_comes_twice_is_found() {
        let text = good_manifest()
            .to_string()
            .replacen('{', r#"{"schemaVersion":2,"#, 1);
        assert!(manifest(text.as_bytes())[0].contains("twice"));
        assert!(!manifest(b"[]").is_empty() && !manifest(b"{").is_empty());
    }
}
