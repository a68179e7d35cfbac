//! What every store must do about names, histories, retractions, holds and garbage.

use std::time::{Duration, SystemTime};

use modelship_model_store::{
    ErrorKind, GcOptions, GcReason, ModelStore, ModelVersion, Move, Note, PointerName,
    PublishOptions, RetractOptions, Selector, VersionState,
};
use tokio::task::JoinSet;

use crate::conformance::Backend;
use crate::fixtures::{dir, kind, publish, read, write};

/// Runs everything. Each part has a model of its own.
pub(crate) async fn all(backend: &Backend) {
    histories(backend).await;
    aliases(backend).await;
    retractions(backend).await;
    lists_and_differences(backend).await;
    garbage(backend).await;
    interrupted_collection(backend).await;
    race_for_an_alias(backend).await;
    race_with_a_retraction(backend).await;
    race_with_a_collection(backend).await;
}

/// A store with these versions, published in this order; each holds its own name in the file `a`.
async fn stocked(backend: &Backend, model: &str, versions: &[&str]) -> ModelStore {
    let store = (backend.open)(model);
    let source = dir(&[]);
    for version in versions {
        write(source.path(), "a", version.as_bytes());
        publish(&store, source.path(), version).await.unwrap();
    }
    store
}

fn alias(name: &str) -> PointerName {
    PointerName::alias(name).unwrap()
}

/// The versions of a history, newest first; `-` where the pointer was removed.
async fn story(store: &ModelStore, pointer: &PointerName) -> Vec<String> {
    let moves = store.history(pointer, 100).await.unwrap();
    // Every move begins where the one before it ended.
    for pair in moves.windows(2) {
        assert_eq!(pair[0].follows, pair[1].sequence, "{moves:#?}");
        assert_eq!(pair[0].previous, pair[1].version, "{moves:#?}");
    }
    let named = |entry: &Move| entry.version.clone().unwrap_or_else(|| "-".to_owned());
    moves.iter().map(named).collect()
}

async fn now(store: &ModelStore, pointer: &PointerName) -> Result<String, ErrorKind> {
    let found = store.resolve(&pointer.selector()).await;
    found
        .map(|model| model.version().to_owned())
        .map_err(|error| error.kind())
}

/// A day later, nothing is young.
fn tomorrow() -> GcOptions {
    GcOptions::new(SystemTime::now() + Duration::from_hours(25))
}

async fn histories(backend: &Backend) {
    let store = stocked(backend, "histories", &["1.0.0", "1.1.0", "1.2.0"]).await;
    let latest = PointerName::Latest;
    assert_eq!(story(&store, &latest).await, ["1.2.0", "1.1.0", "1.0.0"]);
    let note = Note::default()
        .at("2026-11-22T08:00:00Z")
        .by("ann")
        .because("slow");
    let moved = store.rollback(&latest, &note).await.unwrap().unwrap();
    assert_eq!(
        (moved.version.as_deref(), moved.restores),
        (Some("1.1.0"), Some(2))
    );
    assert_eq!(store.history(&latest, 1).await.unwrap(), [moved]);
    // Further back, not forth again.
    store.rollback(&latest, &note).await.unwrap();
    assert_eq!(now(&store, &latest).await, Ok("1.0.0".into()));
    assert_eq!(
        kind(store.rollback(&latest, &note).await),
        ErrorKind::NotFound
    );
    assert_eq!(
        story(&store, &latest).await,
        ["1.0.0", "1.1.0", "1.2.0", "1.1.0", "1.0.0"]
    );
    // Where it is already, it does not move.
    assert_eq!(store.promote(&latest, "1.0.0", &note).await.unwrap(), None);
    store.promote(&latest, "1.2.0", &note).await.unwrap();
    store.rollback(&latest, &note).await.unwrap();
    assert_eq!(now(&store, &latest).await, Ok("1.0.0".into()));
    let notes = store.history(&latest, 1).await.unwrap();
    assert_eq!(notes[0].note, note);
    let long = Note::default().by("x".repeat(5000));
    assert_eq!(
        kind(store.promote(&latest, "1.2.0", &long).await),
        ErrorKind::Invalid
    );
}

