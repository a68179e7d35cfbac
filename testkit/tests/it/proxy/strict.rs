//! Strict mode: what a client may do passes in silence, and each offence is named.

use modelship_testkit::fault_proxy::{Fault, Kind, On, Plan, What};
use serde_json::{Value, json};

use super::{Bench, digest, location};

const OCTETS: (&str, &str) = ("Content-Type", "application/octet-stream");
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The only violation so far has these words in it.
#[track_caller]
fn only(bench: &Bench, words: &str) {
    let violations = bench.proxy.violations();
    assert!(
        violations.len() == 1 && violations[0].contains(words),
        "{words}: {violations:?}"
    );
}

impl Bench {
    async fn chunk(&self, place: &str, range: &str, body: &[u8]) -> reqwest::Response {
        let headers = [OCTETS, ("Content-Range", range)];
        let answer = self.send("PATCH", place, &headers, body.to_vec()).await;
        answer.unwrap()
    }

    async fn put_manifest(&self, reference: &str, kind: &str, body: &Value) -> u16 {
        let target = format!("/v2/a/manifests/{reference}");
        let headers = [("Content-Type", kind)];
        let body = body.to_string().into_bytes();
        let answer = self.send("PUT", &target, &headers, body).await;
        answer.unwrap().status().as_u16()
    }
}

fn manifest(config: &str, layer: &str) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2 },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": 4 }],
    })
}

#[tokio::test]
async fn a_push_and_a_pull_by_the_book_pass() {
    let Some(bench) = Bench::new(Plan::none()).await else {
        return;
    };
    let place = bench.open().await;
    let place = location(&bench.chunk(&place, "0-1", b"bl").await);
    let status = bench.send("GET", &place, &[], Vec::new()).await.unwrap();
    let place = location(&bench.chunk(&location(&status), "2-3", b"ob").await);
    let layer = digest(b"blob");
    assert_eq!(bench.commit(&place, &layer).await.unwrap().status(), 201);
    let config = bench.push(b"{}").await;
    let manifest = manifest(&config, &layer);
    let by_digest = digest(manifest.to_string().as_bytes());
    for reference in [by_digest.as_str(), "1.0"] {
        assert_eq!(
            bench.put_manifest(reference, MANIFEST, &manifest).await,
            201
        );
        let target = format!("/v2/a/manifests/{reference}");
        let answer = bench.send("GET", &target, &[("Accept", MANIFEST)], Vec::new());
        assert_eq!(answer.await.unwrap().status(), 200);
    }
    // A session is cancelled, a blob is pushed in one POST.
    let place = bench.open().await;
    assert_eq!(bench.proxy.open_sessions().len(), 1);
    let answer = bench.send("DELETE", &place, &[], Vec::new()).await;
    assert_eq!(answer.unwrap().status(), 204);
    assert_eq!(bench.proxy.violations(), [""; 0]);
    assert_eq!(bench.proxy.open_sessions(), [""; 0]);
}

#[tokio::test]
async fn wrong_ranges_are_named() {
    for (range, words) in [
        ("bytes 2-3/4", "is not START-END"),
        ("2-9", "with Content-Length 2"),
        ("3-4", "the session has 2 bytes"),
        ("0-1", "the session has 2 bytes"),
    ] {
        let Some(bench) = Bench::new(Plan::none()).await else {
            return;
        };
        let place = bench.open().await;
        let place = location(&bench.chunk(&place, "0-1", b"bl").await);
        bench.chunk(&place, range, b"ob").await;
        only(&bench, words);
    }
}

#[tokio::test]
async fn a_range_is_judged_by_what_the_client_was_told() {
    let plan = Plan::of([
        Fault::new(Kind::Patch, What::StaleRange(2)),
        Fault::new(On::UploadBody, What::ResetAfter(1)).nth(2),
    ]);
    let Some(bench) = Bench::new(plan).await else {
        return;
    };
    let place = bench.open().await;
    let answer = bench.chunk(&place, "0-3", b"blob").await;
    let place = location(&answer);
    // The answer said that only two bytes are there.
    let headers = [OCTETS, ("Content-Range", "2-3")];
    let broken = bench.send("PATCH", &place, &headers, b"ob".to_vec()).await;
    assert!(broken.is_err());
    // One byte may have come or not.
    bench.chunk(&place, "5-5", b"!").await;
    assert_eq!(bench.proxy.violations(), [""; 0]);
}

