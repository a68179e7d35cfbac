//! Images copied from registry to registry, byte for byte and no byte twice.

use bytes::Bytes;
use futures::TryStreamExt as _;
use modelship_registry::{
    Blob, Credentials, Descriptor, ErrorKind, Event, Manifest, PinnedReference, Repository,
};
use modelship_testkit::fault_proxy::{Fault, Kind, On, Plan, What};
use modelship_testkit::{DockerRegistry, FaultProxy, need};
use serde_json::{Value, json};

use crate::images::{Events, LAYER, digest, noise, options, repository, source};
use crate::referrers::sbom;
use crate::server::{Reply, Server};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

fn named(host: &str, name: &str) -> Repository {
    Repository::new(
        &format!("{host}/{name}"),
        Credentials::anonymous(),
        options(),
    )
    .unwrap()
}

/// An image whose bytes are not as we would write them, of one layer and one that may not be
/// distributed.
fn image(layers: &[Descriptor], architecture: &str) -> Manifest {
    let config = format!(
        "{{ \"os\": \"linux\",\n \"architecture\": \"{architecture}\", \"variant\": \"v8\", \"config\": {{\"Healthcheck\": {{\"Test\": [\"NONE\"]}}, \"Shell\": [\"/bin/sh\"], \"OnBuild\": [\"RUN x\"], \"Labels\": {{\"z\": \"1\", \"a\": \"2\"}}}}, \"rootfs\": {{\"type\": \"layers\", \"diff_ids\": []}}}}"
    );
    let foreign = json!({
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "digest": digest(b"never pushed").to_string(),
        "size": 12,
        "urls": ["https://windows.invalid/layer"],
    });
    let layers: Vec<Value> = layers
        .iter()
        .map(|layer| serde_json::to_value(layer).unwrap())
        .chain([foreign])
        .collect();
    let manifest = format!(
        "{{\n  \"schemaVersion\": 2,\n  \"mediaType\": \"{MANIFEST}\",\n  \"x-unknown\": 1,\n  \"config\": {},\n  \"layers\": {}\n}}\n",
        json!({"mediaType": CONFIG, "digest": digest(config.as_bytes()).to_string(), "size": config.len()}),
        Value::Array(layers),
    );
    Manifest {
        media_type: MANIFEST.to_owned(),
        bytes: manifest.into(),
        config: config.into(),
        config_media_type: CONFIG.to_owned(),
    }
}

async fn push(repository: &Repository, seed: u32, architecture: &str) -> PinnedReference {
    let layer = noise(300_000, seed);
    let layers = vec![source(&layer, layer.len())];
    repository
        .push_image(layers, |layers| Ok(image(layers, architecture)), &|_| {})
        .await
        .unwrap()
}

/// Stores an index by the registry's own interface, since this crate makes none.
async fn index(registry: &DockerRegistry, source: &Repository) -> PinnedReference {
    let mut entries = Vec::new();
    for (seed, architecture) in [(1, "amd64"), (2, "arm64")] {
        let pinned = push(source, seed, architecture).await;
        let (_, descriptor) = source.manifest(pinned.digest().as_ref()).await.unwrap();
        let mut entry = serde_json::to_value(&descriptor).unwrap();
        entry["platform"] = json!({"os": "linux", "architecture": architecture});
        entries.push(entry);
    }
    let bytes = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string();
    let found = digest(bytes.as_bytes());
    let url = format!(
        "{}/v2/{}/manifests/multi",
        registry.url(),
        source.name().split_once('/').unwrap().1
    );
    let answer = reqwest::Client::new()
        .put(url)
        .header("content-type", INDEX)
        .body(bytes)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status().as_u16(), 201);
    source.pin(found)
}

