//! Uploads that break half-way.

use bytes::Bytes;
use modelship_registry::{Blob, Credentials, ErrorKind};

use crate::images::{Events, digest, noise, options, repository, source};
use crate::server::{Reply, Seen, Server};

const SIZE: usize = 3 << 20;
const SESSION: &str = "/v2/team/app/blobs/uploads/s1?_state=a%2Fb";

fn earlier(before: &[Seen], method: &str) -> usize {
    before.iter().filter(|seen| seen.method == method).count()
}

/// A registry in which everything goes well.
fn fine(seen: &Seen) -> Reply {
    match seen.method.as_str() {
        "POST" => Reply::located(202, SESSION),
        "PATCH" => Reply::located(202, "/v2/team/app/blobs/uploads/s1?_state=next"),
        "PUT" => Reply::status(201),
        "DELETE" => Reply::status(204),
        _ => Reply::status(404),
    }
}

#[tokio::test]
async fn one_pass_takes_three_requests() {
    let server = Server::start(|seen, _| fine(seen)).await;
    let data = noise(SIZE, 1);
    let events = Events::default();
    let repository = repository(&server.host(), Credentials::anonymous());
    let pushed = repository
        .push_blob(&source(&data, SIZE), &events.sink())
        .await
        .unwrap();
    assert_eq!(pushed.digest(), &digest(&data));
    let seen = server.seen();
    let methods: Vec<&str> = seen.iter().map(|seen| seen.method.as_str()).collect();
    assert_eq!(methods, ["POST", "PATCH", "PUT"]);
    assert_eq!(seen[1].target, SESSION);
    assert_eq!(seen[1].body, data);
    assert_eq!(
        seen[1].header("content-length"),
        Some(SIZE.to_string().as_str())
    );
    assert_eq!(seen[1].header("content-range"), None);
    assert_eq!(seen[1].header("transfer-encoding"), None);
    let hex = digest(&data).digest().to_owned();
    assert!(
        seen[2]
            .target
            .ends_with(&format!("?_state=next&digest=sha256%3A{hex}")),
        "{}",
        seen[2].target
    );
    assert_eq!((events.sent(), events.retries()), (SIZE as u64, 0));
}

#[tokio::test]
async fn a_cut_patch_is_replayed_when_the_session_is_gone() {
    let server = Server::start(|seen, before| match seen.method.as_str() {
        "PATCH" if earlier(before, "PATCH") == 0 => Reply::CutAfter(1 << 20),
        _ => fine(seen),
    })
    .await;
    let data = noise(SIZE, 2);
    let events = Events::default();
    let repository = repository(&server.host(), Credentials::anonymous());
    let pushed = repository
        .push_blob(&source(&data, SIZE), &events.sink())
        .await
        .unwrap();
    assert_eq!(pushed.digest(), &digest(&data));
    assert_eq!(server.count("POST", ""), 2);
    assert_eq!(
        server.count("DELETE", "uploads/s1"),
        1,
        "the broken session is ended"
    );
    let last = server
        .seen()
        .into_iter()
        .rfind(|seen| seen.method == "PATCH")
        .unwrap();
    assert_eq!(last.body, data);
    assert_eq!(events.retries(), 1);
}

