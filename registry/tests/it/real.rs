//! A real registry, and independent programs that judge what was pushed to it.

use std::process::Command;

use bytes::Bytes;
use futures::TryStreamExt as _;
use modelship_registry::{
    Blob, Credentials, Descriptor, ErrorKind, Event, PinnedReference, Repository,
};
use modelship_testkit::{DockerRegistry, Tool, need, tool};

use crate::images::{Events, LAYER, digest, noise, options, repository, seal, source, tar};

/// Two layers: one of unknown digest and some size, one small.
fn layers() -> Vec<Bytes> {
    vec![
        tar("model.bin", &noise(3 << 20, 1)),
        tar("hello.txt", b"hello"),
    ]
}

fn blobs(layers: &[Bytes], known: bool) -> Vec<Blob> {
    layers
        .iter()
        .map(|layer| {
            let blob = source(layer, layer.len());
            if known {
                blob.with_digest(digest(layer))
            } else {
                blob
            }
        })
        .collect()
}

async fn push(repository: &Repository, known: bool, events: &Events) -> PinnedReference {
    repository
        .push_image(blobs(&layers(), known), seal, &events.sink())
        .await
        .unwrap()
}

async fn content(repository: &Repository, descriptor: &Descriptor) -> Vec<u8> {
    let parts: Vec<Bytes> = repository.blob(descriptor, 0).try_collect().await.unwrap();
    parts.concat()
}

#[tokio::test]
async fn what_is_pushed_is_pulled_back() {
    let Some(registry) = need(DockerRegistry::open().await) else {
        return;
    };
    let repository = repository(&registry.host(), Credentials::anonymous());
    let events = Events::default();
    let pinned = push(&repository, false, &events).await;
    assert!(
        repository.tags().await.unwrap().is_empty(),
        "a push gives no tag"
    );
    assert_eq!(repository.resolve("1").await.unwrap(), None);

    let (bytes, descriptor) = repository.manifest(pinned.digest().as_ref()).await.unwrap();
    assert_eq!(descriptor.digest(), pinned.digest());
    let manifest: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    let listed: Vec<Descriptor> = serde_json::from_value(manifest["layers"].clone()).unwrap();
    for (listed, layer) in listed.iter().zip(layers()) {
        assert_eq!(listed.digest(), &digest(&layer));
        assert_eq!(content(&repository, listed).await, layer);
        let tail: Vec<Bytes> = repository.blob(listed, 100).try_collect().await.unwrap();
        assert_eq!(tail.concat(), layer[100..]);
    }
    repository.tag(&pinned, "1").await.unwrap();
    repository.tag(&pinned, "1").await.unwrap();
    assert_eq!(
        repository.resolve("1").await.unwrap().as_ref(),
        Some(&pinned)
    );
    assert_eq!(repository.tags().await.unwrap(), ["1"]);
    assert_eq!(registry.requests("PUT", "/manifests/1").len(), 1);
    assert_eq!(
        registry.requests("PATCH", "").len(),
        2,
        "one request per layer of unknown digest"
    );
    assert_eq!(events.retries(), 0);
}

#[tokio::test]
async fn a_second_push_sends_no_byte() {
    let Some(registry) = need(DockerRegistry::open().await) else {
        return;
    };
    let repository = repository(&registry.host(), Credentials::anonymous());
    let first = Events::default();
    let pinned = push(&repository, false, &first).await;
    assert!(first.sent() > 3 << 20);
    let before = registry.requests("", "").len();
    let second = Events::default();
    assert_eq!(push(&repository, true, &second).await, pinned);
    assert_eq!(second.sent(), 0);
    let exists = second
        .all()
        .iter()
        .filter(|event| matches!(event, Event::Exists { .. }))
        .count();
    assert_eq!(exists, 3, "two layers and the config");
    let after = registry.requests("", "").split_off(before);
    assert!(
        after.iter().all(|request| request.method == "HEAD"),
        "{after:?}"
    );
    assert_eq!(after.len(), 1, "one look at the manifest settles it");
}

#[tokio::test]
async fn a_blob_of_another_repository_is_mounted() {
    let Some(registry) = need(DockerRegistry::open().await) else {
        return;
    };
    let base = Repository::new(
        &format!("{}/team/base", registry.host()),
        Credentials::anonymous(),
        options(),
    )
    .unwrap();
    let data = noise(100_000, 5);
    base.push_blob(&source(&data, data.len()), &|_| {})
        .await
        .unwrap();
    let app = repository(&registry.host(), Credentials::anonymous());
    let events = Events::default();
    let blob = source(&data, data.len())
        .with_digest(digest(&data))
        .with_mount_from("team/base");
    app.push_blob(&blob, &events.sink()).await.unwrap();
    assert!(matches!(&events.all()[..], [Event::Mounted { from, .. }] if from == "team/base"));
    assert!(app.has_blob(&digest(&data)).await.unwrap());
}

