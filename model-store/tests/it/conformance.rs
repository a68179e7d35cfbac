//! What every store must do, whatever is behind it.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use modelship_model_store::{
    ErrorKind, Event, ModelStore, ModelVersion, PublishOptions, ReadOptions, Selector, WatchOptions,
};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::fixtures::{dir, drain, kind, pattern, publish, publish_seen, read, write};

/// A backend under test: it opens stores for models, and shows the raw objects beneath.
pub(crate) struct Backend {
    pub(crate) open: Box<dyn Fn(&str) -> ModelStore>,
    pub(crate) raw: Arc<dyn ObjectStore>,
    /// The path of a model's folder in `raw`.
    pub(crate) prefix: Box<dyn Fn(&str) -> String>,
}

impl Backend {
    async fn put(&self, model: &str, path: &str, bytes: Vec<u8>) {
        let key = Path::parse(format!("{}/{path}", (self.prefix)(model))).unwrap();
        self.raw.put(&key, bytes.into()).await.unwrap();
    }

    async fn delete(&self, model: &str, path: &str) {
        let key = Path::parse(format!("{}/{path}", (self.prefix)(model))).unwrap();
        self.raw.delete(&key).await.unwrap();
    }
}

/// Runs everything. Each part has a model of its own.
pub(crate) async fn all(backend: &Backend) {
    empty_store(backend).await;
    publish_resolve_read(backend).await;
    large_files(backend).await;
    policies(backend).await;
    conflicts_and_idempotence(backend).await;
    half_published(backend).await;
    resume(backend).await;
    race_for_one_version(backend).await;
    race_for_latest(backend).await;
    polls(backend).await;
    replaced_during_read(backend).await;
    forged_manifest(backend).await;
}

async fn empty_store(backend: &Backend) {
    let store = (backend.open)("empty");
    assert_eq!(store.versions().await.unwrap(), Vec::<String>::new());
    for selector in [
        "latest",
        "1.0.0",
        "alias:prod",
        &format!("sha256:{}", "0".repeat(64)),
    ] {
        let error = store.resolve(&selector.parse().unwrap()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
        assert!(error.to_string().contains("empty"), "{error}");
        assert!(
            error
                .hint()
                .unwrap()
                .contains("modelship publish DIR empty VERSION"),
            "{error:?}"
        );
    }
}

async fn publish_resolve_read(backend: &Backend) {
    let store = (backend.open)("digits");
    // A sibling whose name starts the same must not leak in.
    let sibling = (backend.open)("digits-other");
    let files: &[(&str, &[u8])] = &[
        ("weights.bin", b"0123456789"),
        ("sub/empty", b""),
        ("sub/weird %20 n\u{e4}me+x=1.json", b"{}"),
    ];
    let source = dir(files);
    publish(&sibling, source.path(), "9.9.9").await.unwrap();
    let options = PublishOptions::default().with_metadata("commit", "abc");
    let published = store
        .publish(source.path(), "1.0.0", options, &|_| ())
        .await
        .unwrap();
    let model = store.resolve(&Selector::Latest).await.unwrap();
    assert_eq!(
        (model.name(), model.version(), model.total_size()),
        ("digits", "1.0.0", 12)
    );
    assert_eq!(model.policy(), "latest: named by latest.json");
    assert_eq!(model.tree_digest(), published.tree_digest());
    assert_eq!(model.metadata()["commit"], "abc");
    assert_eq!(model.files().len(), 3);
    assert!(model.files().iter().all(|file| file.etag.is_some()));
    for (path, bytes) in files {
        assert_eq!(read(&store, &model, path).await.unwrap(), *bytes, "{path}");
    }
    assert_eq!(
        drain(store.read(&model, "weights.bin", 7).unwrap())
            .await
            .unwrap(),
        b"789"
    );
    assert_eq!(
        drain(store.read(&model, "weights.bin", 10).unwrap())
            .await
            .unwrap(),
        b""
    );
    assert_eq!(
        kind(store.read(&model, "weights.bin", 11).map(drop)),
        ErrorKind::Invalid
    );
    assert_eq!(
        kind(store.read(&model, "nothing", 0).map(drop)),
        ErrorKind::NotFound
    );
    // A lock survives its JSON and reads the same bytes.
    let lock: ModelVersion = serde_json::from_str(&serde_json::to_string(&model).unwrap()).unwrap();
    assert_eq!(lock, model);
    assert_eq!(
        read(&store, &lock, "weights.bin").await.unwrap(),
        b"0123456789"
    );
    let by_digest = store
        .resolve(&model.tree_digest().parse().unwrap())
        .await
        .unwrap();
    assert_eq!(by_digest.version(), "1.0.0");
}

async fn large_files(backend: &Backend) {
    let store = (backend.open)("large");
    let part = 8 << 20;
    let (odd, exact) = (pattern(2 * part + 12_345, 1), pattern(part, 2));
    let source = dir(&[("odd.bin", &odd), ("exact.bin", &exact)]);
    let (published, events) = publish_seen(&store, source.path(), "1").await;
    let model = published.unwrap();
    let arrived = |name: &str, size: usize| {
        events.contains(&Event::Uploading {
            path: name.into(),
            done: size as u64,
            total: size as u64,
        })
    };
    assert!(
        arrived("odd.bin", odd.len()) && arrived("exact.bin", exact.len()),
        "{events:?}"
    );
    assert!(read(&store, &model, "odd.bin").await.unwrap() == odd);
    assert!(read(&store, &model, "exact.bin").await.unwrap() == exact);
    let from = part + 17;
    let tail = drain(store.read(&model, "odd.bin", from as u64).unwrap())
        .await
        .unwrap();
    assert!(tail == odd[from..]);
}

async fn policies(backend: &Backend) {
    let store = (backend.open)("policies");
    let source = dir(&[("a", b"1")]);
    for version in ["1.9.0", "1.10.0", "2.0.0-rc.1", "1.2.0"] {
        write(source.path(), "a", version.as_bytes());
        let options = PublishOptions::default().with_move_latest(false);
        store
            .publish(source.path(), version, options, &|_| ())
            .await
            .unwrap();
    }
    assert_eq!(
        store.versions().await.unwrap(),
        ["1.2.0", "1.9.0", "1.10.0", "2.0.0-rc.1"]
    );
    let model = store.resolve(&Selector::Latest).await.unwrap();
    assert_eq!(model.version(), "1.10.0");
    assert!(
        model.policy().contains("not a pre-release"),
        "{}",
        model.policy()
    );
    let error = store
        .resolve(&Selector::Version("3.0.0".into()))
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("found versions 1.2.0, 1.9.0, 1.10.0, 2.0.0-rc.1"),
        "{error}"
    );
    store.set_alias("prod", "1.9.0").await.unwrap();
    let prod = Selector::Alias("prod".into());
    assert_eq!(store.resolve(&prod).await.unwrap().version(), "1.9.0");
    store.set_alias("prod", "1.2.0").await.unwrap();
    assert_eq!(store.resolve(&prod).await.unwrap().version(), "1.2.0");
    assert_eq!(
        kind(store.set_alias("prod", "7").await),
        ErrorKind::NotFound
    );
    assert_eq!(
        kind(store.set_alias("../x", "1.2.0").await),
        ErrorKind::Invalid
    );
    store.set_latest("1.2.0").await.unwrap();
    assert_eq!(
        store.resolve(&Selector::Latest).await.unwrap().version(),
        "1.2.0"
    );
    mixed_schemes(backend, &store, source.path()).await;
}