async fn aliases(backend: &Backend) {
    let store = stocked(backend, "aliases", &["1", "2"]).await;
    assert!(store.aliases().await.unwrap().is_empty());
    let (prod, none) = (alias("prod"), Note::default());
    assert_eq!(
        kind(store.delete_alias("prod", &none).await),
        ErrorKind::NotFound
    );
    store.set_alias("prod", "1").await.unwrap();
    store.set_alias("champion", "2").await.unwrap();
    let named = [("champion", "2"), ("prod", "1")].map(|(a, v)| (a.to_owned(), v.to_owned()));
    assert_eq!(store.aliases().await.unwrap(), named.into());
    store.delete_alias("prod", &none).await.unwrap();
    assert_eq!(now(&store, &prod).await, Err(ErrorKind::NotFound));
    assert_eq!(store.aliases().await.unwrap().len(), 1);
    let error = store.delete_alias("prod", &none).await.unwrap_err();
    assert!(error.to_string().contains("found champion"), "{error}");
    // Its history goes on.
    store.set_alias("prod", "2").await.unwrap();
    assert_eq!(story(&store, &prod).await, ["2", "-", "1"]);
    store.rollback(&prod, &none).await.unwrap();
    assert_eq!(now(&store, &prod).await, Ok("1".into()));
    assert!(store.history(&alias("nobody"), 9).await.unwrap().is_empty());
}

async fn retractions(backend: &Backend) {
    let store = stocked(backend, "retractions", &["1.0.0", "1.1.0", "1.2.0"]).await;
    let (latest, prod) = (PointerName::Latest, alias("prod"));
    let digest = store
        .resolve(&Selector::Latest)
        .await
        .unwrap()
        .tree_digest()
        .to_owned();
    store.set_alias("prod", "1.2.0").await.unwrap();
    let note = Note::default().by("ann").because("leaks names");
    let options = RetractOptions::default().with_note(note);
    let error = store.retract("1.2.0", &options).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(
        error.to_string().contains("aliases prod: nothing was done"),
        "{error}"
    );
    assert_eq!(store.retraction("1.2.0").await.unwrap(), None);
    store.set_alias("prod", "1.1.0").await.unwrap();
    store.set_alias("prod", "1.2.0").await.unwrap();
    let force = options.clone().with_move_aliases(true);
    let report = store.retract("1.2.0", &force).await.unwrap();
    let back = Some("1.1.0".to_owned());
    assert_eq!(
        report.moved,
        [(latest.clone(), back.clone()), (prod.clone(), back)].into()
    );
    assert_eq!(now(&store, &latest).await, Ok("1.1.0".into()));
    assert_eq!(now(&store, &prod).await, Ok("1.1.0".into()));
    let again = store
        .retract("1.2.0", &RetractOptions::default())
        .await
        .unwrap();
    assert_eq!(again.retraction, report.retraction, "twice is once");
    assert!(again.moved.is_empty());
    retracted_for_ever(&store, &digest).await;
    nothing_to_go_back_to(backend).await;
}

/// By its name never again; by its digest still.
async fn retracted_for_ever(store: &ModelStore, digest: &str) {
    let error = store
        .resolve(&Selector::Version("1.2.0".into()))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retracted);
    assert!(error.to_string().contains("by ann: leaks names"), "{error}");
    let model = store.resolve(&digest.parse().unwrap()).await.unwrap();
    assert_eq!(read(store, &model, "a").await.unwrap(), b"1.2.0");
    for moved in [
        store.set_latest("1.2.0").await,
        store.set_alias("prod", "1.2.0").await,
        publish(store, dir(&[("a", b"1.2.0")]).path(), "1.2.0")
            .await
            .map(drop),
        publish(store, dir(&[("a", b"other")]).path(), "1.2.0")
            .await
            .map(drop),
    ] {
        assert_eq!(kind(moved), ErrorKind::Retracted);
    }
    assert_eq!(
        kind(store.retract("9", &RetractOptions::default()).await),
        ErrorKind::NotFound
    );
}

async fn nothing_to_go_back_to(backend: &Backend) {
    let store = stocked(backend, "all-retracted", &["1.0.0"]).await;
    let report = store
        .retract("1.0.0", &RetractOptions::default())
        .await
        .unwrap();
    assert_eq!(report.moved, [(PointerName::Latest, None)].into());
    assert_eq!(
        now(&store, &PointerName::Latest).await,
        Err(ErrorKind::NotFound)
    );
    publish(&store, dir(&[("a", b"2")]).path(), "0.9.0")
        .await
        .unwrap();
    assert_eq!(now(&store, &PointerName::Latest).await, Ok("0.9.0".into()));
    assert_eq!(
        story(&store, &PointerName::Latest).await,
        ["0.9.0", "-", "1.0.0"]
    );
}

