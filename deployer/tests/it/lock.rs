//! One release at a time.

use std::time::{Duration, SystemTime};

use modelship_deployer::{Deployer, ErrorKind, Event};

use crate::world::{APP, World, app, record};

/// Begins a release that never ends, for want of controllers, and drops it once it has applied.
async fn begin(deployer: &Deployer, meanwhile: impl Future<Output = ()>) {
    let applied = tokio::sync::Notify::new();
    let sink = |event| {
        if matches!(event, Event::Progress(_)) {
            applied.notify_one();
        }
    };
    let (spec, key) = (app('1'), record("1"));
    tokio::select! {
        outcome = deployer.release(&spec, &key, &sink) => panic!("{outcome:?}"),
        () = async { applied.notified().await; meanwhile.await } => {}
    }
}

#[tokio::test]
async fn a_second_release_learns_who_holds_the_lock_and_a_dropped_one_gives_it_back() {
    let Some(world) = World::api_only("lock-held").await else {
        return;
    };
    let first = world.deployer().await.with_holder("run 1");
    let second = world.deployer().await.with_holder("run 2");
    begin(&first, async {
        let error = second
            .release(&app('2'), &record("2"), &|_| {})
            .await
            .expect_err("locked");
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains("run 1"), "{error}");
        assert!(error.hint().is_some());
    })
    .await;
    while !world.list("coordination.k8s.io/v1/leases").await.is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    begin(&second, async {}).await;
}

#[tokio::test]
async fn the_lock_of_a_dead_holder_is_taken_over_when_it_has_run_out() {
    let Some(world) = World::api_only("lock-dead").await else {
        return;
    };
    let lease = |age: u64| {
        let renewed = SystemTime::now() - Duration::from_secs(age);
        let renewed = chrono::DateTime::<chrono::Utc>::from(renewed)
            .to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
        serde_json::json!({
            "metadata": { "name": "digits-release" },
            "spec": { "holderIdentity": "dead", "leaseDurationSeconds": 60, "renewTime": renewed },
        })
    };
    let leases = world.path("coordination.k8s.io/v1/leases");
    world
        .cluster
        .api()
        .create(&leases, &lease(50))
        .await
        .expect("created");
    let deployer = world.deployer().await.with_holder("heir");
    let error = deployer.rollback(APP, &|_| {}).await.expect_err("not yet");
    assert_eq!(error.kind(), ErrorKind::Conflict);

    // The clock is the caller's: eleven seconds later the lease has run out.
    let later = deployer.with_clock(|| SystemTime::now() + Duration::from_secs(11));
    let error = later
        .rollback(APP, &|_| {})
        .await
        .expect_err("there is no history");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert!(world.list("coordination.k8s.io/v1/leases").await.is_empty());
}
