//! Registries that take bytes in their own way only.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::StreamExt as _;
use modelship_registry::{
    Blob, Credentials, ErrorKind, Event, Profile, RegistryOptions, Repository, Resume, Strategy,
};

use crate::images::{Events, digest, noise, options, repository, source};
use crate::server::{Reply, Seen, Server};

const SIZE: usize = 3 << 20;
const CHUNK: usize = 1 << 20;
const SESSION: &str = "/v2/team/app/blobs/uploads/s1";

fn fine(seen: &Seen) -> Reply {
    match seen.method.as_str() {
        "POST" | "PATCH" => Reply::located(202, SESSION),
        "PUT" => Reply::status(201),
        "DELETE" => Reply::status(204),
        _ => Reply::status(404),
    }
}

fn earlier(before: &[Seen], method: &str) -> usize {
    before.iter().filter(|seen| seen.method == method).count()
}

/// Options with a profile that begins with one stream and goes on with chunks of 1 MiB.
fn small_chunks() -> RegistryOptions {
    let mut profile = Profile::distribution();
    profile.chunk_size = Some(CHUNK as u64);
    profile.put_max = 0;
    let mut options = options();
    options.profile = Some(profile);
    options
}

fn with(host: &str, options: RegistryOptions) -> Repository {
    let name = format!("{host}/team/app");
    Repository::new(&name, Credentials::anonymous(), options).unwrap()
}

/// The bytes of the requests that were answered, in order.
fn body(server: &Server, method: &str) -> Vec<u8> {
    let seen = server.seen();
    let of = seen.iter().filter(|seen| seen.method == method);
    of.flat_map(|seen| seen.body.clone()).collect()
}

fn downgrades(events: &Events) -> Vec<String> {
    let to = |event| match event {
        Event::Downgraded { to, .. } => Some(to),
        _ => None,
    };
    events.all().into_iter().filter_map(to).collect()
}

#[tokio::test]
async fn a_blob_beyond_the_registrys_limit_is_refused_before_anything_happens() {
    let server = Server::start(|seen, _| fine(seen)).await;
    let mut options = options();
    options.profile = Some(Profile::ghcr());
    let opened = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&opened);
    let blob = Blob::new("x/y", 10_000_000_001, move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        futures::stream::empty().boxed()
    });
    let repository = with(&server.host(), options);
    let error = repository.push_blob(&blob, &|_| {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("10000000000"), "{error}");
    assert!(error.hint().is_some());
    assert_eq!(
        (server.seen().len(), opened.load(Ordering::Relaxed)),
        (0, 0)
    );
}

#[tokio::test]
async fn what_is_refused_as_one_stream_goes_in_chunks() {
    // 413 and 416 say that it is too long; 400 that a PATCH without a range is not understood.
    for status in [413, 416, 400] {
        let server = Server::start(move |seen, _| match seen.method.as_str() {
            "PATCH" if seen.header("content-range").is_none() => Reply::status(status),
            _ => fine(seen),
        })
        .await;
        let data = noise(SIZE, 1);
        let events = Events::default();
        let repository = with(&server.host(), small_chunks());
        let blob = source(&data, SIZE);
        let pushed = repository.push_blob(&blob, &events.sink()).await.unwrap();
        assert_eq!(pushed.digest(), &digest(&data));
        assert_eq!(downgrades(&events), ["chunks of 1048576 bytes"]);
        assert_eq!(server.count("DELETE", ""), 1, "the first session is ended");
        let before = server.seen().len();

        let other = noise(SIZE, 2);
        let blob = source(&other, SIZE);
        repository.push_blob(&blob, &|_| {}).await.unwrap();
        let methods: Vec<String> = server.seen()[before..]
            .iter()
            .map(|seen| seen.method.clone())
            .collect();
        let learned = ["POST", "PATCH", "PATCH", "PATCH", "PUT"];
        assert_eq!(methods, learned, "the next blob begins with chunks");
        assert!(body(&server, "PATCH").ends_with(&other));
    }
}

#[tokio::test]
async fn a_registry_without_patch_gets_one_put() {
    for status in [405, 501] {
        let server = Server::start(move |seen, _| match seen.method.as_str() {
            "PATCH" => Reply::status(status),
            _ => fine(seen),
        })
        .await;
        let data = noise(SIZE, 3);
        let repository = repository(&server.host(), Credentials::anonymous());
        let events = Events::default();
        repository
            .push_blob(&source(&data, SIZE), &events.sink())
            .await
            .unwrap();
        assert_eq!(downgrades(&events), ["one PUT"]);
        assert_eq!(body(&server, "PUT"), data);
        assert_eq!(server.count("PUT", digest(&data).digest()), 1);
    }
}

