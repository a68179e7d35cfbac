//! Downloads that break half-way, lie, or are sent elsewhere.

use bytes::Bytes;
use futures::TryStreamExt as _;
use modelship_registry::{
    BoxError, Credentials, Descriptor, Error, ErrorKind, MediaType, Repository,
};

use modelship_testkit::fault_proxy::{Fault, Kind, Plan, What};
use modelship_testkit::{DockerRegistry, FaultProxy, need};

use crate::images::{digest, noise, repository, source};
use crate::server::{Reply, Server};

fn descriptor(data: &[u8]) -> Descriptor {
    Descriptor::new(MediaType::ImageLayer, data.len() as u64, digest(data))
}

async fn read(
    repository: &Repository,
    descriptor: &Descriptor,
    from: u64,
) -> Result<Vec<u8>, BoxError> {
    let parts: Vec<Bytes> = repository.blob(descriptor, from).try_collect().await?;
    Ok(parts.concat())
}

fn kind(error: &BoxError) -> ErrorKind {
    error.downcast_ref::<Error>().unwrap().kind()
}

#[tokio::test]
async fn a_broken_download_goes_on_by_range() {
    let data = noise(200_000, 1);
    let served = data.clone();
    let server = Server::start(move |seen, _| match seen.header("range") {
        _ if seen.method == "HEAD" => Reply::status(200),
        None => Reply::Truncate(200, Vec::new(), served.len(), served[..70_000].to_vec()),
        Some(range) => {
            let from: usize = range
                .strip_prefix("bytes=")
                .unwrap()
                .trim_end_matches('-')
                .parse()
                .unwrap();
            Reply::Answer(206, Vec::new(), served[from..].to_vec())
        }
    })
    .await;
    let repository = repository(&server.host(), Credentials::anonymous());
    assert_eq!(
        read(&repository, &descriptor(&data), 0).await.unwrap(),
        data
    );
    assert_eq!(
        read(&repository, &descriptor(&data), 199_990)
            .await
            .unwrap(),
        data[199_990..]
    );
    let ranges: Vec<String> = server
        .seen()
        .iter()
        .filter_map(|seen| seen.header("range").map(str::to_owned))
        .collect();
    assert_eq!(ranges.len(), 2);
    assert_eq!(ranges[1], "bytes=199990-");
    assert_eq!(server.count("GET", "/v2/ "), 0);
}

#[tokio::test]
async fn a_registry_without_ranges_is_read_from_the_start() {
    let data = noise(100_000, 2);
    let served = data.to_vec();
    let server = Server::start(move |_, _| Reply::Answer(200, Vec::new(), served.clone())).await;
    let repository = repository(&server.host(), Credentials::anonymous());
    assert_eq!(
        read(&repository, &descriptor(&data), 99_000).await.unwrap(),
        data[99_000..]
    );
}

#[tokio::test]
async fn wrong_bytes_and_wrong_lengths_are_errors() {
    let data = noise(5000, 3);
    let mut wrong = data.to_vec();
    wrong[77] ^= 1;
    let long = [&data[..], b"x"].concat();
    for (served, expected) in [
        (wrong, ErrorKind::DigestMismatch),
        (long, ErrorKind::SizeMismatch),
    ] {
        let server =
            Server::start(move |_, _| Reply::Answer(200, Vec::new(), served.clone())).await;
        let repository = repository(&server.host(), Credentials::anonymous());
        let error = read(&repository, &descriptor(&data), 0).await.unwrap_err();
        assert_eq!(kind(&error), expected, "{error:?}");
    }
    let server = Server::start(|_, _| Reply::status(404)).await;
    let repository = repository(&server.host(), Credentials::anonymous());
    assert_eq!(
        kind(&read(&repository, &descriptor(&data), 0).await.unwrap_err()),
        ErrorKind::NotFound
    );
}

