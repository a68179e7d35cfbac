//! From commits and model versions to answers for users: the whole road, and every way back.

use std::collections::BTreeSet;

use modelship_pipeline_core::{ErrorKind, Pipeline, Release, Run, Stage, Trigger};

use crate::client::{Crowd, User};
use crate::repository::golden;
use crate::watch::Watch;
use crate::world::World;

/// Ends the app at its start, but only in a cluster: every test before the rollout passes.
const BROKEN_IN_CLUSTER: &str = r#"
import os, sys
if os.environ.get("KUBERNETES_SERVICE_HOST"):
    sys.exit("broken on purpose")
"#;

/// Ends the app at its start; the app's own tests do not look at this file.
const BROKEN_EVERYWHERE: &str = r#"
raise SystemExit("broken everywhere")
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_whole_road_on_a_real_node() {
    let Some(world) = World::start().await else {
        return;
    };
    let digest = world.publish("1.0.0").await;
    let pipeline = world.pipeline().await;
    let mut watch = Watch::start(pipeline.clone());

    let first = first_release(&world, &mut watch).await;
    let user = User::new(first.address.as_deref().unwrap(), &golden());
    serves(&user, "1.0.0", &digest, &world.repository.head()).await;
    looks_public(&world).await;
    an_unchanged_run_moves_nothing(&world, &pipeline, &first).await;

    let crowd = Crowd::start(user.clone());
    let second = a_new_model_moves_alone(&world, &mut watch, &user, &first).await;
    a_broken_release_is_taken_back(&world, &mut watch, &user, &second).await;
    a_failed_release_is_not_repeated(&pipeline, &second).await;
    a_broken_image_is_never_pushed(&world, &mut watch).await;
    drop(watch);
    the_first_release_comes_back(&pipeline, &first, &second).await;
    serves(&user, "1.0.0", &digest, &first.inputs.revision).await;
    let asked = crowd.stop().await;

    println!(
        "{} requests, the slowest took {:?}",
        asked.count, asked.slowest
    );
    assert!(asked.failures.is_empty(), "{asked:#?}");
    assert!(asked.count > 100, "{asked:#?}");
}

/// The app answers rightly, and says what it is.
async fn serves(user: &User, model: &str, digest: &str, commit: &str) {
    user.score().await.unwrap();
    let version = user.version().await;
    assert_eq!(version["code"], commit, "{version}");
    assert_eq!(version["model"]["name"], "digits", "{version}");
    assert_eq!(version["model"]["version"], model, "{version}");
    assert_eq!(version["model"]["digest"], digest, "{version}");
}

/// The watch finds a commit that it has not seen, and brings everything to its place.
async fn first_release(world: &World, watch: &mut Watch) -> Release {
    let (trigger, release) = watch.next_release().await;
    assert_eq!(trigger, Trigger::Commit(world.repository.head()));
    assert_eq!(release.inputs.revision, world.repository.head());
    let roles: BTreeSet<_> = release.layers.iter().map(|l| l.role.as_str()).collect();
    assert_eq!(roles, BTreeSet::from(["base", "model", "code"]));
    for layer in &release.layers {
        assert_eq!(layer.moved, layer.size, "{layer:?}");
    }
    let verdict = release.verdict.as_ref().unwrap();
    assert!(verdict.stopped_cleanly, "{verdict:?}");
    release
}

/// The Service asks the cloud for an address and a name.
async fn looks_public(world: &World) {
    let service = world.service().await;
    assert_eq!(service["spec"]["type"], "LoadBalancer", "{service:#}");
    let label = "service.beta.kubernetes.io/azure-dns-label-name";
    let annotations = &service["metadata"]["annotations"];
    assert_eq!(annotations[label], "digits-e2e", "{service:#}");
}

async fn an_unchanged_run_moves_nothing(world: &World, pipeline: &Pipeline, live: &Release) {
    let before = world.written();
    match pipeline.run(&Trigger::now()).await {
        Ok(Run::Unchanged(release)) => assert_eq!(release.image, live.image),
        other => panic!("{other:#?}"),
    }
    assert_eq!(world.written(), before);
}

