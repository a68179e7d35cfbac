//! How many requests an answer costs, counted.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use modelship_model_store::{
    ErrorKind, ModelStore, ModelVersion, PublishOptions, Seen, Selector, StoreOptions,
};

use crate::counting::Counting;
use crate::fixtures::{dir, kind, publish};

async fn counted(store: &Arc<Counting>, model: &ModelStore, selector: &str) -> Vec<String> {
    let selector: Selector = selector.parse().unwrap();
    store.requests();
    model.resolve(&selector).await.unwrap();
    store.requests()
}

/// What this crate published, with two files.
async fn published() -> (Arc<Counting>, ModelStore, ModelVersion) {
    let store = Arc::new(Counting::default());
    let model = store.model("digits");
    let source = dir(&[("a", b"1"), ("b", b"2")]);
    publish(&model, source.path(), "1.0.0").await.unwrap();
    let second = publish(&model, source.path(), "1.1.0").await.unwrap();
    (store, model, second)
}

/// Four requests, in three rounds, however many files there are: one for the pointer, two at once
/// for the manifest and a possible retraction, one list of the files.
#[tokio::test]
async fn a_published_version_costs_four_requests() {
    let (store, model, _) = published().await;
    let exact = [
        "get versions/1.1.0/manifest.json",
        "get retracted/1.1.0.json: not found",
        "list versions/1.1.0/files",
    ];
    assert_eq!(counted(&store, &model, "1.1.0").await, exact);
    let latest = counted(&store, &model, "latest").await;
    assert_eq!(latest[0], "get latest.json");
    assert_eq!(latest[1..], exact);
    model.set_alias("prod", "1.1.0").await.unwrap();
    let alias = counted(&store, &model, "alias:prod").await;
    assert_eq!(alias[0], "get aliases/prod.json");
    assert_eq!(alias[1..], exact);
    // By order: the versions, what is retracted, the highest one.
    let range = counted(&store, &model, "^1").await;
    assert_eq!(
        range,
        [
            "level versions",
            "list retracted",
            "get versions/1.1.0/manifest.json",
            "list versions/1.1.0/files",
        ]
    );
}

/// One file is asked for by itself: that tells the store's own version of it too.
#[tokio::test]
async fn one_file_is_pinned_by_its_own_request() {
    let store = Arc::new(Counting::default());
    let model = store.model("digits");
    let source = dir(&[("a", b"1")]);
    publish(&model, source.path(), "1").await.unwrap();
    let requests = counted(&store, &model, "latest").await;
    assert_eq!(requests.len(), 4, "{requests:?}");
    assert_eq!(requests[3], "head versions/1/files/a");
}

/// A credential that may read and not list is enough for a pointer.
#[tokio::test]
async fn files_that_cannot_be_listed_are_asked_for_one_by_one() {
    let (store, model, second) = published().await;
    store.unlisted.store(true, Ordering::SeqCst);
    store.requests();
    let found = model.resolve(&Selector::Latest).await.unwrap();
    assert_eq!(found.files(), second.files());
    assert_eq!(
        store.requests()[3..],
        [
            "list versions/1.1.0/files",
            "head versions/1.1.0/files/a",
            "head versions/1.1.0/files/b",
        ]
    );
}

#[tokio::test]
async fn an_object_costs_two_requests_and_a_folder_few() {
    let store = Arc::new(Counting::default());
    store.put_text("digits.pkl", "pickled").await;
    let model = store.model("digits.pkl");
    let requests = counted(&store, &model, "latest").await;
    assert_eq!(requests, ["head", "get: not found"]);
    for path in ["m/1/w", "m/1/_SUCCESS", "m/1/x"] {
        store.put_text(path, "text").await;
    }
    let model = store.model("m");
    assert_eq!(
        counted(&store, &model, "1").await,
        [
            "get versions/1/manifest.json: not found",
            "get retracted/1.json: not found",
            "list 1",
            "get versions.json: not found",
            // Tells whether the store keeps versions, to which files could be pinned.
            "head 1/w",
        ]
    );
}

async fn poll(model: &ModelStore, selector: &str, seen: &mut Option<Seen>) -> Option<String> {
    let selector: Selector = selector.parse().unwrap();
    let found = model.poll(&selector, seen).await.unwrap();
    found.map(|model| model.version().to_owned())
}

/// Polls until nothing is left to take stock of, and then the requests of one more poll.
async fn idle(store: &Arc<Counting>, model: &ModelStore, selector: &str) -> Vec<String> {
    let mut seen = None;
    assert!(poll(model, selector, &mut seen).await.is_some());
    assert_eq!(poll(model, selector, &mut seen).await, None);
    // As a program does that was started again.
    let mut seen = serde_json::from_str(&serde_json::to_string(&seen).unwrap()).unwrap();
    store.requests();
    assert_eq!(poll(model, selector, &mut seen).await, None, "{selector}");
    store.requests()
}

