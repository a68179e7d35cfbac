//! The quickstart: a verified image, manifests pinned to it, and a second run that does nothing.

use std::path::Path;

use modelship_image_builder::layout;
use modelship_testkit::{Tool, judge, need};
use serde_json::Value;

use crate::program::{QUICKSTART, program, said};
use crate::site::{quickstarted, snapshot};

#[tokio::test]
async fn the_quickstart_releases_once_and_then_finds_nothing_changed() {
    let Some((base, first)) = quickstarted() else {
        return;
    };
    let out = base.folder();
    let first = first.json();
    assert_eq!(first["run"], "released");
    let release = &first["release"];
    assert_eq!(release["inputs"]["model_version"], "1.1.0");
    let answer = &release["verdict"]["answer"]["predictions"];
    assert_eq!(answer, &serde_json::json!([1, 7, 3]));

    let manifests = std::fs::read_to_string(out.join("manifests/digits.yaml")).unwrap();
    let image = release["image"].as_str().unwrap();
    let digest = image.strip_prefix("localhost/digits@").unwrap();
    assert_eq!(images(&manifests), [image]);
    judged(&out.join("image"), digest).await;

    let before = snapshot(&out.join("image"));
    let mut again = program(QUICKSTART, out);
    let second = said(again.args(["--json", "--out"]).arg(out)).json();
    assert_eq!(second["run"], "unchanged");
    assert_eq!(second["release"]["image"], image);
    assert_eq!(second["release"]["key"], release["key"]);
    assert!(snapshot(&out.join("image")) == before, "the image moved");
    let manifests_now = std::fs::read_to_string(out.join("manifests/digits.yaml")).unwrap();
    assert_eq!(manifests_now, manifests);
}

/// The images that the objects name.
fn images(manifests: &str) -> Vec<String> {
    let mut found = Vec::new();
    for document in manifests.split("---\n").filter(|d| !d.trim().is_empty()) {
        let object: Value = serde_yaml_ng::from_str(document).unwrap();
        assert!(object["kind"].is_string(), "{document}");
        let containers = object.pointer("/spec/template/spec/containers");
        for container in containers.and_then(Value::as_array).into_iter().flatten() {
            found.push(container["image"].as_str().unwrap().to_owned());
        }
    }
    found
}

/// The layout is valid by our own reading and by another's, and its tag names the release.
async fn judged(image: &Path, digest: &str) {
    let report = layout::validate(image).await.unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert!(report.layers.len() >= 3, "base, model, code");
    let named = layout::references(image).await.unwrap();
    let tagged = named.iter().find(|(name, _)| name == "1.1.0").unwrap();
    assert_eq!(tagged.1.digest().to_string(), digest);

    let source = format!("oci:{}:1.1.0", image.display());
    let Some(copied) = need(judge::skopeo(&["inspect", "--format", "{{.Digest}}", &source]).await)
    else {
        return;
    };
    assert_eq!(copied.succeeded(), digest);
    // A copy reads every blob and checks its digest.
    let judge = modelship_testkit::Judge::new().unwrap();
    let copy = judge
        .ask(
            Tool::Skopeo,
            &["copy", "--preserve-digests", &source, "oci:copy:1.1.0"],
        )
        .await;
    copy.unwrap().succeeded();
}
