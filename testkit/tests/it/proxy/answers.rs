//! Faults of answers: what the client is told.

use modelship_testkit::fault_proxy::{Fault, Kind, Plan, What};

use super::{Bench, digest, location};

#[tokio::test]
async fn locations_take_every_form() {
    let plan = Plan::of([
        Fault::new(Kind::OpenSession, What::RelativeLocation),
        Fault::new(Kind::OpenSession, What::BareLocation).nth(2),
        Fault::new(Kind::OpenSession, What::MissingLocation).nth(3),
        Fault::new(Kind::OpenSession, What::AbsoluteLocation).nth(4),
        Fault::new(Kind::OpenSession, What::ForeignLocation).nth(5),
    ]);
    let Some(bench) = Bench::new(plan).await else {
        return;
    };
    let mut places = Vec::new();
    for _ in 0..5 {
        let answer = bench.send("POST", "/v2/a/blobs/uploads/", &[], Vec::new());
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), 202);
        let place = answer.headers().get("location");
        places.push(place.map_or("", |place| place.to_str().unwrap()).to_owned());
    }
    assert!(places[0].starts_with("/v2/a/blobs/uploads/"), "{places:?}");
    assert!(!places[1].contains('/') && places[1].contains("?_state="));
    assert_eq!(places[2], "");
    let url = |host| format!("http://{host}/v2/a/blobs/uploads/");
    assert!(places[3].starts_with(&url(bench.proxy.host())));
    assert!(places[4].starts_with(&url(bench.proxy.foreign_host())));
    assert_eq!(bench.applied().len(), 5);
    // The session on the other host is the registry's, and goes on there.
    let answer = bench.patch(&places[4], b"blob").await.unwrap();
    assert_eq!(answer.status(), 202);
    let place = location(&answer);
    assert!(place.starts_with(&url(bench.proxy.foreign_host())));
    let answer = bench.commit(&place, &digest(b"blob")).await.unwrap();
    assert_eq!(answer.status(), 201);
    let foreign = bench.proxy.exchanges().into_iter();
    assert_eq!(foreign.filter(|exchange| exchange.host == 1).count(), 2);
}

#[tokio::test]
async fn ranges_and_statuses_are_shown_as_vendors_do() {
    let plan = Plan::of([
        Fault::new(Kind::Patch, What::StaleRange(3)),
        Fault::new(Kind::Patch, What::CreatedOnPatch),
        Fault::new(Kind::Status, What::StaleRange(100)),
    ]);
    let Some(bench) = Bench::new(plan).await else {
        return;
    };
    let answer = bench.patch(&bench.open().await, &[7; 10]).await.unwrap();
    assert_eq!(answer.status(), 201);
    assert_eq!(answer.headers()["range"], "0-6");
    let place = location(&answer);
    for range in ["0-0", "0-9"] {
        let answer = bench.send("GET", &place, &[], Vec::new()).await.unwrap();
        assert_eq!(answer.status(), 204);
        assert_eq!(answer.headers()["range"], range);
    }
}

#[tokio::test]
async fn a_redirect_leads_to_the_same_session() {
    let away = What::Redirect { foreign: true };
    let Some(bench) = Bench::one(Kind::Patch, away).await else {
        return;
    };
    let answer = bench.patch(&bench.open().await, b"blob").await.unwrap();
    assert_eq!(answer.status(), 307);
    let place = location(&answer);
    assert!(place.contains(&bench.proxy.foreign_host()));
    let answer = bench.patch(&place, b"blob").await.unwrap();
    assert_eq!(answer.status(), 202);
}

#[tokio::test]
async fn a_refused_mount_opens_a_session_and_referrers_can_be_missing() {
    let plan = Plan::of([
        Fault::new(Kind::Mount, What::MountRefused),
        Fault::new(Kind::Referrers, What::NoReferrers).every(),
    ]);
    let Some(bench) = Bench::new(plan).await else {
        return;
    };
    let digest = bench.push(b"blob").await;
    let mount = format!("/v2/b/blobs/uploads/?mount={digest}&from=a");
    let refused = bench.send("POST", &mount, &[], Vec::new()).await.unwrap();
    assert_eq!(refused.status(), 202);
    assert!(location(&refused).contains("/v2/b/blobs/uploads/"));
    let made = bench.send("POST", &mount, &[], Vec::new()).await.unwrap();
    assert_eq!(made.status(), 201);
    let referrers = format!("/v2/a/referrers/{digest}");
    let answer = bench.send("GET", &referrers, &[], Vec::new()).await;
    assert_eq!(answer.unwrap().status(), 404);
    assert_eq!(bench.applied(), [What::MountRefused, What::NoReferrers]);
}

#[tokio::test]
async fn pulled_bodies_end_too_early_or_are_changed() {
    let plan = Plan::of([
        Fault::new(Kind::GetBlob, What::TruncateAnswer(1000)),
        Fault::new(Kind::GetBlob, What::CorruptAnswer(99_999)).nth(2),
    ]);
    let Some(bench) = Bench::new(plan).await else {
        return;
    };
    let pushed = vec![7; 100_000];
    let blob = format!("/v2/a/blobs/{}", bench.push(&pushed).await);
    let get = || bench.send("GET", &blob, &[], Vec::new());
    let mut answer = get().await.unwrap();
    let mut read = 0;
    let error = loop {
        match answer.chunk().await {
            Ok(Some(data)) => read += data.len(),
            Ok(None) => break None,
            Err(error) => break Some(error),
        }
    };
    assert!(error.is_some());
    assert_eq!(read, 1000);
    let body = get().await.unwrap().bytes().await.unwrap();
    assert_eq!((body.len(), body[99_999]), (100_000, !7));
    assert_eq!(digest(&body[..99_999]), digest(&pushed[..99_999]));
    assert_eq!(get().await.unwrap().bytes().await.unwrap(), pushed);
}
