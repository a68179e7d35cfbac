//! Manifests, tags and blobs, deleted or said not to be.

use modelship_registry::{Credentials, ErrorKind};
use modelship_testkit::{DockerRegistry, need};

use crate::images::{digest, noise, repository, source};
use crate::referrers::image;
use crate::server::{Reply, Server};

#[tokio::test]
async fn the_docker_registry_deletes_by_digest_only() {
    let Some(registry) = need(DockerRegistry::open().await) else {
        return;
    };
    let repository = repository(&registry.host(), Credentials::anonymous());
    let image = image(&repository).await;
    repository.tag(&image, "1").await.unwrap();
    let error = repository.delete_tag("1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error:?}");
    assert!(error.hint().unwrap().contains("by its digest"));
    repository.delete_manifest(image.digest()).await.unwrap();
    assert_eq!(repository.resolve("1").await.unwrap(), None);
    let error = repository
        .delete_manifest(image.digest())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");

    let data = noise(100, 1);
    repository
        .push_blob(&source(&data, data.len()), &|_| {})
        .await
        .unwrap();
    repository.delete_blob(&digest(&data)).await.unwrap();
    assert!(!repository.has_blob(&digest(&data)).await.unwrap());
    let error = repository.delete_blob(&digest(&data)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
}

#[tokio::test]
async fn every_answer_has_its_meaning() {
    for (status, expected) in [
        (200, None),
        (202, None),
        (204, None),
        (400, Some(ErrorKind::Unsupported)),
        (405, Some(ErrorKind::Unsupported)),
        (501, Some(ErrorKind::Unsupported)),
        (404, Some(ErrorKind::NotFound)),
        (403, Some(ErrorKind::Forbidden)),
        (429, Some(ErrorKind::Throttled)),
        (500, Some(ErrorKind::Server)),
    ] {
        let server = Server::start(move |_, _| Reply::status(status)).await;
        let repository = repository(&server.host(), Credentials::anonymous());
        for result in [
            repository.delete_tag("1").await,
            repository.delete_blob(&digest(b"")).await,
            repository.delete_manifest(&digest(b"")).await,
        ] {
            assert_eq!(result.err().map(|error| error.kind()), expected, "{status}");
        }
        assert!(server.seen().iter().all(|seen| seen.method == "DELETE"));
    }
}

#[tokio::test]
async fn the_right_to_delete_is_asked_for() {
    let issuer =
        Server::start(|_, _| Reply::Answer(200, Vec::new(), br#"{"token":"t0"}"#.to_vec())).await;
    let realm = issuer.url("/token");
    let server = Server::start(move |seen, _| {
        if seen.header("authorization") == Some("Bearer t0") {
            return Reply::status(202);
        }
        let value = format!("Bearer realm=\"{realm}\"");
        Reply::Answer(401, vec![("WWW-Authenticate", value)], Vec::new())
    })
    .await;
    let repository = repository(&server.host(), Credentials::basic("me", "hunter2"));
    repository.delete_blob(&digest(b"")).await.unwrap();
    assert_eq!(
        issuer.count("GET", "scope=repository%3Ateam%2Fapp%3Adelete"),
        1
    );
}