#[tokio::test]
async fn independent_programs_agree_on_the_digest() {
    let Some(registry) = need(DockerRegistry::open().await) else {
        return;
    };
    let repository = repository(&registry.host(), Credentials::anonymous());
    let pinned = push(&repository, false, &Events::default()).await;
    repository.tag(&pinned, "judged").await.unwrap();
    let reference = format!("{}:judged", repository.name());
    let skopeo = tool::program("skopeo")
        .ok_or_else(|| modelship_testkit::Missing::absent("skopeo", "not installed"));
    if let Some(skopeo) = need(skopeo) {
        let url = format!("docker://{reference}");
        let output = Command::new(skopeo)
            .args(["inspect", "--tls-verify=false", &url])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(said["Digest"], pinned.digest().to_string());
        assert_eq!(said["Layers"].as_array().unwrap().len(), 2);
    }
    if let Some(crane) = need(tool::path(Tool::Crane)) {
        let output = Command::new(crane)
            .args(["manifest", "--insecure", &reference])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(&digest(&output.stdout), pinned.digest());
    }
}

#[tokio::test]
async fn tls_and_a_password_work() {
    let Some(registry) = need(DockerRegistry::tls_htpasswd().await) else {
        return;
    };
    let mut trusting = options();
    trusting.extra_ca_pem = vec![registry.ca_pem().unwrap().as_bytes().to_vec()];
    let name = format!("{}/team/app", registry.host());
    let password = registry.password().unwrap();
    let right = Credentials::basic(registry.username().unwrap(), password);
    let repository = Repository::new(&name, right, trusting.clone()).unwrap();
    let pinned = push(&repository, false, &Events::default()).await;
    assert_eq!(push(&repository, true, &Events::default()).await, pinned);
    let data = &layers()[1];
    let descriptor = Descriptor::new(LAYER.into(), data.len() as u64, digest(data));
    assert_eq!(content(&repository, &descriptor).await, *data);

    let wrong = Credentials::basic("tester", "hunter2").with_source("docker config /c/config.json");
    let repository = Repository::new(&name, wrong, trusting).unwrap();
    for error in [
        repository.resolve("1").await.unwrap_err(),
        repository
            .push_blob(&source(data, data.len()), &|_| {})
            .await
            .unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error:?}");
        assert!(error.to_string().contains(&registry.host()), "{error}");
        assert!(
            error.to_string().contains("docker config /c/config.json"),
            "{error}"
        );
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}

#[tokio::test]
async fn an_unknown_certificate_and_a_closed_port_are_told_apart() {
    let Some(registry) = need(DockerRegistry::tls_htpasswd().await) else {
        return;
    };
    let Some(other) = need(DockerRegistry::tls_htpasswd().await) else {
        return;
    };
    let mut options = options();
    options.extra_ca_pem = vec![other.ca_pem().unwrap().as_bytes().to_vec()];
    let name = format!("{}/team/app", registry.host());
    let repository = Repository::new(&name, Credentials::anonymous(), options.clone()).unwrap();
    let error = repository.resolve("1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Untrusted, "{error:?}");
    assert!(!error.is_retryable());
    assert!(error.hint().unwrap().contains("CA"));

    let closed = format!("127.0.0.1:{}", modelship_testkit::free_port());
    let repository =
        Repository::new(&format!("{closed}/a"), Credentials::anonymous(), options).unwrap();
    let error = repository.resolve("1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
    assert!(error.to_string().contains(&closed), "{error}");
}

#[tokio::test]
async fn a_source_of_the_wrong_length_leaves_no_manifest() {
    let Some(registry) = need(DockerRegistry::open().await) else {
        return;
    };
    let repository = repository(&registry.host(), Credentials::anonymous());
    let data = noise(1 << 20, 9);
    for declared in [data.len() - 1, data.len() + 1] {
        let layers = vec![source(&data, declared)];
        let error = repository
            .push_image(layers, seal, &|_| {})
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SizeMismatch, "{error:?}");
    }
    assert!(registry.requests("PUT", "").is_empty());
    assert!(repository.tags().await.unwrap().is_empty());
    assert!(!repository.has_blob(&digest(&data)).await.unwrap());
}

#[tokio::test]
async fn a_push_can_be_spawned() {
    let repository = repository("127.0.0.1:1", Credentials::anonymous());
    let push = tokio::spawn(async move {
        repository
            .push_image(blobs(&layers(), false), seal, &|_| {})
            .await
    });
    let error = push.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
}

#[tokio::test]
async fn an_empty_blob_is_a_blob() {
    let Some(registry) = need(DockerRegistry::open().await) else {
        return;
    };
    let repository = repository(&registry.host(), Credentials::anonymous());
    let empty = Bytes::new();
    let pushed = repository
        .push_blob(&source(&empty, 0), &|_| {})
        .await
        .unwrap();
    assert_eq!(pushed.digest(), &digest(b""));
    assert!(repository.has_blob(&digest(b"")).await.unwrap());
    assert!(content(&repository, &pushed).await.is_empty());
}