#[tokio::test]
async fn a_monolithic_profile_reads_twice_and_sends_once() {
    let server = Server::start(|seen, _| fine(seen)).await;
    let mut options = small_chunks();
    if let Some(profile) = &mut options.profile {
        profile.strategy = Strategy::Monolithic;
    }
    let data = noise(SIZE, 4);
    with(&server.host(), options)
        .push_blob(&source(&data, SIZE), &|_| {})
        .await
        .unwrap();
    assert_eq!(
        (server.count("PATCH", ""), body(&server, "PUT")),
        (0, data.to_vec())
    );
}

#[tokio::test]
async fn a_least_chunk_is_kept_and_a_hostile_one_refused() {
    for (least, chunks) in [(1_500_000u64, Some(3)), (1 << 40, None), (0, Some(4))] {
        let server = Server::start(move |seen, _| match seen.method.as_str() {
            "POST" => Reply::Answer(
                202,
                vec![
                    ("Location", SESSION.to_owned()),
                    ("OCI-Chunk-Min-Length", least.to_string()),
                ],
                Vec::new(),
            ),
            _ => fine(seen),
        })
        .await;
        let data = noise(4 << 20, 5);
        let mut options = options();
        options.chunk_size = Some(CHUNK as u64);
        let pushed = with(&server.host(), options)
            .push_blob(&source(&data, data.len()), &|_| {})
            .await;
        if let Some(chunks) = chunks {
            assert_eq!(pushed.unwrap().digest(), &digest(&data));
            assert_eq!(server.count("PATCH", ""), chunks);
            assert_eq!(body(&server, "PATCH"), data);
        } else {
            assert_eq!(pushed.unwrap_err().kind(), ErrorKind::Protocol);
            assert_eq!(server.count("PATCH", ""), 0);
        }
        // One stream is longer than any least chunk.
        let repository = repository(&server.host(), Credentials::anonymous());
        let blob = source(&data, data.len());
        repository.push_blob(&blob, &|_| {}).await.unwrap();
    }
}

#[tokio::test]
async fn requests_that_break_again_and_again_become_smaller() {
    let server = Server::start(|seen, _| {
        let length: usize = seen
            .header("content-length")
            .map_or(0, |text| text.parse().unwrap());
        match seen.method.as_str() {
            "PATCH" if length > CHUNK => Reply::CutAfter(CHUNK + 1),
            _ => fine(seen),
        }
    })
    .await;
    let data = noise(SIZE, 6);
    let events = Events::default();
    with(&server.host(), small_chunks())
        .push_blob(&source(&data, SIZE), &events.sink())
        .await
        .unwrap();
    assert_eq!(downgrades(&events), ["chunks of 1048576 bytes"]);
    assert!(body(&server, "PATCH").ends_with(&data));
    assert_eq!(events.retries(), 2);
}

#[tokio::test]
async fn a_redirected_stream_is_sent_again_there_without_credentials() {
    let elsewhere = Server::start(|seen, _| fine(seen)).await;
    let target = elsewhere.url("/store/9?sig=secret");
    let server = Server::start(move |seen, _| match seen.header("authorization") {
        None => Reply::Answer(
            401,
            vec![("WWW-Authenticate", "Basic realm=\"r\"".to_owned())],
            Vec::new(),
        ),
        Some(_) if seen.method == "PATCH" => Reply::located(307, target.clone()),
        Some(_) => fine(seen),
    })
    .await;
    let data = noise(SIZE, 7);
    let repository = repository(&server.host(), Credentials::basic("me", "hunter2"));
    let blob = source(&data, SIZE);
    // The session's later address is elsewhere too, since the answer names it there.
    repository.push_blob(&blob, &|_| {}).await.unwrap();
    assert_eq!(body(&elsewhere, "PATCH"), data);
    assert_eq!(elsewhere.seen()[0].target, "/store/9?sig=secret");
    let unsigned = |seen: &Seen| seen.header("authorization").is_none();
    assert!(elsewhere.seen().iter().all(unsigned));
}

#[tokio::test]
async fn a_commit_that_is_put_off_is_sent_again_and_no_byte_with_it() {
    let server = Server::start(|seen, before| match seen.method.as_str() {
        "PUT" if earlier(before, "PUT") == 0 => Reply::Lose,
        "PUT" if earlier(before, "PUT") < 3 => {
            Reply::Answer(503, vec![("Retry-After", "0".to_owned())], Vec::new())
        }
        _ => fine(seen),
    })
    .await;
    let data = noise(SIZE, 8);
    let repository = repository(&server.host(), Credentials::anonymous());
    let blob = source(&data, SIZE);
    repository.push_blob(&blob, &|_| {}).await.unwrap();
    let counts = (server.count("PATCH", ""), server.count("PUT", ""));
    assert_eq!((counts, server.count("POST", "")), ((1, 4), 1));
}