/// Mixed schemes have no highest version, unless a pointer decides.
async fn mixed_schemes(backend: &Backend, store: &ModelStore, source: &std::path::Path) {
    let options = PublishOptions::default().with_move_latest(false);
    store
        .publish(source, "champion", options, &|_| ())
        .await
        .unwrap();
    assert_eq!(
        store.resolve(&Selector::Latest).await.unwrap().version(),
        "1.2.0"
    );
    backend.delete("policies", "latest.json").await;
    assert_eq!(
        kind(store.resolve(&Selector::Latest).await),
        ErrorKind::Invalid
    );
}

async fn conflicts_and_idempotence(backend: &Backend) {
    let store = (backend.open)("conflicts");
    let (one, two) = (dir(&[("a", b"one")]), dir(&[("a", b"two")]));
    let first = publish(&store, one.path(), "1.0.0").await.unwrap();
    publish(&store, two.path(), "1.1.0").await.unwrap();
    let (again, events) = publish_seen(&store, one.path(), "1.0.0").await;
    assert_eq!(again.unwrap().tree_digest(), first.tree_digest());
    assert!(
        !events
            .iter()
            .any(|event| matches!(event, Event::Uploading { .. })),
        "{events:?}"
    );
    // Repeating an old job must not undo a promotion.
    assert_eq!(
        store.resolve(&Selector::Latest).await.unwrap().version(),
        "1.1.0"
    );
    let error = publish(&store, two.path(), "1.0.0").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.hint().unwrap().contains("new version"));
    let model = store
        .resolve(&Selector::Version("1.0.0".into()))
        .await
        .unwrap();
    assert_eq!(read(&store, &model, "a").await.unwrap(), b"one");
    for bad in ["latest", "../up", "a/b", ""] {
        assert_eq!(
            kind(publish(&store, one.path(), bad).await),
            ErrorKind::Invalid,
            "{bad}"
        );
    }
}