#[tokio::test]
async fn a_cut_patch_is_resumed_where_the_registry_stands() {
    const KEPT: usize = (1 << 20) + 7;
    let server = Server::start(|seen, before| match seen.method.as_str() {
        "PATCH" if earlier(before, "PATCH") == 0 => Reply::CutAfter(2 << 20),
        "GET" => Reply::Answer(
            204,
            vec![
                ("Range", format!("0-{}", KEPT - 1)),
                ("Location", "/v2/team/app/blobs/uploads/s2".to_owned()),
            ],
            Vec::new(),
        ),
        _ => fine(seen),
    })
    .await;
    let data = noise(SIZE, 3);
    let events = Events::default();
    let repository = repository(&server.host(), Credentials::anonymous());
    let pushed = repository
        .push_blob(&source(&data, SIZE), &events.sink())
        .await
        .unwrap();
    assert_eq!(pushed.digest(), &digest(&data));
    assert_eq!(
        (server.count("POST", ""), server.count("DELETE", "")),
        (1, 0)
    );
    let resumed = server
        .seen()
        .into_iter()
        .rfind(|seen| seen.method == "PATCH")
        .unwrap();
    assert!(resumed.target.ends_with("uploads/s2"));
    assert_eq!(
        resumed.header("content-range"),
        Some(format!("{KEPT}-{}", SIZE - 1).as_str())
    );
    assert_eq!(resumed.body, data[KEPT..]);
    assert!(
        server
            .seen()
            .last()
            .unwrap()
            .target
            .contains(digest(&data).digest())
    );
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_found_by_its_digest() {
    for known in [false, true] {
        let server = Server::start(|seen, before| match seen.method.as_str() {
            "PUT" => Reply::Lose,
            "HEAD" if earlier(before, "PUT") > 0 => Reply::status(200),
            _ => fine(seen),
        })
        .await;
        let data = noise(SIZE, 4);
        let mut blob = source(&data, SIZE);
        if known {
            blob = blob.with_digest(digest(&data));
        }
        let repository = repository(&server.host(), Credentials::anonymous());
        let pushed = repository.push_blob(&blob, &|_| {}).await.unwrap();
        assert_eq!(pushed.digest(), &digest(&data));
        assert_eq!(
            (server.count("POST", ""), server.count("PUT", "")),
            (1, 1),
            "nothing is sent twice"
        );
    }
}

#[tokio::test]
async fn throttling_is_waited_out_within_bounds() {
    let throttled =
        |seconds: &str| Reply::Answer(429, vec![("Retry-After", seconds.to_owned())], Vec::new());
    let server = Server::start(move |seen, before| match seen.method.as_str() {
        "POST" if earlier(before, "POST") < 2 => throttled("0"),
        "PATCH" if earlier(before, "PATCH") == 0 => throttled("0"),
        _ => fine(seen),
    })
    .await;
    let data = noise(SIZE, 5);
    let repository_ = repository(&server.host(), Credentials::anonymous());
    repository_
        .push_blob(&source(&data, SIZE), &|_| {})
        .await
        .unwrap();

    let server = Server::start(move |_, _| throttled("86400")).await;
    let repository = repository(&server.host(), Credentials::anonymous());
    let error = repository
        .push_blob(&source(&data, SIZE), &|_| {})
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Throttled);
    assert!(error.is_retryable());
    assert_eq!(server.seen().len(), 1, "a pause of a day is not taken");
}

#[tokio::test]
async fn tries_are_bounded() {
    let server = Server::start(|seen, _| match seen.method.as_str() {
        "PATCH" => Reply::CutAfter(1000),
        _ => fine(seen),
    })
    .await;
    let data = noise(SIZE, 6);
    let repository = repository(&server.host(), Credentials::anonymous());
    let error = repository
        .push_blob(&source(&data, SIZE), &|_| {})
        .await
        .unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert_eq!(server.count("POST", ""), options().tries as usize);
    assert_eq!(server.count("PUT", ""), 0);
}

#[tokio::test]
async fn an_upload_location_elsewhere_gets_no_credentials() {
    let elsewhere = Server::start(|seen, _| fine(seen)).await;
    let target = elsewhere.url("/store/1?sig=secret");
    let server = Server::start(move |seen, _| match seen.header("authorization") {
        None => Reply::Answer(
            401,
            vec![("WWW-Authenticate", "Basic realm=\"r\"".to_owned())],
            Vec::new(),
        ),
        Some(_) if seen.method == "POST" => Reply::located(202, target.clone()),
        Some(_) => Reply::status(404),
    })
    .await;
    let data = noise(SIZE, 7);
    let repository = repository(&server.host(), Credentials::basic("me", "hunter2"));
    repository
        .push_blob(&source(&data, SIZE), &|_| {})
        .await
        .unwrap();
    assert_eq!(elsewhere.count("PATCH", "/store/1?sig=secret"), 1);
    assert!(
        elsewhere
            .seen()
            .iter()
            .all(|seen| seen.header("authorization").is_none())
    );
}