#[tokio::test]
async fn wrong_sessions_are_named() {
    let Some(bench) = Bench::new(Plan::none()).await else {
        return;
    };
    let first = bench.open().await;
    let answer = bench.patch(&first, b"blob").await.unwrap();
    let target = format!("{first}&digest={}", digest(b"blob"));
    bench.send("PUT", &target, &[], Vec::new()).await.unwrap();
    only(&bench, "not the last Location");
    let second = bench.commit(&location(&answer), &digest(b"blob")).await;
    assert_eq!(second.unwrap().status(), 201);
    only(&bench, "not the last Location");
    let again = bench.send("GET", &location(&answer), &[], Vec::new()).await;
    assert_eq!(again.unwrap().status(), 404);
    let violations = bench.proxy.violations();
    assert_eq!(violations.len(), 2, "{violations:?}");
    assert!(violations[1].contains("the session was committed before"));
}

#[tokio::test]
async fn a_small_chunk_that_is_not_the_last_is_named() {
    let plan = Plan::of([Fault::new(On::Any, What::MinChunk(3)).every()]);
    let Some(bench) = Bench::new(plan).await else {
        return;
    };
    let place = location(&bench.chunk(&bench.open().await, "0-1", b"bl").await);
    assert_eq!(bench.chunk(&place, "2-3", b"ob").await.status(), 416);
    only(&bench, "had 2 bytes, less than 3");
}

/// Method, target, fields and body of a bad request, and the words of its violation.
type Offence<'a> = (
    &'a str,
    &'a str,
    &'a [(&'a str, &'a str)],
    &'a [u8],
    &'a str,
);

#[tokio::test]
async fn single_bad_requests_are_named() {
    let blob = format!("/v2/A/blobs/{}", digest(b""));
    let mount = format!("/v2/a/blobs/uploads/?mount={}", digest(b""));
    let offences: [Offence<'_>; 12] = [
        ("HEAD", &blob, &[], b"", "is not the name of a repository"),
        ("HEAD", "/v2/a/blobs/sha256:aa", &[], b"", "is not a digest"),
        (
            "GET",
            "/v2/a/manifests/-a",
            &[],
            b"",
            "neither a tag nor a digest",
        ),
        (
            "GET",
            "/v2/a/manifests/a",
            &[],
            b"x",
            "GET or HEAD with a body",
        ),
        ("GET", "/metrics", &[], b"", "not an end point"),
        ("GET", "/v2/_catalog", &[], b"", "not an end point"),
        (
            "POST",
            "/v2/a/blobs/uploads/",
            &[OCTETS],
            b"x",
            "without a digest",
        ),
        ("POST", &mount, &[], b"", "no repository to mount from"),
        ("PUT", "/v2/a/manifests/a", &[], b"{}", "no Content-Type"),
        (
            "PATCH",
            "/v2/a/blobs/uploads/1",
            &[OCTETS],
            b"x",
            "no answer has named",
        ),
        ("PUT", "PLACE", &[], b"", "the closing PUT has no digest"),
        ("PATCH", "PLACE", &[], b"x", "not application/octet-stream"),
    ];
    let Some(bench) = Bench::new(Plan::none()).await else {
        return;
    };
    for (method, target, headers, body, words) in offences {
        let before = bench.proxy.violations().len();
        let place = bench.open().await;
        let target = if target == "PLACE" { &place } else { target };
        let sent = bench.send(method, target, headers, body.to_vec()).await;
        assert!(sent.is_ok());
        let violations = bench.proxy.violations().split_off(before);
        assert!(
            violations.iter().any(|violation| violation.contains(words)),
            "{words}: {violations:?}"
        );
    }
}

#[tokio::test]
async fn manifests_come_after_what_they_name_and_tags_after_digests() {
    let Some(bench) = Bench::new(Plan::none()).await else {
        return;
    };
    let (config, layer) = (bench.push(b"{}").await, digest(b"blob"));
    let manifest = manifest(&config, &layer);
    assert_eq!(bench.put_manifest("1.0", MANIFEST, &manifest).await, 400);
    only(&bench, "which was not seen present");
    bench.push(b"blob").await;
    bench
        .put_manifest("1.0", "application/json", &manifest)
        .await;
    let violations = bench.proxy.violations();
    assert!(violations[1].contains("of a manifest of mediaType"));
    let by_digest = digest(manifest.to_string().as_bytes());
    bench.put_manifest(&by_digest, MANIFEST, &manifest).await;
    let violations = bench.proxy.violations();
    assert!(
        violations[2].contains("after it was tagged"),
        "{violations:?}"
    );
    assert_eq!(violations.len(), 3);
    let other = digest(b"other");
    bench.put_manifest(&other, MANIFEST, &manifest).await;
    assert!(bench.proxy.violations()[3].contains("the body has the digest"));
}
