//! Rollouts that succeed, that fail for each cause, and what is left afterwards.

use modelship_deployer::{AppSpec, CauseKind, Event, Expose, Outcome, ReleaseState, Resources};

use crate::world::{APP, Events, World, app, record, release};

fn image(digit: char) -> String {
    app(digit).image().to_string()
}

fn is_available(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Available { .. })
}

#[tokio::test]
async fn a_release_is_rolled_out_and_an_update_replaces_it() {
    let Some(world) = World::with_node("rollout-ok").await else {
        return;
    };
    let deployer = world.deployer().await;
    let events = Events::default();
    let outcome = deployer
        .release(&app('1'), &record("1"), &events.sink())
        .await
        .expect("ends");
    let Outcome::Available {
        release: 1,
        revision: Some(1),
        image: deployed,
        ..
    } = outcome
    else {
        panic!("{outcome:?}");
    };
    assert_eq!(deployed, image('1'));
    assert!(
        events
            .all()
            .contains(&Event::Applied("deployment/digits".to_owned()))
    );

    assert!(is_available(&release(&deployer, '2').await));
    let pods = world.list("v1/pods").await;
    let running: Vec<_> = pods
        .iter()
        .filter(|pod| pod["metadata"].get("deletionTimestamp").is_none())
        .map(|pod| pod["spec"]["containers"][0]["image"].clone())
        .collect();
    assert_eq!(running, [image('2'), image('2')]);

    let status = deployer
        .status(APP)
        .await
        .expect("answers")
        .expect("exists");
    assert_eq!((status.image, status.revision), (image('2'), Some(2)));
    assert_eq!((status.replicas.desired, status.replicas.ready), (2, 2));
    assert_eq!(status.annotations["modelship.github.io/release-key"], "2");
    let last = status.last.expect("recorded");
    assert_eq!((last.number, last.state), (2, ReleaseState::Available));
    assert_eq!(last.record.commit.as_deref(), Some("0123abc"));
    let address = status.address.expect("cluster address").to_string();
    assert_eq!(address, "http://digits.rollout-ok.svc");
    assert!(deployer.status("nosuch").await.expect("answers").is_none());
}

#[tokio::test]
async fn the_same_release_again_writes_nothing() {
    let Some(world) = World::with_node("rollout-same").await else {
        return;
    };
    let deployer = world.deployer().await;
    assert!(is_available(&release(&deployer, '1').await));
    let before = world.versions().await;
    let outcome = release(&deployer, '1').await;
    assert!(
        matches!(&outcome, Outcome::Unchanged { release: 1, .. }),
        "{outcome:?}"
    );
    assert_eq!(world.versions().await, before);

    // Drift is no unchanged release: it is repaired.
    let path = format!("{}/{APP}", world.path("v1/services"));
    let drift = serde_json::json!({ "spec": { "ports": [{ "name": "http", "port": 80, "targetPort": 9 }] } });
    world
        .cluster
        .api()
        .patch(&path, &drift)
        .await
        .expect("patched");
    let taking = deployer.clone().with_take_ownership(true);
    assert!(is_available(&release(&taking, '1').await));
    let service = world.get("v1/services", APP).await.expect("exists");
    assert_eq!(service["spec"]["ports"][0]["targetPort"], "http");
}

/// Releases a good version, then `spec`, and returns why that failed.
async fn fails_and_restores(namespace: &str, spec: AppSpec) -> Option<CauseKind> {
    let world = World::with_node(namespace).await?;
    let deployer = world.deployer().await;
    assert!(is_available(&release(&deployer, '1').await));
    let old: Vec<_> = names(&world, '1').await;
    let events = Events::default();
    let outcome = deployer
        .release(&spec, &record("bad"), &events.sink())
        .await
        .expect("ends");
    let Outcome::RolledBack {
        release: 2,
        cause,
        evidence,
        to: Some(1),
        ..
    } = outcome
    else {
        panic!("{outcome:?}");
    };
    // No pod that served was touched.
    assert_eq!(names(&world, '1').await, old);
    let deployment = world.get("apps/v1/deployments", APP).await.expect("exists");
    assert_eq!(
        deployment["spec"]["template"]["spec"]["containers"][0]["image"],
        image('1').as_str()
    );
    assert_eq!(
        deployment["metadata"]["annotations"]["modelship.github.io/release-key"],
        "1"
    );
    let last = deployer
        .status(APP)
        .await
        .expect("answers")
        .expect("exists")
        .last
        .expect("recorded");
    assert_eq!(last.state, ReleaseState::RolledBack);
    assert_eq!(last.cause.as_ref(), Some(&cause));
    assert_eq!(last.evidence, Some(evidence));
    assert!(events.all().contains(&Event::RollingBack(Some(1))));
    Some(cause.kind)
}