/// A new model version triggers a release that uploads its layer, and nothing else of the image.
async fn a_new_model_moves_alone(
    world: &World,
    watch: &mut Watch,
    user: &User,
    first: &Release,
) -> Release {
    let before = world.written();
    let digest = world.publish("1.1.0").await;
    let (trigger, release) = watch.next_release().await;
    assert_eq!(trigger, Trigger::Model("1.1.0".to_owned()));
    serves(user, "1.1.0", &digest, &first.inputs.revision).await;

    let (models, others): (Vec<_>, Vec<_>) = release
        .layers
        .iter()
        .partition(|layer| layer.role == "model");
    assert!(models.iter().all(|l| l.moved == l.size), "{models:#?}");
    assert!(others.iter().all(|l| l.moved == 0), "{others:#?}");
    let old: BTreeSet<_> = first.layers.iter().map(|l| &l.digest).collect();
    assert!(
        others.iter().all(|l| old.contains(&l.digest)),
        "{others:#?}"
    );

    // The registry saw the same: the model's layers, and the image's configuration.
    let after = world.written();
    let uploaded: BTreeSet<_> = after.blobs.difference(&before.blobs).collect();
    let models: BTreeSet<_> = models.iter().map(|l| &l.digest).collect();
    assert!(models.is_subset(&uploaded), "{models:?} {uploaded:?}");
    assert_eq!(uploaded.len(), models.len() + 1, "{models:?} {uploaded:?}");
    assert_eq!(after.starts - before.starts, uploaded.len());
    release
}

/// An app that ends at its start, for a reason that only the cluster knows, is rolled back; the
/// error holds the app's last words.
async fn a_broken_release_is_taken_back(
    world: &World,
    watch: &mut Watch,
    user: &User,
    live: &Release,
) {
    let good = world.repository.read("gunicorn.conf.py");
    let text = format!("{good}{BROKEN_IN_CLUSTER}");
    let commit = world.repository.change("gunicorn.conf.py", &text);
    let (trigger, ended) = watch.next().await;
    assert_eq!(trigger, Trigger::Commit(commit));
    let error = ended.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RolloutFailed, "{error:#?}");
    assert_eq!(error.stage(), Stage::Rollout, "{error:#?}");
    assert!(error.hint().is_some(), "{error:#?}");
    let text = error.to_string();
    println!("{text}\n{:?}", error.hint());
    for part in [
        "application crashes",
        "exit code 1",
        "serves again",
        "broken on purpose",
        "BackOff",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    // Not the kubelet's excuses, nor what happened to the releases before.
    for noise in ["unable to retrieve", "NoPods", "from 0 to 2"] {
        assert!(!text.contains(noise), "{noise}: {text}");
    }
    let digest = &live.inputs.model;
    serves(user, "1.1.0", digest, &live.inputs.revision).await;
}

/// Whoever asks again for a release that failed is told so at once.
async fn a_failed_release_is_not_repeated(pipeline: &Pipeline, live: &Release) {
    let error = pipeline.run(&Trigger::now()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RolloutFailed, "{error:#?}");
    assert_eq!(error.stage(), Stage::Plan, "{error:#?}");
    let status = pipeline.status().await.unwrap();
    assert_eq!(status.key.as_ref(), Some(live.key()), "{status:#?}");
}

/// What fails its smoke test reaches neither registry nor users.
async fn a_broken_image_is_never_pushed(world: &World, watch: &mut Watch) {
    let before = world.written();
    let commit = world
        .repository
        .change("gunicorn.conf.py", BROKEN_EVERYWHERE);
    let (trigger, ended) = watch.next().await;
    assert_eq!(trigger, Trigger::Commit(commit));
    let error = ended.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TestsFailed, "{error:#?}");
    assert_eq!(error.stage(), Stage::Smoke, "{error:#?}");
    assert!(
        error.to_string().contains("broken everywhere"),
        "{error:#?}"
    );
    assert_eq!(world.written(), before);
}

/// A person returns to the release before.
async fn the_first_release_comes_back(pipeline: &Pipeline, first: &Release, second: &Release) {
    let status = pipeline.status().await.unwrap();
    assert!(
        second.image.ends_with(status.image.as_deref().unwrap()),
        "{status:#?}"
    );
    let said = pipeline.rollback().await.unwrap();
    assert!(said.contains(&first.image), "{said}");
    let status = pipeline.status().await.unwrap();
    assert_eq!(status.key.as_ref(), Some(first.key()), "{status:#?}");
    assert!(
        first.image.ends_with(status.image.as_deref().unwrap()),
        "{status:#?}"
    );
    println!("{}", status.detail.join("\n"));
}