#[tokio::test]
async fn an_index_arrives_whole_and_a_second_copy_moves_nothing() {
    let (Some(from), Some(to)) = (
        need(DockerRegistry::open().await),
        need(DockerRegistry::open().await),
    ) else {
        return;
    };
    let source = named(&from.host(), "team/base");
    let target = named(&to.host(), "mirror/base");
    let index = index(&from, &source).await;
    let events = Events::default();
    let copied = target
        .copy_from(&source, "multi", &events.sink())
        .await
        .unwrap();
    assert_eq!(copied.digest(), index.digest());
    assert_eq!(copied.name(), target.name());
    let uploaded = |events: &Events| {
        let all = events.all();
        all.iter()
            .filter(|event| matches!(event, Event::Uploaded { .. }))
            .count()
    };
    assert_eq!(uploaded(&events), 4, "two layers, two configs");

    let (ours, _) = target.manifest(copied.digest().as_ref()).await.unwrap();
    let (theirs, _) = source.manifest("multi").await.unwrap();
    assert_eq!(ours, theirs);
    let list: Value = serde_json::from_slice(&ours).unwrap();
    for entry in list["manifests"].as_array().unwrap() {
        let place = entry["digest"].as_str().unwrap();
        let (ours, _) = target.manifest(place).await.unwrap();
        assert_eq!(ours, source.manifest(place).await.unwrap().0);
        let image: Value = serde_json::from_slice(&ours).unwrap();
        let config: Descriptor = serde_json::from_value(image["config"].clone()).unwrap();
        let parts: Vec<Bytes> = target.blob(&config, 0).try_collect().await.unwrap();
        assert!(
            String::from_utf8(parts.concat())
                .unwrap()
                .contains("OnBuild")
        );
    }

    let before = to.requests("", "").len();
    let again = target
        .copy_from(&source, index.digest().as_ref(), &events.sink())
        .await
        .unwrap();
    assert_eq!(again, copied);
    let after = to.requests("", "").split_off(before);
    assert_eq!(after.len(), 1, "{after:?}");
    assert_eq!(after[0].method, "HEAD");
}

#[tokio::test]
async fn within_a_registry_blobs_are_mounted() {
    let Some(registry) = need(DockerRegistry::open().await) else {
        return;
    };
    let source = named(&registry.host(), "team/base");
    let target = named(&registry.host(), "team/app");
    let pinned = push(&source, 5, "amd64").await;
    let events = Events::default();
    let copied = target
        .copy_from(&source, pinned.digest().as_ref(), &events.sink())
        .await
        .unwrap();
    assert_eq!(copied.digest(), pinned.digest());
    assert_eq!(events.sent(), 0);
    let mounted = events.all();
    let mounted = mounted
        .iter()
        .filter(|event| matches!(event, Event::Mounted { from, .. } if from == "team/base"));
    assert_eq!(mounted.count(), 2, "a layer and a config");
}

#[tokio::test]
async fn what_refers_to_an_image_comes_along() {
    let (Some(from), Some(to)) = (
        need(DockerRegistry::open().await),
        need(DockerRegistry::open().await),
    ) else {
        return;
    };
    let source = named(&from.host(), "team/app");
    let target = named(&to.host(), "team/app");
    let image = push(&source, 7, "amd64").await;
    let bill = source
        .push_artifact(&sbom(1, &image), &|_| {})
        .await
        .unwrap();
    // A signature of the bill of materials.
    let signature = source
        .push_artifact(&sbom(2, &bill), &|_| {})
        .await
        .unwrap();

    target
        .copy_from(&source, image.digest().as_ref(), &|_| {})
        .await
        .unwrap();
    assert!(
        target
            .referrers(image.digest(), None)
            .await
            .unwrap()
            .is_empty()
    );
    for _ in 0..2 {
        target
            .copy_with_referrers_from(&source, image.digest().as_ref(), &|_| {})
            .await
            .unwrap();
    }
    for (subject, expected) in [(&image, &bill), (&bill, &signature)] {
        let found = target.referrers(subject.digest(), None).await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].digest(), expected.digest());
    }
}

#[tokio::test]
async fn breaks_on_both_sides_are_gone_over() {
    let (Some(from), Some(to)) = (
        need(DockerRegistry::open().await),
        need(DockerRegistry::open().await),
    ) else {
        return;
    };
    let pinned = push(&named(&from.host(), "team/app"), 9, "amd64").await;
    let reading = [1, 100_000, 40_000]
        .into_iter()
        .zip(1..)
        .map(|(bytes, nth)| Fault::new(Kind::GetBlob, What::TruncateAnswer(bytes)).nth(nth));
    let writing = Plan::of([
        // The config, which is shorter, may come first.
        Fault::new(On::UploadBody, What::ResetAfter(150_000)).times(2),
        Fault::new(Kind::PutManifest, What::LoseAnswer),
    ]);
    let (Some(reading), Some(writing)) = (
        need(FaultProxy::start(&from.url(), Plan::of(reading)).await),
        need(FaultProxy::start(&to.url(), writing).await),
    ) else {
        return;
    };
    let source = named(&reading.host(), "team/app");
    let target = named(&writing.host(), "team/app");
    let copied = target
        .copy_from(&source, pinned.digest().as_ref(), &|_| {})
        .await
        .unwrap();
    assert_eq!(copied.digest(), pinned.digest());
    assert_eq!(reading.applied().len(), 3);
    let struck = |what: What| writing.applied().iter().any(|one| one.what == what);
    assert!(struck(What::ResetAfter(150_000)) && struck(What::LoseAnswer));
    let direct = named(&to.host(), "team/app");
    let layer = noise(300_000, 9);
    let descriptor = Descriptor::new(LAYER.into(), 300_000, digest(&layer));
    let parts: Vec<Bytes> = direct.blob(&descriptor, 0).try_collect().await.unwrap();
    assert_eq!(parts.concat(), layer);
    for proxy in [&reading, &writing] {
        assert!(proxy.violations().is_empty(), "{:?}", proxy.violations());
    }
}