async fn half_published(backend: &Backend) {
    let store = (backend.open)("half");
    let source = dir(&[("a", b"1")]);
    publish(&store, source.path(), "1.0.0").await.unwrap();
    backend.delete("half", "latest.json").await;
    backend
        .put("half", "versions/2.0.0/files/a", b"22".to_vec())
        .await;
    assert_eq!(store.versions().await.unwrap(), ["1.0.0"]);
    assert_eq!(
        store.resolve(&Selector::Latest).await.unwrap().version(),
        "1.0.0"
    );
    let error = store
        .resolve(&Selector::Version("2.0.0".into()))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("not complete"), "{error}");
}

async fn resume(backend: &Backend) {
    let store = (backend.open)("resume");
    let big = pattern((8 << 20) + 1, 3);
    let source = dir(&[("a", b"aaaa"), ("b", b"bb"), ("big", &big)]);
    publish(&store, source.path(), "1").await.unwrap();
    // What an interrupted publish leaves: the claim, one good file of each kind, one wrong one.
    backend.delete("resume", "versions/1/manifest.json").await;
    backend.delete("resume", "latest.json").await;
    backend
        .put("resume", "versions/1/files/b", b"xx".to_vec())
        .await;
    assert_eq!(
        kind(store.resolve(&Selector::Latest).await),
        ErrorKind::NotFound
    );
    let other = dir(&[("a", b"other")]);
    assert_eq!(
        kind(publish(&store, other.path(), "1").await),
        ErrorKind::Conflict
    );
    let (done, events) = publish_seen(&store, source.path(), "1").await;
    let model = done.unwrap();
    for skipped in [("a", 4), ("big", big.len() as u64)] {
        assert!(
            events.contains(&Event::Skipped {
                path: skipped.0.into(),
                size: skipped.1
            }),
            "{events:?}"
        );
    }
    assert!(events.contains(&Event::Uploading {
        path: "b".into(),
        done: 2,
        total: 2
    }));
    assert_eq!(read(&store, &model, "b").await.unwrap(), b"bb");
    // The operator's way out, when the first publisher never comes back.
    backend.delete("resume", "versions/1/manifest.json").await;
    backend.delete("resume", "latest.json").await;
    let options = PublishOptions::default().with_replace_unfinished(true);
    let model = store
        .publish(other.path(), "1", options, &|_| ())
        .await
        .unwrap();
    assert_eq!(read(&store, &model, "a").await.unwrap(), b"other");
    assert_eq!(model.files().len(), 1);
}

/// Sixteen publishers of different content under one version: one wins, and its bytes are whole.
async fn race_for_one_version(backend: &Backend) {
    let store = (backend.open)("race-version");
    let mut racers = tokio::task::JoinSet::new();
    for racer in 0..16_u8 {
        let store = store.clone();
        racers.spawn(async move {
            let files = [("a", &[racer][..]), ("b", &[racer][..])];
            let source = dir(&files);
            (racer, publish(&store, source.path(), "1.0.0").await)
        });
    }
    let mut winners = Vec::new();
    for (racer, result) in racers.join_all().await {
        match result {
            Ok(_) => winners.push(racer),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}"),
        }
    }
    assert_eq!(winners.len(), 1, "{winners:?}");
    let model = store.resolve(&Selector::Latest).await.unwrap();
    for path in ["a", "b"] {
        assert_eq!(read(&store, &model, path).await.unwrap(), [winners[0]]);
    }
}

/// Sixteen publishers of different versions: all versions are there, `latest` names one whose
/// publisher was told that it won.
async fn race_for_latest(backend: &Backend) {
    let store = (backend.open)("race-latest");
    let mut racers = tokio::task::JoinSet::new();
    for racer in 0..16_u8 {
        let store = store.clone();
        racers.spawn(async move {
            let source = dir(&[("a", &[racer])]);
            let version = format!("1.{racer}.0");
            let result = publish(&store, source.path(), &version).await;
            (version, result)
        });
    }
    let mut winners = Vec::new();
    for (version, result) in racers.join_all().await {
        match result {
            Ok(_) => winners.push(version),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
                assert!(error.to_string().contains("is published"), "{error}");
            }
        }
    }
    assert_eq!(store.versions().await.unwrap().len(), 16);
    let latest = store.resolve(&Selector::Latest).await.unwrap();
    assert!(
        winners.iter().any(|version| version == latest.version()),
        "{winners:?}"
    );
    // A loser that tries again ends well.
    let source = dir(&[("a", &[15])]);
    publish(&store, source.path(), "1.15.0").await.unwrap();
    assert_eq!(
        store.resolve(&Selector::Latest).await.unwrap().version(),
        "1.15.0"
    );
}