async fn lists_and_differences(backend: &Backend) {
    let store = (backend.open)("lists");
    let source = dir(&[("same", b"s"), ("old", b"1"), ("both", b"12")]);
    let options = |accuracy| PublishOptions::default().with_metadata("accuracy", accuracy);
    store
        .publish(source.path(), "1.9.0", options("0.9"), &drop)
        .await
        .unwrap();
    std::fs::remove_file(source.path().join("old")).unwrap();
    write(source.path(), "both", b"123");
    write(source.path(), "new", b"4567");
    store
        .publish(source.path(), "1.10.0", options("0.95"), &drop)
        .await
        .unwrap();
    backend
        .put("lists", "versions/2.0.0/files/x", b"xyz".to_vec())
        .await;
    store.set_alias("prod", "1.9.0").await.unwrap();
    let model = store.resolve(&alias("prod").selector()).await.unwrap();
    store
        .hold("cluster-a", &model, &Note::default())
        .await
        .unwrap();
    let list = store.list().await.unwrap();
    let short: Vec<_> = list
        .iter()
        .map(|info| (info.version.as_str(), info.state, info.size))
        .collect();
    let complete = VersionState::Complete;
    assert_eq!(
        short,
        [
            ("1.9.0", complete, 4),
            ("1.10.0", complete, 8),
            ("2.0.0", VersionState::Unfinished, 3)
        ]
    );
    assert_eq!(list[0].named_by, [alias("prod")]);
    assert_eq!(list[0].held_by, ["cluster-a"]);
    assert_eq!(list[1].named_by, [PointerName::Latest]);
    assert_eq!(list[1].metadata["accuracy"], "0.95");
    let shown = store.show("1.9.0").await.unwrap();
    assert_eq!((&shown.info, shown.contents.len()), (&list[0], 3));
    let error = store.show("3").await.unwrap_err();
    assert!(error.to_string().contains("found 1.9.0, 1.10.0"), "{error}");
    differences(&store).await;
}

async fn differences(store: &ModelStore) {
    let diff = store.diff("1.9.0", "1.10.0").await.unwrap();
    assert_eq!(
        (
            diff.added.len(),
            diff.removed.len(),
            diff.changed.len(),
            diff.same
        ),
        (1, 1, 1, 1)
    );
    assert_eq!(diff.bytes_to_move, 7);
    assert_eq!(
        diff.metadata["accuracy"],
        (Some("0.9".into()), Some("0.95".into()))
    );
    assert_eq!(
        kind(store.diff("1.9.0", "2.0.0").await),
        ErrorKind::NotFound
    );
    store
        .retract("1.10.0", &RetractOptions::default())
        .await
        .unwrap();
    let shown = store.show("1.10.0").await.unwrap();
    assert_eq!(
        (shown.info.state, shown.contents.len()),
        (VersionState::Retracted, 3)
    );
}