#[tokio::test]
async fn what_cannot_be_copied_leaves_no_manifest() {
    let Some(registry) = need(DockerRegistry::open().await) else {
        return;
    };
    let target = named(&registry.host(), "team/app");
    let layer = digest(b"layer");
    let cases: [(&str, Value, ErrorKind); 4] = [
        (
            MANIFEST,
            json!({"layers": [{"mediaType": LAYER, "digest": layer.to_string(), "size": 5}]}),
            ErrorKind::NotFound,
        ),
        (MANIFEST, json!({"layers": [{}]}), ErrorKind::Protocol),
        (
            INDEX,
            json!({"manifests": [{"mediaType": MANIFEST, "digest": layer.to_string(), "size": 5}]}),
            ErrorKind::NotFound,
        ),
        (
            "application/vnd.docker.distribution.manifest.v1+json",
            json!({}),
            ErrorKind::Unsupported,
        ),
    ];
    for (media_type, body, kind) in cases {
        let server = Server::start(move |seen, _| {
            if seen.target.ends_with("/manifests/x") {
                let headers = vec![("Content-Type", media_type.to_owned())];
                Reply::Answer(200, headers, body.to_string().into_bytes())
            } else {
                Reply::status(404)
            }
        })
        .await;
        let source = repository(&server.host(), Credentials::anonymous());
        let error = target.copy_from(&source, "x", &|_| {}).await.unwrap_err();
        let mut causes = vec![error.kind()];
        let mut cause: Option<&(dyn std::error::Error + 'static)> =
            std::error::Error::source(&error);
        while let Some(found) = cause {
            let known = found.downcast_ref::<modelship_registry::Error>();
            causes.extend(known.map(modelship_registry::Error::kind));
            cause = found.source();
        }
        assert!(causes.contains(&kind), "{causes:?} {error:?}");
    }
    assert!(registry.requests("PUT", "/manifests/").is_empty());
}

/// An index within an index, so many deep.
fn nest(depth: u32) -> Vec<u8> {
    let manifests = if depth == 0 {
        json!([])
    } else {
        let inner = nest(depth - 1);
        json!([{"mediaType": INDEX, "digest": digest(&inner).to_string(), "size": inner.len()}])
    };
    json!({"mediaType": INDEX, "schemaVersion": 2, "manifests": manifests})
        .to_string()
        .into_bytes()
}

#[tokio::test]
async fn a_registry_cannot_send_the_copy_round_in_circles() {
    // An index that names itself cannot be made; one that names a thousand others, each with a
    // name of its own, can be made by a server that answers anything.
    let Some(registry) = need(DockerRegistry::open().await) else {
        return;
    };
    let server = Server::start(|seen, _| {
        let found = (0..20)
            .map(nest)
            .find(|bytes| seen.target.ends_with(digest(bytes).as_ref()));
        let bytes = found.unwrap_or_else(|| nest(19));
        Reply::Answer(200, vec![("Content-Type", INDEX.to_owned())], bytes)
    })
    .await;
    let source = repository(&server.host(), Credentials::anonymous());
    let target = named(&registry.host(), "team/app");
    let error = target.copy_from(&source, "x", &|_| {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert!(registry.requests("PUT", "").is_empty());
}

#[tokio::test]
async fn an_artifact_without_a_subject_is_copied_too() {
    let Some(registry) = need(DockerRegistry::open().await) else {
        return;
    };
    let source = named(&registry.host(), "team/model");
    let target = named(&registry.host(), "team/other");
    let artifact = modelship_registry::Artifact::new("application/vnd.acme.model")
        .with_blob(Blob::bytes("application/octet-stream", noise(1000, 1)));
    let pushed = source.push_artifact(&artifact, &|_| {}).await.unwrap();
    let copied = target
        .copy_from(&source, pushed.digest().as_ref(), &|_| {})
        .await
        .unwrap();
    assert_eq!(copied.digest(), pushed.digest());
}