async fn names(world: &World, digit: char) -> Vec<String> {
    let pods = world.list("v1/pods").await;
    let ours = pods
        .iter()
        .filter(|pod| pod["spec"]["containers"][0]["image"] == image(digit).as_str());
    ours.map(|pod| pod["metadata"]["name"].to_string())
        .collect()
}

#[tokio::test]
async fn an_image_that_is_not_there_is_rolled_back() {
    let Some(kind) = fails_and_restores("fail-image", app('b')).await else {
        return;
    };
    assert_eq!(kind, CauseKind::ImageNotFound);
}

#[tokio::test]
async fn a_crashing_application_is_rolled_back() {
    let Some(kind) = fails_and_restores("fail-crash", app('c')).await else {
        return;
    };
    assert_eq!(kind, CauseKind::Crash);
}

#[tokio::test]
async fn an_application_that_needs_more_memory_is_rolled_back() {
    let Some(kind) = fails_and_restores("fail-memory", app('f')).await else {
        return;
    };
    assert_eq!(kind, CauseKind::OutOfMemory);
}

#[tokio::test]
async fn an_application_that_never_gets_ready_is_rolled_back() {
    let Some(kind) = fails_and_restores("fail-ready", app('e')).await else {
        return;
    };
    assert_eq!(kind, CauseKind::NotReady);
}

#[tokio::test]
async fn pods_that_no_node_can_hold_are_rolled_back() {
    let huge = app('2').with_resources(Resources::new("1000", "16Mi", "64Mi"));
    let Some(kind) = fails_and_restores("fail-room", huge).await else {
        return;
    };
    assert_eq!(kind, CauseKind::Unschedulable);
}

#[tokio::test]
async fn pods_beyond_the_quota_are_rolled_back() {
    let Some(world) = World::with_node("fail-quota").await else {
        return;
    };
    let deployer = world.deployer().await;
    assert!(is_available(&release(&deployer, '1').await));
    let quota =
        serde_json::json!({ "metadata": { "name": "two" }, "spec": { "hard": { "pods": "2" } } });
    world
        .cluster
        .api()
        .create(&world.path("v1/resourcequotas"), &quota)
        .await
        .expect("created");
    let mut limits = crate::world::limits();
    limits.patience.rejected = std::time::Duration::from_secs(1);
    let outcome = release(&deployer.with_limits(limits), '2').await;
    let Outcome::RolledBack {
        cause,
        evidence,
        to: Some(1),
        ..
    } = outcome
    else {
        panic!("{outcome:?}");
    };
    assert_eq!(cause.kind, CauseKind::PodsRejected);
    assert!(cause.message.contains("exceeded quota"), "{cause}");
    assert!(
        evidence
            .events
            .iter()
            .any(|event| event.contains("FailedCreate")),
        "{evidence:?}"
    );
}

#[tokio::test]
async fn a_first_pull_that_is_denied_is_waited_out() {
    let Some(world) = World::with_node("rollout-denied").await else {
        return;
    };
    let events = Events::default();
    let deployer = world.deployer().await;
    let outcome = deployer
        .release(&app('d'), &record("d"), &events.sink())
        .await
        .expect("ends");
    assert!(is_available(&outcome), "{outcome:?}");
    let suspected = events.all().iter().any(
        |event| matches!(event, Event::Suspect(cause) if cause.kind == CauseKind::ImageDenied),
    );
    assert!(suspected, "{:?}", events.all());
}

#[tokio::test]
async fn a_first_release_that_fails_is_scaled_to_zero_and_the_next_one_succeeds() {
    let Some(world) = World::with_node("fail-first").await else {
        return;
    };
    let deployer = world.deployer().await;
    let outcome = release(&deployer, 'c').await;
    let Outcome::RolledBack {
        cause, to: None, ..
    } = &outcome
    else {
        panic!("{outcome:?}")
    };
    assert_eq!(cause.kind, CauseKind::Crash);
    let deployment = world.get("apps/v1/deployments", APP).await.expect("kept");
    assert_eq!(deployment["spec"]["replicas"], 0);
    assert!(world.get("v1/services", APP).await.is_some());
    assert!(is_available(&release(&deployer, '1').await));
}