async fn garbage(backend: &Backend) {
    let store = stocked(backend, "garbage", &["1", "2", "3", "4", "5"]).await;
    let one = store.resolve(&"1".parse().unwrap()).await.unwrap();
    let two = store.resolve(&"2".parse().unwrap()).await.unwrap();
    store
        .hold("cluster-a", &one, &Note::default())
        .await
        .unwrap();
    store.set_alias("prod", "3").await.unwrap();
    store
        .retract("4", &RetractOptions::default())
        .await
        .unwrap();
    backend
        .put("garbage", "versions/9/files/x", b"x".to_vec())
        .await;
    backend
        .put("garbage", "versions/9/files/sub/y", b"y".to_vec())
        .await;
    // Everything is young today.
    let today = GcOptions::new(SystemTime::now())
        .with_keep_last(0)
        .with_retracted_after(Duration::ZERO);
    assert!(store.gc_plan(&today).await.unwrap().remove.is_empty());
    // By default, only what is unfinished goes.
    let plan = store.gc_plan(&tomorrow()).await.unwrap();
    assert_eq!(plan.remove.len(), 1, "{plan:?}");
    assert_eq!(
        (plan.remove[0].version.as_str(), plan.remove[0].objects),
        ("9", 2)
    );
    let all = tomorrow()
        .with_keep_last(1)
        .with_retracted_after(Duration::from_hours(24))
        .with_lock(two.clone());
    let plan = store.gc_plan(&all).await.unwrap();
    let kept: Vec<_> = plan.keep.iter().map(|kept| kept.version.as_str()).collect();
    assert_eq!(kept, ["1", "2", "3"]);
    assert_eq!(plan.keep[0].by, ["hold:cluster-a"]);
    assert_eq!(plan.keep[2].by, ["alias:prod"]);
    let report = store.gc(&all).await.unwrap();
    assert_eq!((&report.removed, &report.kept), (&plan.remove, &plan.keep));
    let gone: Vec<_> = report
        .removed
        .iter()
        .map(|item| (item.version.as_str(), item.reason))
        .collect();
    assert_eq!(
        gone,
        [("4", GcReason::Retracted), ("9", GcReason::Unfinished)]
    );
    assert_eq!(store.versions().await.unwrap(), ["1", "2", "3", "5"]);
    assert_eq!(read(&store, &one, "a").await.unwrap(), b"1");
    numbers_after_a_collection(&store).await;
    holds_that_ended(&store, &one, &two).await;
}

/// What is retracted stays so without its files, and no number is given twice.
async fn numbers_after_a_collection(store: &ModelStore) {
    let listed = store.list().await.unwrap();
    assert_eq!(listed[3].state, VersionState::Retracted);
    assert_eq!(listed.len(), 5, "nothing is left of version 9");
    assert_eq!(
        kind(publish(store, dir(&[("a", b"4")]).path(), "4").await),
        ErrorKind::Retracted
    );
}

/// A hold that moved on, and one that was released, hold no longer.
async fn holds_that_ended(store: &ModelStore, one: &ModelVersion, two: &ModelVersion) {
    store
        .hold("cluster-a", two, &Note::default())
        .await
        .unwrap();
    store
        .release_hold("cluster-a", &Note::default())
        .await
        .unwrap();
    assert_eq!(
        kind(store.release_hold("cluster-a", &Note::default()).await),
        ErrorKind::NotFound
    );
    let report = store.gc(&tomorrow().with_keep_last(1)).await.unwrap();
    assert_eq!(report.removed.len(), 2, "{report:?}");
    assert_eq!(store.versions().await.unwrap(), ["3", "5"]);
    assert_eq!(
        kind(store.hold("cluster-a", one, &Note::default()).await),
        ErrorKind::NotFound
    );
    assert!(store.holds().await.unwrap().is_empty());
    // A number that was given back can be used again.
    publish(store, dir(&[("a", b"nine")]).path(), "9")
        .await
        .unwrap();
    assert_eq!(now(store, &PointerName::Latest).await, Ok("9".into()));
}

/// What a collection leaves that was killed after it marked, or after it removed a manifest.
async fn interrupted_collection(backend: &Backend) {
    let store = stocked(backend, "interrupted-gc", &["1", "2", "3"]).await;
    let one = store.resolve(&"1".parse().unwrap()).await.unwrap();
    for version in ["1", "2"] {
        backend
            .put(
                "interrupted-gc",
                &format!("removing/{version}.json"),
                b"{}".to_vec(),
            )
            .await;
    }
    backend
        .delete("interrupted-gc", "versions/2/manifest.json")
        .await;
    for refused in [
        store.set_alias("prod", "1").await,
        store.hold("cluster-a", &one, &Note::default()).await,
        publish(&store, dir(&[("a", b"2")]).path(), "2")
            .await
            .map(drop),
    ] {
        assert_eq!(kind(refused), ErrorKind::Conflict);
    }
    assert!(store.holds().await.unwrap().is_empty());
    assert_eq!(store.list().await.unwrap()[0].state, VersionState::Removing);
    // A young mark may be that of a collection at work.
    let report = store.gc(&GcOptions::new(SystemTime::now())).await.unwrap();
    assert!(report.removed.is_empty());
    let report = store.gc(&tomorrow()).await.unwrap();
    let gone: Vec<_> = report
        .removed
        .iter()
        .map(|item| (item.version.as_str(), item.reason))
        .collect();
    assert_eq!(gone, [("2", GcReason::Interrupted)]);
    // The one that is no garbage any more is free again.
    store.set_alias("prod", "1").await.unwrap();
    publish(&store, dir(&[("a", b"2")]).path(), "2")
        .await
        .unwrap();
}

