//! Faults of requests: what breaks off, is lost or is refused.

use std::time::Duration;

use modelship_testkit::fault_proxy::{Fault, Kind, On, Plan, What};

use super::{Bench, is_reset, location};

/// Larger than any buffer between client and registry.
const SIZE: usize = 20 << 20;

#[tokio::test]
async fn without_faults_all_passes_and_is_recorded() {
    let Some(bench) = Bench::new(Plan::none()).await else {
        return;
    };
    let body = vec![7; SIZE];
    let digest = bench.push(&body).await;
    let blob = format!("/v2/a/blobs/{digest}");
    let answer = bench.send("GET", &blob, &[], Vec::new()).await.unwrap();
    assert_eq!(answer.bytes().await.unwrap(), body);
    let answer = bench.send("HEAD", &blob, &[], Vec::new()).await.unwrap();
    assert_eq!(answer.headers()["content-length"], SIZE.to_string());
    let seen = bench.proxy.exchanges();
    let seen: Vec<_> = seen
        .iter()
        .map(|exchange| (exchange.kind, exchange.body_bytes, exchange.status))
        .collect();
    assert_eq!(
        seen,
        [
            (Kind::OpenSession, 0, Some(202)),
            (Kind::Patch, SIZE as u64, Some(202)),
            (Kind::Commit, 0, Some(201)),
            (Kind::GetBlob, 0, Some(200)),
            (Kind::HeadBlob, 0, Some(200)),
        ]
    );
    assert_eq!(bench.proxy.body_bytes(), SIZE as u64);
    assert_eq!(bench.applied(), []);
}

#[tokio::test]
async fn chunked_bodies_arrive_whole() {
    let Some(bench) = Bench::new(Plan::none()).await else {
        return;
    };
    let pieces = (0..100).map(|_| Ok::<_, std::io::Error>(vec![7_u8; 1234]));
    let body = reqwest::Body::wrap_stream(futures::stream::iter(pieces));
    let request = bench.client.patch(bench.open().await).body(body);
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 202);
    assert_eq!(answer.headers()["range"], "0-123399");
    assert_eq!(bench.proxy.body_bytes(), 123_400);
    let seen = &bench.proxy.exchanges_of(Kind::Patch)[0];
    assert_eq!(seen.header("Transfer-Encoding"), Some("chunked"));
}

#[tokio::test]
async fn a_reset_strikes_at_its_byte_and_the_registry_sees_what_came_before() {
    let at = 3_000_001;
    let what = What::ResetAfter(at);
    let Some(bench) = Bench::one(On::UploadBody, what.clone()).await else {
        return;
    };
    let start = bench.open().await;
    let error = bench.patch(&start, &vec![7; SIZE]).await.unwrap_err();
    assert!(is_reset(&error) || error.is_request(), "{error:?}");
    assert_eq!(bench.proxy.body_bytes(), at);
    let applied = bench.proxy.applied();
    assert_eq!(applied.len(), 1);
    assert_eq!((&applied[0].what, applied[0].request_bytes), (&what, at));
    assert_eq!(applied[0].session_bytes, at);
    assert_eq!(bench.proxy.exchanges()[1].status, None);
    // The next one passes.
    bench.push(b"again").await;
}

#[tokio::test]
async fn a_body_shorter_than_the_reset_is_not_struck_and_zero_strikes_before_it() {
    let plan = Plan::of([
        Fault::new(On::UploadBody, What::ResetAfter(6)),
        Fault::new(Kind::HeadBlob, What::ResetAfter(0)),
    ]);
    let Some(bench) = Bench::new(plan).await else {
        return;
    };
    let digest = bench.push(b"short").await;
    assert_eq!(bench.applied(), []);
    let blob = format!("/v2/a/blobs/{digest}");
    let error = bench.send("HEAD", &blob, &[], Vec::new()).await;
    assert!(is_reset(&error.unwrap_err()));
    assert_eq!(bench.applied(), [What::ResetAfter(0)]);
}

#[tokio::test]
async fn a_lost_answer_leaves_the_blob_in_the_registry() {
    let Some(bench) = Bench::one(Kind::Commit, What::LoseAnswer).await else {
        return;
    };
    let digest = super::digest(b"blob");
    let place = location(&bench.patch(&bench.open().await, b"blob").await.unwrap());
    let error = bench.commit(&place, &digest).await.unwrap_err();
    assert!(is_reset(&error), "{error:?}");
    assert_eq!(bench.registry.requests("PUT", "/uploads/")[0].status, 201);
    assert_eq!(bench.applied(), [What::LoseAnswer]);
}