async fn polls(backend: &Backend) {
    let store = (backend.open)("polls");
    let source = dir(&[("a", b"1")]);
    let mut seen = None;
    assert_eq!(
        kind(store.poll(&Selector::Latest, &mut seen).await),
        ErrorKind::NotFound
    );
    publish(&store, source.path(), "1.0.0").await.unwrap();
    store.set_alias("prod", "1.0.0").await.unwrap();
    for selector in ["latest", "1.0.0", "alias:prod"] {
        let (selector, mut seen) = (selector.parse().unwrap(), None);
        let found = store.poll(&selector, &mut seen).await.unwrap().unwrap();
        assert_eq!(found.version(), "1.0.0");
        assert_eq!(store.poll(&selector, &mut seen).await.unwrap(), None);
        assert_eq!(store.poll(&selector, &mut seen).await.unwrap(), None);
    }
    let options = WatchOptions::default().with_interval(std::time::Duration::from_millis(20));
    let mut watch = store.watch(Selector::Latest, None, options);
    assert_eq!(watch.try_next().await.unwrap().unwrap().version(), "1.0.0");
    write(source.path(), "a", b"2");
    publish(&store, source.path(), "1.1.0").await.unwrap();
    assert_eq!(watch.try_next().await.unwrap().unwrap().version(), "1.1.0");
    // Seen, kept as JSON, and used again.
    let mut seen = None;
    store
        .poll(&Selector::Latest, &mut seen)
        .await
        .unwrap()
        .unwrap();
    let mut seen = serde_json::from_str(&serde_json::to_string(&seen).unwrap()).unwrap();
    assert_eq!(
        store.poll(&Selector::Latest, &mut seen).await.unwrap(),
        None
    );
    store.set_latest("1.0.0").await.unwrap();
    assert_eq!(
        store
            .poll(&Selector::Latest, &mut seen)
            .await
            .unwrap()
            .unwrap()
            .version(),
        "1.0.0"
    );
}

async fn replaced_during_read(backend: &Backend) {
    let store = (backend.open)("replaced");
    let size = 6 * (8 << 20);
    let source = dir(&[("w", &pattern(size, 4)), ("small", b"1234")]);
    let model = publish(&store, source.path(), "1").await.unwrap();
    // Not all of it is asked for at once.
    let options = ReadOptions::default().with_window(16 << 20);
    let mut stream = store.read_with(&model, "w", 0, &options).unwrap();
    let first = stream.next().await.unwrap().unwrap();
    assert!(!first.is_empty());
    // Same size, other bytes: only the tag can tell before the end.
    backend
        .put("replaced", "versions/1/files/w", pattern(size, 5))
        .await;
    let error = drain(stream).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Changed, "{error:?}");
    assert!(error.to_string().contains("changed during read"), "{error}");
    // Replaced between lock and read, from any offset.
    backend
        .put("replaced", "versions/1/files/small", b"4321".to_vec())
        .await;
    for from in [0, 1] {
        let error = drain(store.read(&model, "small", from).unwrap())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Changed, "{error:?}");
    }
    // Locked anew, the tags match, and the digest still tells.
    let relocked = store.resolve(&Selector::Version("1".into())).await.unwrap();
    assert_eq!(
        kind(read(&store, &relocked, "small").await),
        ErrorKind::DigestMismatch
    );
    backend
        .put("replaced", "versions/1/files/small", b"longer".to_vec())
        .await;
    assert_eq!(
        kind(store.resolve(&Selector::Version("1".into())).await),
        ErrorKind::Changed
    );
    backend.delete("replaced", "versions/1/files/small").await;
    assert_eq!(
        kind(store.resolve(&Selector::Version("1".into())).await),
        ErrorKind::NotFound
    );
}

async fn forged_manifest(backend: &Backend) {
    let store = (backend.open)("forged");
    let source = dir(&[("a", b"1")]);
    publish(&store, source.path(), "1").await.unwrap();
    let manifest = format!("{}/versions/1/manifest.json", (backend.prefix)("forged"));
    let bytes = backend
        .raw
        .get(&Path::parse(manifest).unwrap())
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap();
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    for (from, to) in [
        ("\"a\"", "\"../a\""),
        ("\"a\"", "\"/etc/passwd\""),
        ("\"size\": 1", "\"size\": 2"),
    ] {
        backend
            .put(
                "forged",
                "versions/1/manifest.json",
                text.replacen(from, to, 1).into_bytes(),
            )
            .await;
        let error = store.resolve(&Selector::Latest).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    }
    backend.put("forged", "latest.json", b"{".to_vec()).await;
    assert_eq!(
        kind(store.resolve(&Selector::Latest).await),
        ErrorKind::Invalid
    );
}