#[tokio::test]
async fn an_unchanged_poll_costs_one_request_without_a_body() {
    let (store, model, second) = published().await;
    model.set_alias("prod", "1.0.0").await.unwrap();
    let manifest = |version: &str| format!("get versions/{version}/manifest.json: not modified");
    for (selector, request) in [
        ("latest", "get latest.json: not modified".to_owned()),
        ("alias:prod", "get aliases/prod.json: not modified".into()),
        ("1.0.0", manifest("1.0.0")),
        (second.tree_digest(), manifest("1.1.0")),
        ("^1", "list".into()),
        ("newest", "list".into()),
        ("before:2199-01-01", "list".into()),
    ] {
        assert_eq!(
            idle(&store, &model, selector).await,
            [request],
            "{selector}"
        );
    }
    for path in ["m/1/w", "m/2/w", "plain/w", "digits.pkl", "named/3/w"] {
        store.put_text(path, "text").await;
    }
    store.put_text("named/LATEST", "3").await;
    for (name, selector, request) in [
        ("m", "latest", "list"),
        ("m", "1", "list 1"),
        ("plain", "latest", "list"),
        ("digits.pkl", "latest", "head"),
        ("named", "latest", "get LATEST: not modified"),
    ] {
        let requests = idle(&store, &store.model(name), selector).await;
        assert_eq!(requests, [request], "{name}@{selector}");
    }
}

#[tokio::test]
async fn a_poll_sees_every_change() {
    let (store, model, _) = published().await;
    let mut seen = None;
    for (step, found) in [
        (None, Some("1.1.0")),
        (Some(("digits/latest.json", "")), None),
    ] {
        if let Some((path, text)) = step {
            store.put_text(path, text).await;
            let selector = Selector::Latest;
            assert_eq!(
                kind(model.poll(&selector, &mut seen).await),
                ErrorKind::Invalid
            );
            continue;
        }
        assert_eq!(poll(&model, "latest", &mut seen).await.as_deref(), found);
    }
    // By listing: another version, another file of the version, a retraction.
    let m = store.model("m");
    store.put_text("m/1/w", "text").await;
    let mut seen = None;
    for (path, found) in [
        ("m/1/w", Some("1")),
        ("m/2/w", Some("2")),
        ("m/2/x", Some("2")),
        ("m/retracted/2.json", Some("1")),
    ] {
        store.put_text(path, "text").await;
        assert_eq!(
            poll(&m, "latest", &mut seen).await.as_deref(),
            found,
            "{path}"
        );
        assert_eq!(poll(&m, "latest", &mut seen).await, None);
        assert_eq!(poll(&m, "latest", &mut seen).await, None);
    }
    let object = store.model("digits.pkl");
    store.put_text("digits.pkl", "one").await;
    let mut seen = None;
    let first = poll(&object, "latest", &mut seen).await.unwrap();
    store.put_text("digits.pkl", "two").await;
    assert_ne!(poll(&object, "latest", &mut seen).await.unwrap(), first);
    assert_eq!(poll(&object, "latest", &mut seen).await, None);
}

/// A version that grows between the two listings is not chosen, nor is it an old one forgotten.
#[tokio::test]
async fn a_version_that_still_changes_is_never_chosen() {
    let store = Arc::new(Counting::default());
    for path in ["m/1/w", "m/2/w"] {
        store.put_text(path, "text").await;
    }
    let model = store.model("m");
    store.moving.store(true, Ordering::SeqCst);
    for selector in ["latest", "2", "newest", "^1"] {
        let selector: Selector = selector.parse().unwrap();
        let error = model.resolve(&selector).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(error.to_string().contains("still changes"), "{error}");
        assert!(error.to_string().contains("was added"), "{error}");
    }
    store.moving.store(false, Ordering::SeqCst);
    assert_eq!(
        model.resolve(&Selector::Latest).await.unwrap().version(),
        "2"
    );
}

/// Two publishers' worth of versions: an incomplete one is passed over, and seen when it is done.
#[tokio::test]
async fn what_is_not_complete_costs_one_request_more() {
    let (store, model, _) = published().await;
    store.put_text("digits/versions/1.2.0/files/a", "1").await;
    let mut seen = None;
    assert_eq!(poll(&model, "^1", &mut seen).await.unwrap(), "1.1.0");
    let source = dir(&[("a", b"1")]);
    let options = PublishOptions::default().with_replace_unfinished(true);
    model
        .publish(source.path(), "1.2.0", options, &|_| ())
        .await
        .unwrap();
    assert_eq!(poll(&model, "^1", &mut seen).await.unwrap(), "1.2.0");
}

#[tokio::test]
async fn object_versions_need_a_store_that_keeps_them() {
    let store = Arc::new(Counting::default());
    store.put_text("digits.pkl", "pickled").await;
    store.put_text("m/1/w", "pickled").await;
    let selector: Selector = "object:abc".parse().unwrap();
    let refused = store.model("digits.pkl").resolve(&selector).await;
    assert_eq!(kind(refused), ErrorKind::Unsupported);
    assert_eq!(
        kind(store.model("m").resolve(&selector).await),
        ErrorKind::Invalid
    );
    let none = ModelStore::open(&"memory://x".parse().unwrap(), &StoreOptions::default());
    assert_eq!(
        kind(none.unwrap().resolve(&selector).await),
        ErrorKind::NotFound
    );
}