#[tokio::test]
async fn a_redirect_elsewhere_gets_no_credentials() {
    let data = noise(5000, 4);
    let served = data.to_vec();
    let elsewhere = Server::start(move |_, _| Reply::Answer(200, Vec::new(), served.clone())).await;
    let target = elsewhere.url("/store?sig=secret");
    let server = Server::start(move |seen, _| match seen.header("authorization") {
        None => Reply::Answer(
            401,
            vec![("WWW-Authenticate", "Basic realm=\"r\"".to_owned())],
            Vec::new(),
        ),
        Some(_) => Reply::located(307, target.clone()),
    })
    .await;
    let repository = repository(&server.host(), Credentials::basic("me", "hunter2"));
    assert_eq!(
        read(&repository, &descriptor(&data), 0).await.unwrap(),
        data
    );
    assert!(!elsewhere.seen().is_empty());
    assert!(
        elsewhere
            .seen()
            .iter()
            .all(|seen| seen.header("authorization").is_none())
    );
}

#[tokio::test]
async fn errors_do_not_show_signed_urls() {
    let target = format!(
        "http://127.0.0.1:{}/store?sig=hunter2",
        modelship_testkit::free_port()
    );
    let server = Server::start(move |_, _| Reply::located(307, target.clone())).await;
    let repository = repository(&server.host(), Credentials::anonymous());
    let error = read(&repository, &descriptor(b"x"), 0).await.unwrap_err();
    assert_eq!(kind(&error), ErrorKind::Unreachable);
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_manifest_is_what_its_digest_says() {
    let body = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}"#;
    let server = Server::start(move |seen, _| match seen.target.as_str() {
        "/v2/team/app/manifests/lying" => Reply::Answer(
            200,
            vec![("Docker-Content-Digest", digest(b"other").to_string())],
            body.to_vec(),
        ),
        "/v2/team/app/manifests/silent" => Reply::Answer(200, Vec::new(), body.to_vec()),
        "/v2/team/app/manifests/huge" => Reply::Answer(200, Vec::new(), vec![b' '; (4 << 20) + 1]),
        _ => Reply::Answer(200, Vec::new(), b"{}".to_vec()),
    })
    .await;
    let repository = repository(&server.host(), Credentials::anonymous());
    let error = repository.manifest("lying").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DigestMismatch);
    let error = repository
        .manifest(digest(body).as_ref())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DigestMismatch);
    assert_eq!(
        repository.manifest("huge").await.unwrap_err().kind(),
        ErrorKind::Protocol
    );
    // Without the header a HEAD tells nothing, and the bytes are read.
    let pinned = repository.resolve("silent").await.unwrap().unwrap();
    assert_eq!(pinned.digest(), &digest(body));
    assert_eq!(
        repository.resolve("../../x").await.unwrap_err().kind(),
        ErrorKind::Invalid
    );
}

#[tokio::test]
async fn tags_are_read_page_by_page() {
    let server = Server::start(|seen, _| {
        if seen.target.contains("last=") {
            Reply::Answer(
                200,
                Vec::new(),
                br#"{"name":"team/app","tags":["c"]}"#.to_vec(),
            )
        } else {
            let link = "</v2/team/app/tags/list?n=2&last=b>; rel=\"next\"".to_owned();
            Reply::Answer(
                200,
                vec![("Link", link)],
                br#"{"name":"team/app","tags":["a","b"]}"#.to_vec(),
            )
        }
    })
    .await;
    let repository = repository(&server.host(), Credentials::anonymous());
    assert_eq!(repository.tags().await.unwrap(), ["a", "b", "c"]);
}