/// Sixteen at once: each one that was told it won is in the history, once, and nobody else.
async fn race_for_an_alias(backend: &Backend) {
    let versions: Vec<String> = (0..16).map(|n| format!("1.{n}.0")).collect();
    let names: Vec<&str> = versions.iter().map(String::as_str).collect();
    let store = stocked(backend, "race-alias", &names).await;
    let mut racers = JoinSet::new();
    for version in versions {
        let store = store.clone();
        racers.spawn(async move {
            let moved = store
                .promote(&alias("prod"), &version, &Note::default())
                .await;
            (version, moved)
        });
    }
    let mut won = Vec::new();
    for (version, moved) in racers.join_all().await {
        match moved {
            Ok(moved) => won.push((moved.unwrap().sequence, version)),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}"),
        }
    }
    won.sort();
    won.reverse();
    let told: Vec<String> = won.into_iter().map(|(_, version)| version).collect();
    assert!(!told.is_empty());
    assert_eq!(story(&store, &alias("prod")).await, told);
    assert_eq!(now(&store, &alias("prod")).await.as_ref(), Ok(&told[0]));
}

/// Eight make an alias name a version while it is retracted: no selector gives it afterwards.
async fn race_with_a_retraction(backend: &Backend) {
    let store = stocked(backend, "race-retract", &["1", "2"]).await;
    let mut racers = JoinSet::new();
    for racer in 0..8 {
        let store = store.clone();
        racers.spawn(async move { store.set_alias(&format!("a{racer}"), "2").await });
    }
    let retracting = store.clone();
    racers.spawn(async move {
        let options = RetractOptions::default().with_move_aliases(true);
        retracting.retract("2", &options).await.map(drop)
    });
    for result in racers.join_all().await {
        if let Err(error) = result {
            let expected = [ErrorKind::Conflict, ErrorKind::Retracted];
            assert!(expected.contains(&error.kind()), "{error:?}");
        }
    }
    // Those who came first were moved back or removed; a repetition cleans up after the rest.
    let options = RetractOptions::default().with_move_aliases(true);
    store.retract("2", &options).await.unwrap();
    assert!(store.aliases().await.unwrap().is_empty());
    assert_eq!(now(&store, &PointerName::Latest).await, Ok("1".into()));
}

/// A collection among sixteen who name and hold what it wants to remove: what was named or held is
/// whole afterwards, and everybody else was told.
async fn race_with_a_collection(backend: &Backend) {
    let versions: Vec<String> = (0..8).map(|n| n.to_string()).collect();
    let names: Vec<&str> = versions.iter().map(String::as_str).collect();
    let store = stocked(backend, "race-gc", &names).await;
    let mut racers = JoinSet::new();
    for version in versions {
        let model = store.resolve(&version.parse().unwrap()).await.unwrap();
        let (naming, holding) = (store.clone(), store.clone());
        racers.spawn(async move {
            let named = naming.set_alias(&format!("a{version}"), &version).await;
            (format!("alias:a{version}"), named)
        });
        racers.spawn(async move {
            let name = format!("h{}", model.version());
            let held = holding.hold(&name, &model, &Note::default()).await;
            (model.version().to_owned(), held)
        });
    }
    let collecting = store.clone();
    let report = tokio::spawn(async move { collecting.gc(&tomorrow().with_keep_last(0)).await });
    for (selector, result) in racers.join_all().await {
        match result {
            Ok(()) => {
                let model = store.resolve(&selector.parse().unwrap()).await.unwrap();
                assert_eq!(
                    read(&store, &model, "a").await.unwrap(),
                    model.version().as_bytes()
                );
            }
            Err(error) => {
                let expected = [ErrorKind::Conflict, ErrorKind::NotFound];
                assert!(expected.contains(&error.kind()), "{error:?}");
            }
        }
    }
    let report = report.await.unwrap().unwrap();
    let left = store.versions().await.unwrap();
    assert!(
        report
            .removed
            .iter()
            .all(|item| !left.contains(&item.version))
    );
    assert_eq!(report.removed.len() + left.len(), 8);
    assert_eq!(now(&store, &PointerName::Latest).await, Ok("7".into()));
}