#[tokio::test]
async fn answers_of_the_proxy_do_not_reach_the_registry() {
    let early = What::early_status(503);
    let plan = Plan::of([
        Fault::new(Kind::Patch, What::too_many_requests(1)),
        Fault::new(Kind::Patch, early.clone()).nth(2),
        Fault::new(Kind::Patch, What::RangeNotSatisfiable).nth(3),
        Fault::new(Kind::Patch, What::Unauthorized).nth(4),
    ]);
    let Some(bench) = Bench::new(plan).await else {
        return;
    };
    let start = bench.open().await;
    let answer = bench.patch(&start, b"blob").await.unwrap();
    assert_eq!(answer.status(), 429);
    assert_eq!(answer.headers()["retry-after"], "1");
    assert!(answer.text().await.unwrap().contains("TOOMANYREQUESTS"));
    let answer = bench.patch(&start, &vec![7; 100_000]).await.unwrap();
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.headers()["connection"], "close");
    assert_eq!(bench.patch(&start, b"blob").await.unwrap().status(), 416);
    let answer = bench.patch(&start, b"blob").await.unwrap();
    assert_eq!(answer.status(), 401);
    assert_eq!(
        answer.headers()["www-authenticate"],
        "Basic realm=\"testkit\""
    );
    assert_eq!(bench.registry.requests("PATCH", ""), []);
    assert_eq!(bench.applied().len(), 4);
    assert_eq!(bench.patch(&start, b"blob").await.unwrap().status(), 202);
}

#[tokio::test]
async fn a_stalled_request_is_reset_in_the_end() {
    let what = What::StallAfter {
        bytes: 10,
        time: Duration::from_millis(100),
    };
    let Some(bench) = Bench::one(Kind::Patch, what.clone()).await else {
        return;
    };
    let start = bench.open().await;
    assert!(bench.patch(&start, &[7; 100]).await.is_err());
    assert_eq!(bench.applied(), [what]);
    assert_eq!(bench.proxy.body_bytes(), 10);
}

#[tokio::test]
async fn a_cap_refuses_long_bodies_and_a_minimum_refuses_what_follows_a_small_chunk() {
    let cap = What::BodyCap {
        max: 10,
        status: 413,
    };
    let plan = Plan::of([
        Fault::new(On::UploadBody, cap.clone()).every(),
        Fault::new(On::Any, What::MinChunk(5)).every(),
    ]);
    let Some(bench) = Bench::new(plan).await else {
        return;
    };
    let opened = bench.send("POST", "/v2/a/blobs/uploads/", &[], Vec::new());
    let opened = opened.await.unwrap();
    assert_eq!(opened.headers()["oci-chunk-min-length"], "5");
    let mut place = location(&opened);
    assert_eq!(bench.patch(&place, &[7; 11]).await.unwrap().status(), 413);
    for _ in 0..2 {
        let answer = bench.patch(&place, &[7; 5]).await.unwrap();
        assert_eq!(answer.status(), 202);
        place = location(&answer);
    }
    let answer = bench.patch(&place, &[7; 4]).await.unwrap();
    assert_eq!(answer.status(), 202, "a small chunk may be the last");
    let answer = bench.patch(&location(&answer), &[7; 5]).await.unwrap();
    assert_eq!(answer.status(), 416);
    assert_eq!(bench.applied(), [What::MinChunk(5), cap, What::MinChunk(5)]);
}

#[tokio::test]
async fn faults_count_their_own_requests() {
    let fault = |n| {
        Fault::new(Kind::HeadBlob, What::status(500))
            .nth(n)
            .times(2)
    };
    let Some(bench) = Bench::new(Plan::of([fault(2).target("/v2/b/")])).await else {
        return;
    };
    let mut seen = Vec::new();
    for name in ["b", "a", "b", "a", "b", "b"] {
        let blob = format!("/v2/{name}/blobs/{}", super::digest(b"none"));
        let answer = bench.send("HEAD", &blob, &[], Vec::new()).await.unwrap();
        seen.push(answer.status().as_u16());
    }
    assert_eq!(seen, [404, 404, 500, 404, 500, 404]);
}

#[tokio::test]
async fn a_delayed_request_passes() {
    let what = What::Delay(Duration::from_millis(10));
    let Some(bench) = Bench::one(On::Any, what.clone()).await else {
        return;
    };
    bench.push(b"blob").await;
    assert_eq!(bench.applied(), [what]);
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_a_part_and_a_proxy_that_is_dropped_leaves_nothing() {
    let Some(bench) = Bench::new(Plan::none()).await else {
        return;
    };
    let start = bench.open().await;
    let pieces = futures::stream::iter([Ok::<_, std::io::Error>(vec![7_u8; 1000])]);
    let body = futures::StreamExt::chain(pieces, futures::stream::pending());
    let request = bench.client.patch(start);
    let sent = request.body(reqwest::Body::wrap_stream(body)).send();
    let sent = tokio::spawn(sent);
    for _ in 0..1000 {
        if bench.proxy.body_bytes() == 1000 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    sent.abort();
    assert_eq!(bench.proxy.body_bytes(), 1000);
    let host = bench.proxy.host();
    drop(bench);
    for _ in 0..1000 {
        if tokio::net::TcpStream::connect(&host).await.is_err() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("{host} still answers");
}