#[tokio::test]
async fn where_the_status_is_stale_the_last_answered_chunk_counts() {
    let server = Server::start(|seen, before| match seen.method.as_str() {
        "PATCH" if earlier(before, "PATCH") == 1 => Reply::CutAfter(1000),
        "PATCH" => Reply::located(201, SESSION),
        "GET" => Reply::Answer(204, vec![("Range", "0-9".to_owned())], Vec::new()),
        _ => fine(seen),
    })
    .await;
    let data = noise(SIZE, 9);
    let mut options = small_chunks();
    options.chunk_size = Some(CHUNK as u64);
    if let Some(profile) = &mut options.profile {
        profile.resume = Resume::Acknowledged;
    }
    let events = Events::default();
    with(&server.host(), options)
        .push_blob(&source(&data, SIZE), &events.sink())
        .await
        .unwrap();
    let counts = (server.count("GET", ""), server.count("POST", ""));
    assert_eq!(counts, (0, 1));
    let ranges: Vec<String> = server
        .seen()
        .iter()
        .filter_map(|seen| seen.header("content-range").map(str::to_owned))
        .collect();
    let second = "1048576-2097151";
    assert_eq!(ranges, ["0-1048575", second, second, "2097152-3145727"]);
    let resumed = Event::Resumed {
        blob: 0,
        offset: CHUNK as u64,
    };
    assert!(events.all().contains(&resumed));
}

fn digest_invalid() -> Reply {
    let body = br#"{"errors":[{"code":"DIGEST_INVALID","message":"no"}]}"#;
    Reply::Answer(400, Vec::new(), body.to_vec())
}

#[tokio::test]
async fn bytes_that_the_registry_finds_wrong_are_sent_anew_once() {
    for failures in [1, usize::MAX] {
        let server = Server::start(move |seen, before| match seen.method.as_str() {
            "PUT" if earlier(before, "PUT") < failures => digest_invalid(),
            _ => fine(seen),
        })
        .await;
        let data = noise(SIZE, 10);
        let repository = repository(&server.host(), Credentials::anonymous());
        let pushed = repository.push_blob(&source(&data, SIZE), &|_| {}).await;
        assert_eq!(server.count("PUT", ""), 2);
        match failures {
            1 => assert_eq!(pushed.unwrap().digest(), &digest(&data)),
            _ => assert_eq!(pushed.unwrap_err().kind(), ErrorKind::DigestMismatch),
        }
    }
}

#[tokio::test]
async fn a_source_that_changes_between_two_tries_is_never_mixed() {
    // The registry keeps the session, so that the second try begins in the middle.
    let data = [noise(SIZE, 11), noise(SIZE, 12)];
    let opened = Arc::new(AtomicUsize::new(0));
    let (count, both) = (Arc::clone(&opened), data.clone());
    let blob = Blob::new("x/y", SIZE as u64, move |from| {
        let which = count.fetch_add(1, Ordering::Relaxed).min(1);
        let rest = both[which].slice(usize::try_from(from).unwrap()..);
        let pieces: Vec<_> = rest.chunks(64 << 10).map(Bytes::copy_from_slice).collect();
        futures::stream::iter(pieces.into_iter().map(Ok)).boxed()
    });
    let server = Server::start(|seen, before| match seen.method.as_str() {
        "PATCH" if earlier(before, "PATCH") == 0 => Reply::CutAfter(CHUNK),
        "GET" => Reply::Answer(204, vec![("Range", "0-1048575".to_owned())], Vec::new()),
        // As a registry does that hashes what it got.
        "PUT" => {
            let parts = before.iter().rev().take_while(|seen| seen.method != "POST");
            let mut parts: Vec<&Seen> = parts.filter(|seen| seen.method == "PATCH").collect();
            parts.reverse();
            let got: Vec<u8> = parts.iter().flat_map(|seen| seen.body.clone()).collect();
            if seen.target.contains(digest(&got).digest()) {
                Reply::status(201)
            } else {
                digest_invalid()
            }
        }
        _ => fine(seen),
    })
    .await;
    let repository = repository(&server.host(), Credentials::anonymous());
    let pushed = repository.push_blob(&blob, &|_| {}).await.unwrap();
    let whole = data.iter().any(|data| digest(data) == *pushed.digest());
    assert!(whole, "one version or the other");
}