#[tokio::test]
async fn a_foreign_deployment_goes_on_serving_when_taking_over_fails() {
    let Some(world) = World::with_node("fail-foreign").await else {
        return;
    };
    let labels = serde_json::json!({ "app.kubernetes.io/name": APP });
    let mut foreign = modelship_deployer::render(&app('1'), &world.namespace).expect("renders");
    let deployment = foreign.pop().expect("a deployment");
    let created = world
        .cluster
        .api()
        .create(&world.path("apps/v1/deployments"), &deployment)
        .await;
    assert_eq!(
        created.expect("created")["spec"]["selector"]["matchLabels"],
        labels
    );
    let account = &foreign[0];
    world
        .cluster
        .api()
        .create(&world.path("v1/serviceaccounts"), account)
        .await
        .expect("created");
    while world
        .list("v1/pods")
        .await
        .iter()
        .filter(|pod| pod["status"]["phase"] == "Running")
        .count()
        < 2
    {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let deployer = world.deployer().await.with_take_ownership(true);
    let outcome = release(&deployer, 'c').await;
    assert!(
        matches!(&outcome, Outcome::RollbackFailed { to: None, .. }),
        "{outcome:?}"
    );
    assert_eq!(names(&world, '1').await.len(), 2);
}

#[tokio::test]
async fn another_writer_ends_the_release_and_is_not_undone() {
    let Some(world) = World::with_node("rollout-race").await else {
        return;
    };
    let deployer = world.deployer().await;
    assert!(is_available(&release(&deployer, '1').await));
    let path = format!("{}/{APP}", world.path("apps/v1/deployments"));
    let other = serde_json::json!({ "spec": { "template": { "spec": { "containers": [
        { "name": APP, "image": image('3') }] } } } });
    let (spec, key) = (app('e'), record("e"));
    let releasing = deployer.release(&spec, &key, &|_| {});
    let changing = async {
        while world
            .get("apps/v1/deployments", APP)
            .await
            .is_some_and(|deployment| {
                deployment["spec"]["template"]["spec"]["containers"][0]["image"]
                    != image('e').as_str()
            })
        {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        world
            .cluster
            .api()
            .patch(&path, &other)
            .await
            .expect("patched");
    };
    let (outcome, ()) = tokio::join!(releasing, changing);
    let error = outcome.expect_err("somebody else took over");
    assert_eq!(
        error.kind(),
        modelship_deployer::ErrorKind::Conflict,
        "{error}"
    );
    let deployment = world.get("apps/v1/deployments", APP).await.expect("exists");
    assert_eq!(
        deployment["spec"]["template"]["spec"]["containers"][0]["image"],
        image('3').as_str()
    );
}

#[tokio::test]
async fn a_load_balancer_address_is_waited_for() {
    let Some(world) = World::with_node("address").await else {
        return;
    };
    let deployer = world.deployer().await;
    let public = app('1').with_expose(Expose::LoadBalancer {
        azure_dns_label: Some("digits-it".to_owned()),
    });
    let outcome = deployer
        .release(&public, &record("1"), &|_| {})
        .await
        .expect("ends");
    assert!(is_available(&outcome));
    let second = std::time::Duration::from_secs(1);
    let error = deployer
        .wait_for_address(APP, second)
        .await
        .expect_err("there is no cloud");
    assert_eq!(error.kind(), modelship_deployer::ErrorKind::Timeout);
    let path = format!("{}/{APP}", world.path("v1/services"));
    let status =
        serde_json::json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "192.0.2.7" }] } } });
    world
        .cluster
        .api()
        .patch(&format!("{path}/status"), &status)
        .await
        .expect("patched");
    let address = deployer
        .wait_for_address(APP, second)
        .await
        .expect("an address");
    assert_eq!(
        (address.to_string().as_str(), address.internal),
        ("http://192.0.2.7", false)
    );
    let service = world.get("v1/services", APP).await.expect("exists");
    let label =
        &service["metadata"]["annotations"]["service.beta.kubernetes.io/azure-dns-label-name"];
    assert_eq!(label, "digits-it");
}