#[tokio::test]
async fn a_registry_that_limits_requests_gets_chunks() {
    const LIMIT: usize = 4 << 20;
    let server = Server::start(|seen, before| {
        let length: usize = seen
            .header("content-length")
            .map_or(0, |text| text.parse().unwrap());
        match seen.method.as_str() {
            "PATCH" if length > LIMIT => Reply::status(413),
            "PATCH" => Reply::located(202, format!("/v2/team/app/blobs/uploads/c{}", before.len())),
            _ => fine(seen),
        }
    })
    .await;
    let data = noise(9 << 20, 8);
    let repository = repository(&server.host(), Credentials::anonymous());
    let pushed = repository
        .push_blob(&source(&data, data.len()), &|_| {})
        .await
        .unwrap();
    assert_eq!(pushed.digest(), &digest(&data));
    let chunks: Vec<Seen> = server
        .seen()
        .into_iter()
        .filter(|seen| seen.header("content-range").is_some())
        .collect();
    let whole: Vec<u8> = chunks.iter().flat_map(|seen| seen.body.clone()).collect();
    assert_eq!(chunks.len(), 3);
    assert_eq!(whole, data);
    assert_eq!(chunks[1].header("content-range"), Some("4194304-8388607"));
}

#[tokio::test]
async fn a_source_of_the_wrong_length_commits_nothing() {
    let data = noise(SIZE, 9);
    for declared in [SIZE - 1, SIZE + 1] {
        for known in [false, true] {
            let server = Server::start(|seen, _| fine(seen)).await;
            let mut blob = source(&data, declared);
            if known {
                blob = blob.with_digest(digest(&data));
            }
            let repository = repository(&server.host(), Credentials::anonymous());
            let error = repository.push_blob(&blob, &|_| {}).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::SizeMismatch, "{error:?}");
            assert!(error.hint().is_some());
            assert!(
                server
                    .seen()
                    .iter()
                    .filter(|seen| seen.method == "PUT")
                    .all(|seen| seen.body.len() < declared)
            );
            assert!(server.count("PUT", "") <= usize::from(known));
            assert_eq!(server.count("DELETE", ""), 1, "the session is ended");
        }
    }
}

#[tokio::test]
async fn a_failing_source_is_the_error_and_is_not_retried() {
    use futures::StreamExt as _;
    let server = Server::start(|seen, _| fine(seen)).await;
    let blob = Blob::new("x/y", 10, |_| {
        futures::stream::iter([
            Ok(Bytes::from_static(b"half")),
            Err("the store is gone".into()),
        ])
        .boxed()
    });
    let repository = repository(&server.host(), Credentials::anonymous());
    let error = repository.push_blob(&blob, &|_| {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Source);
    assert_eq!(
        std::error::Error::source(&error).unwrap().to_string(),
        "the store is gone"
    );
    assert_eq!((server.count("POST", ""), server.count("PUT", "")), (1, 0));
}

#[tokio::test]
async fn other_bytes_than_declared_are_an_error_even_where_the_registry_takes_them() {
    let server = Server::start(|seen, _| fine(seen)).await;
    let blob = source(&noise(SIZE, 10), SIZE).with_digest(digest(b"others"));
    let repository = repository(&server.host(), Credentials::anonymous());
    let error = repository.push_blob(&blob, &|_| {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DigestMismatch);
}

#[tokio::test]
async fn a_refused_mount_becomes_an_upload() {
    let data = noise(1000, 11);
    for (status, sessions) in [(202, 1), (403, 2), (405, 2)] {
        let server = Server::start(move |seen, _| {
            if seen.is("POST", "mount=") && status != 202 {
                Reply::status(status)
            } else {
                fine(seen)
            }
        })
        .await;
        let blob = source(&data, 1000)
            .with_digest(digest(&data))
            .with_mount_from("team/base");
        let repository = repository(&server.host(), Credentials::anonymous());
        repository.push_blob(&blob, &|_| {}).await.unwrap();
        assert_eq!(
            server.count("POST", ""),
            sessions,
            "an opened session is used, not left behind"
        );
        assert_eq!(server.count("POST", "from=team%2Fbase"), 1);
        assert_eq!(server.count("PUT", ""), 1);
    }
}

#[tokio::test]
async fn a_missing_location_is_an_error() {
    let server = Server::start(|seen, _| match seen.method.as_str() {
        "POST" => Reply::status(202),
        _ => fine(seen),
    })
    .await;
    let repository = repository(&server.host(), Credentials::anonymous());
    let error = repository
        .push_blob(&source(&noise(9, 1), 9), &|_| {})
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
}