#[tokio::test]
async fn a_real_registry_behind_a_breaking_connection_is_read_to_the_end() {
    let Some(registry) = need(DockerRegistry::open().await) else {
        return;
    };
    let data = noise(2_000_000, 9);
    let direct = repository(&registry.host(), Credentials::anonymous());
    direct
        .push_blob(&source(&data, data.len()), &|_| {})
        .await
        .unwrap();
    let cuts = [1, 70_001, 300_000, 512, 999_999];
    let faults = (1..)
        .zip(cuts)
        .map(|(nth, bytes)| Fault::new(Kind::GetBlob, What::TruncateAnswer(bytes)).nth(nth));
    let Some(proxy) = need(FaultProxy::start(&registry.url(), Plan::of(faults)).await) else {
        return;
    };
    let through = repository(&proxy.host(), Credentials::anonymous());
    assert_eq!(read(&through, &descriptor(&data), 0).await.unwrap(), data);
    let ranges: Vec<Option<String>> = proxy
        .exchanges_of(Kind::GetBlob)
        .iter()
        .map(|exchange| exchange.header("range").map(str::to_owned))
        .collect();
    assert_eq!(ranges.len(), cuts.len() + 1);
    assert_eq!(ranges[0], None);
    // No byte is asked for twice.
    let mut at = 0;
    for (range, cut) in ranges[1..].iter().zip(cuts) {
        at += cut;
        assert_eq!(range.as_deref(), Some(&*format!("bytes={at}-")));
    }
    assert!(proxy.violations().is_empty(), "{:?}", proxy.violations());
}

#[tokio::test]
async fn a_changed_byte_and_a_stray_redirect_are_seen_on_a_real_registry() {
    let Some(registry) = need(DockerRegistry::open().await) else {
        return;
    };
    let data = noise(100_000, 11);
    let direct = repository(&registry.host(), Credentials::anonymous());
    direct
        .push_blob(&source(&data, data.len()), &|_| {})
        .await
        .unwrap();
    let plan = Plan::of([
        Fault::new(Kind::GetBlob, What::CorruptAnswer(50_000)),
        Fault::new(Kind::GetBlob, What::Redirect { foreign: true }).nth(2),
    ]);
    let Some(proxy) = need(FaultProxy::start(&registry.url(), plan).await) else {
        return;
    };
    let through = repository(&proxy.host(), Credentials::basic("me", "hunter2"));
    let error = read(&through, &descriptor(&data), 0).await.unwrap_err();
    assert_eq!(kind(&error), ErrorKind::DigestMismatch);
    assert_eq!(read(&through, &descriptor(&data), 0).await.unwrap(), data);
    let foreign = proxy.exchanges();
    let foreign: Vec<_> = foreign.iter().filter(|seen| seen.host == 1).collect();
    assert_eq!(foreign.len(), 1);
    assert_eq!(foreign[0].header("authorization"), None);
}

#[tokio::test]
async fn a_part_that_begins_elsewhere_is_refused() {
    let data = noise(1000, 5);
    for (range, expected) in [
        ("bytes 600-999/1000", Some(ErrorKind::Protocol)),
        ("bytes 500-999/1000", None),
        // More than was asked for: what comes before is dropped.
        ("bytes 400-999/1000", None),
    ] {
        let from: usize = range[6..9].parse().unwrap();
        let served = data[from..].to_vec();
        let server = Server::start(move |_, _| {
            let headers = vec![("Content-Range", range.to_owned())];
            Reply::Answer(206, headers, served.clone())
        })
        .await;
        let repository = repository(&server.host(), Credentials::anonymous());
        let found = read(&repository, &descriptor(&data), 500).await;
        assert_eq!(found.as_ref().err().map(kind), expected, "{range}");
        assert!(found.is_err() || found.unwrap() == data[500..], "{range}");
    }
}

#[tokio::test]
async fn a_throttled_download_waits_as_asked_and_goes_on() {
    let data = noise(1000, 6);
    let served = data.to_vec();
    let server = Server::start(move |_, before| match before.len() {
        0 => Reply::Answer(429, vec![("Retry-After", "0".to_owned())], Vec::new()),
        1 => Reply::status(503),
        _ => Reply::Answer(200, Vec::new(), served.clone()),
    })
    .await;
    let repository_ = repository(&server.host(), Credentials::anonymous());
    assert_eq!(
        read(&repository_, &descriptor(&data), 0).await.unwrap(),
        data
    );
    let server = Server::start(|_, _| {
        Reply::Answer(429, vec![("Retry-After", "3600".to_owned())], Vec::new())
    })
    .await;
    let repository = repository(&server.host(), Credentials::anonymous());
    let error = read(&repository, &descriptor(&data), 0).await.unwrap_err();
    assert_eq!(kind(&error), ErrorKind::Throttled);
    assert_eq!(server.seen().len(), 1);
}
