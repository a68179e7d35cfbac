//! The cache of models on this machine: what it fetches, what it finds, what it never trusts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use futures::{FutureExt as _, TryStreamExt as _};
use modelship_model_store::{
    CachedModel, ErrorKind, FetchEvent, FetchOptions, ModelCache, ModelStore, ModelVersion, Result,
    Selector, Trust,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::counted::Counted;
use crate::fixtures::{dir, kind, pattern, publish};

const MIB: usize = 1 << 20;

fn cache() -> (TempDir, ModelCache) {
    let dir = tempfile::tempdir().unwrap();
    let cache = ModelCache::open(&dir.path().join("cache")).unwrap();
    (dir, cache)
}

async fn world(files: &[(&str, &[u8])]) -> (Counted, ModelStore, ModelVersion) {
    let counted = Counted::new();
    let store = counted.store();
    let model = publish(&store, dir(files).path(), "1").await.unwrap();
    counted.served();
    (counted, store, model)
}

async fn fetch(
    cache: &ModelCache,
    store: &ModelStore,
    model: &ModelVersion,
) -> Result<CachedModel> {
    let options = FetchOptions::default();
    cache.fetch(store, model, &options, &|_| ()).await
}

/// Fetches, and gives the events.
async fn fetch_seen(
    cache: &ModelCache,
    store: &ModelStore,
    model: &ModelVersion,
) -> (Result<CachedModel>, Vec<FetchEvent>) {
    let events = Mutex::new(Vec::new());
    let sink = |event| events.lock().unwrap().push(event);
    let options = FetchOptions::default();
    let done = cache.fetch(store, model, &options, &sink).await;
    (done, events.into_inner().unwrap())
}

/// The same lock as it would be without a manifest.
pub(crate) fn unsealed(model: &ModelVersion) -> ModelVersion {
    let mut lock = serde_json::to_value(model).unwrap();
    let mut lines = String::new();
    for file in lock["files"].as_array_mut().unwrap() {
        let file = file.as_object_mut().unwrap();
        file.remove("sha256");
        file.remove("trust");
        let text = |name: &str| file.get(name).and_then(Value::as_str).unwrap_or_default();
        let (path, size) = (text("path"), &file["size"]);
        let (etag, version) = (text("etag"), text("version_id"));
        lines += &format!("{path} {size} etag:{etag} version:{version}\n");
    }
    lock["tree_digest"] = json!(format!("sha256:{}", hex::encode(Sha256::digest(lines))));
    let model: ModelVersion = serde_json::from_value(lock).unwrap();
    assert!(!model.is_sealed());
    model
}

fn check(cached: &CachedModel, files: &[(&str, &[u8])]) {
    assert_eq!(cached.model().files().len(), files.len());
    assert!(cached.model().is_sealed());
    for (path, bytes) in files {
        let local = cached.path(path).unwrap();
        assert!(std::fs::read(&local).unwrap() == *bytes, "{path}");
        assert!(std::fs::metadata(local).unwrap().permissions().readonly());
    }
    assert_eq!(cached.path("no such file"), None);
}

/// The files of a folder below the cache with this ending.
fn parts(cache: &ModelCache, folder: &str, end: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(cache.dir().join(folder)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.to_str().unwrap().ends_with(end))
        .collect()
}

/// How many bytes the only journal of the cache speaks of.
pub(crate) fn journalled(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir.join("partial")).unwrap();
    let journal = entries
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|end| end == "json"));
    let Some(text) = journal.and_then(|path| std::fs::read(path).ok()) else {
        return 0;
    };
    let journal: Value = serde_json::from_slice(&text).unwrap();
    journal["durable"].as_u64().unwrap()
}

/// Fetches up to about `stop`, and drops the fetch there. Says how much is in the journal.
async fn interrupted(
    counted: &Counted,
    cache: &ModelCache,
    model: &ModelVersion,
    stop: u64,
) -> u64 {
    counted.stop_at(stop);
    let store = counted.store();
    let mut fetch = Box::pin(fetch(cache, &store, model));
    for _ in 0..2_000 {
        assert!((&mut fetch).now_or_never().is_none(), "it has to wait");
        if journalled(cache.dir())
            .checked_sub(1)
            .is_some_and(|n| n + (16 << 20) >= stop)
        {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(fetch);
    counted.stop_at(u64::MAX);
    let durable = journalled(cache.dir());
    assert!(durable > 0, "nothing was journalled");
    counted.served();
    durable
}

#[tokio::test(flavor = "multi_thread")]
async fn every_file_arrives_once_and_is_found_again() {
    let large = pattern(11 * MIB + 3, 1);
    let files: [(&str, &[u8]); 6] = [
        ("a/copy.bin", &large),
        ("a/empty", b""),
        ("config.json", b"{}"),
        ("weird %20 n\u{e4}me#1.bin", b"odd"),
        ("weights.bin", &large),
        ("z", &vec![3; 3 * MIB]),
    ];
    let (counted, store, model) = world(&files).await;
    let (_dir, cache) = cache();
    assert!(!cache.contains(&model).unwrap());
    let (cached, events) = fetch_seen(&cache, &store, &model).await;
    let cached = cached.unwrap();
    check(&cached, &files);
    assert_eq!(cached.model(), &model);
    let once = model.total_size() - large.len() as u64;
    assert_eq!(counted.served(), once, "equal content moves once");
    let Some(FetchEvent::Progress(last)) = events.last() else {
        unreachable!("{events:?}");
    };
    assert_eq!((last.done, last.total), (once, once));
    assert_eq!(last.eta, Some(Duration::ZERO));
    assert!(events.len() < 40, "{}", events.len());
    assert!(cache.contains(&model).unwrap());
    for file in ["data", "json", "lock"] {
        assert_eq!(parts(&cache, "partial", file), [PathBuf::new(); 0]);
    }
    check(&fetch(&cache, &store, &model).await.unwrap(), &files);
    let all = FetchOptions::default().with_rehash(true);
    let again = cache.fetch(&store, &model, &all, &|_| ()).await.unwrap();
    assert_eq!(counted.served(), 0);
    let tree = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        again.link_into(tree.path()).await.unwrap();
    }
    for (path, bytes) in files {
        assert!(std::fs::read(tree.path().join(path)).unwrap() == bytes);
    }
    std::fs::remove_file(tree.path().join("z")).unwrap();
    std::fs::write(tree.path().join("z"), "other").unwrap();
    assert_eq!(kind(again.link_into(tree.path()).await), ErrorKind::Io);
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_small_files() {
    let names: Vec<String> = (0..3_000)
        .map(|n| format!("part-{:02}/{n:04}", n % 50))
        .collect();
    let contents: Vec<Vec<u8>> = (0..3_000).map(|n| pattern(100, n)).collect();
    let files: BTreeMap<&str, &[u8]> = names
        .iter()
        .zip(&contents)
        .map(|(name, content)| (name.as_str(), content.as_slice()))
        .collect();
    let files: Vec<(&str, &[u8])> = files.into_iter().collect();
    let (counted, store, model) = world(&files).await;
    let (_dir, cache) = cache();
    for model in [model.clone(), unsealed(&model)] {
        let cached = fetch(&cache, &store, &model).await.unwrap();
        assert!(cached.model().files().is_sorted_by(|a, b| a.path < b.path));
        check(&cached, &files);
        drop(cached);
    }
    counted.served();
    fetch(&cache, &store, &unsealed(&model)).await.unwrap();
    assert_eq!(counted.served(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_without_digests_comes_back_with_them() {
    let large = pattern(3 * MIB, 5);
    let files: [(&str, &[u8]); 3] = [("empty", b""), ("large", &large), ("small", b"s")];
    let (counted, store, sealed) = world(&files).await;
    let model = unsealed(&sealed);
    let (_dir, cache) = cache();
    assert!(!cache.contains(&model).unwrap());
    let cached = fetch(&cache, &store, &model).await.unwrap();
    check(&cached, &files);
    assert_eq!(cached.model().tree_digest(), sealed.tree_digest());
    let trusts = cached.model().files().iter().map(|file| file.trust);
    assert!(trusts.eq([Some(Trust::Observed); 3]));
    assert_eq!(counted.served(), sealed.total_size());
    assert!(cache.contains(&model).unwrap());
    let again = fetch(&cache, &store, &model).await.unwrap();
    assert_eq!((again.model(), counted.served()), (cached.model(), 0));
    // What was found is good for the same objects only.
    assert_eq!(
        model.sealed_as(cached.model()).as_ref(),
        Some(cached.model())
    );
    counted
        .put("versions/1/files/small", Some(b"t".into()))
        .await;
    let other = unsealed(&store.resolve(&Selector::Latest).await.unwrap());
    assert_ne!(other.tree_digest(), model.tree_digest());
    assert_eq!(other.sealed_as(cached.model()), None);
    assert!(!cache.contains(&other).unwrap());
    let cached = fetch(&cache, &store, &other).await.unwrap();
    check(&cached, &[files[0], files[1], ("small", b"t")]);
    assert_eq!(counted.served(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_fetch_goes_on_where_its_journal_says() {
    let large = pattern(64 * MIB + 7, 9);
    let (counted, store, sealed) = world(&[("weights", &large)]).await;
    for model in [sealed.clone(), unsealed(&sealed)] {
        let (_dir, cache) = cache();
        let durable = interrupted(&counted, &cache, &model, 40 << 20).await;
        let (cached, events) = fetch_seen(&cache, &store, &model).await;
        check(&cached.unwrap(), &[("weights", &large)]);
        let resumed = events.iter().find_map(|event| match event {
            FetchEvent::Resumed { offset, .. } => Some(*offset),
            _ => None,
        });
        // The journal may have gone on between the question and the drop.
        let offset = resumed.unwrap();
        assert!(offset >= durable, "{offset} {durable}");
        let served = counted.served();
        assert!(
            served <= large.len() as u64 - offset + 4096,
            "{served} from {offset}"
        );
    }
}

/// Whatever of a partial file or its journal is damaged, the result is right.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_partials_start_anew() {
    let large = pattern(24 * MIB, 11);
    let (counted, store, model) = world(&[("weights", &large)]).await;
    let flip = |path: &Path, at: usize| {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[at] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    let edit = |path: &Path, key: &str, value: Value| {
        let mut journal: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        journal[key] = value;
        std::fs::write(path, journal.to_string()).unwrap();
    };
    type Damage<'a> = Box<dyn Fn(&Path, &Path, u64) + 'a>;
    let damages: Vec<(&str, Damage<'_>)> = vec![
        ("first byte", Box::new(|data, _, _| flip(data, 0))),
        (
            "last byte",
            Box::new(|data, _, end| flip(data, usize::try_from(end - 1).unwrap())),
        ),
        (
            "short",
            Box::new(|data, _, _| std::fs::write(data, b"x").unwrap()),
        ),
        (
            "gone",
            Box::new(|data, _, _| std::fs::remove_file(data).unwrap()),
        ),
        (
            "torn journal",
            Box::new(|_, journal, _| std::fs::write(journal, b"{").unwrap()),
        ),
        (
            "hash state",
            Box::new(|_, journal, _| {
                edit(journal, "sha256_state", json!("00".repeat(105)));
            }),
        ),
        (
            "less",
            Box::new(|_, journal, end| edit(journal, "durable", json!(end - 1))),
        ),
        (
            "more",
            Box::new(|_, journal, end| edit(journal, "durable", json!(end + 1))),
        ),
        (
            "schema",
            Box::new(|_, journal, _| edit(journal, "schema_version", json!(2))),
        ),
    ];
    for (what, damage) in damages {
        let (_dir, cache) = cache();
        interrupted(&counted, &cache, &model, 16 << 20).await;
        // The dropped fetch may still be writing its last journal: the lock says when it is not.
        let lock = std::fs::File::open(&parts(&cache, "partial", "lock")[0]).unwrap();
        tokio::task::block_in_place(|| lock.lock().unwrap());
        drop(lock);
        let end = journalled(cache.dir());
        let [data, journal] = ["data", "json"].map(|end| parts(&cache, "partial", end).remove(0));
        damage(&data, &journal, end);
        let (cached, events) = fetch_seen(&cache, &store, &model).await;
        check(&cached.unwrap(), &[("weights", &large)]);
        let served = counted.served();
        assert!(served >= large.len() as u64, "{what}: {served} {events:?}");
        assert!(
            served <= 2 * large.len() as u64,
            "{what}: {served} {events:?}"
        );
    }
}

/// Small files are not written through to the disk: what a crash left of them is seen.
#[tokio::test(flavor = "multi_thread")]
async fn a_small_file_that_is_damaged_is_fetched_again() {
    let (counted, store, model) = world(&[("a", b"good")]).await;
    let (_dir, cache) = cache();
    let path = fetch(&cache, &store, &model)
        .await
        .unwrap()
        .path("a")
        .unwrap();
    counted.served();
    for damage in [&b"bad!"[..], b"", b"longer than before"] {
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, damage).unwrap();
        check(
            &fetch(&cache, &store, &model).await.unwrap(),
            &[("a", b"good")],
        );
        assert_eq!(counted.served(), 4);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_replaced_between_two_fetches_is_never_mixed() {
    let [old, new] = [1, 2].map(|seed| pattern(40 * MIB, seed));
    for sealed in [true, false] {
        let (counted, store, model) = world(&[("weights", &old)]).await;
        let model = if sealed { model } else { unsealed(&model) };
        let (_dir, cache) = cache();
        interrupted(&counted, &cache, &model, 24 << 20).await;
        counted
            .put("versions/1/files/weights", Some(new.clone()))
            .await;
        let error = fetch(&cache, &store, &model).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Changed, "{error:?}");
        assert_eq!(journalled(cache.dir()), 0, "it is of no more use");
        if !sealed {
            let now = unsealed(&store.resolve(&Selector::Latest).await.unwrap());
            check(
                &fetch(&cache, &store, &now).await.unwrap(),
                &[("weights", &new)],
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partial_of_another_lock_is_thrown_away() {
    let [old, new] = [1, 2].map(|seed| pattern(40 * MIB, seed));
    let (counted, store, model) = world(&[("weights", &old)]).await;
    let (_dir, cache) = cache();
    interrupted(&counted, &cache, &unsealed(&model), 24 << 20).await;
    counted
        .put("versions/1/files/weights", Some(new.clone()))
        .await;
    let now = unsealed(&store.resolve(&Selector::Latest).await.unwrap());
    let (cached, events) = fetch_seen(&cache, &store, &now).await;
    check(&cached.unwrap(), &[("weights", &new)]);
    assert!(
        !events
            .iter()
            .any(|e| matches!(e, FetchEvent::Resumed { .. })),
        "{events:?}"
    );
    assert_eq!(counted.served(), new.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_with_another_digest_are_refused_and_leave_nothing() {
    for size in [10, 5 * MIB] {
        let (counted, store, model) = world(&[("weights", &vec![1; size])]).await;
        counted
            .put("versions/1/files/weights", Some(vec![2; size]))
            .await;
        // A lock that says the right tag and the wrong digest.
        let model = ModelVersion::clone(&model);
        let mut lock = serde_json::to_value(&model).unwrap();
        lock["files"][0]["etag"] = json!(null);
        let model: ModelVersion = serde_json::from_value(lock).unwrap();
        let (_dir, cache) = cache();
        let error = fetch(&cache, &store, &model).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DigestMismatch, "{error:?}");
        assert!(!cache.contains(&model).unwrap());
        assert_eq!(journalled(cache.dir()), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_want_one_model_fetch_it_once() {
    let large = pattern(24 * MIB, 3);
    let files: [(&str, &[u8]); 3] = [("a", b"1"), ("b", b"2"), ("weights", &large)];
    let (counted, store, sealed) = world(&files).await;
    for model in [sealed.clone(), unsealed(&sealed)] {
        let (_dir, cache) = cache();
        // Another handle on the same folder is what another process has.
        let other = ModelCache::open(cache.dir()).unwrap();
        counted.stop_at(8 << 20);
        let open = async {
            while journalled(cache.dir()) == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            counted.stop_at(u64::MAX);
        };
        let (one, two, ()) = tokio::join!(
            fetch_seen(&cache, &store, &model),
            fetch_seen(&other, &store, &model),
            open
        );
        let waited = |events: &[FetchEvent]| {
            let waiting = |event: &FetchEvent| matches!(event, FetchEvent::Waiting { path } if path == "weights");
            usize::from(events.iter().any(waiting))
        };
        assert_eq!(waited(&one.1) + waited(&two.1), 1);
        check(&one.0.unwrap(), &files);
        check(&two.0.unwrap(), &files);
        assert_eq!(counted.served(), sealed.total_size());
    }
}

/// Reading does not wait for the whole file, and the store is read once.
#[tokio::test(flavor = "multi_thread")]
async fn files_are_read_while_they_arrive() {
    let large = pattern(40 * MIB, 21);
    let files: [(&str, &[u8]); 3] = [("empty", b""), ("small", b"s"), ("weights", &large)];
    let (counted, store, model) = world(&files).await;
    let (_dir, cache) = cache();
    let durable = interrupted(&counted, &cache, &model, 24 << 20).await;
    counted.stop_at(32 << 20);
    let fetching = cache
        .fetching(&store, &model, &FetchOptions::default())
        .unwrap();
    assert!(fetching.file("no such file").is_none());
    let arriving = fetching.file("weights").unwrap();
    assert_eq!(arriving.size(), large.len() as u64);
    let read = async {
        let mut stream = arriving.open(0);
        let mut got = Vec::new();
        while got.len() < 24 * MIB {
            got.extend(stream.try_next().await.unwrap().unwrap());
        }
        // The store waits until here: these bytes were read before the rest was sent.
        counted.stop_at(u64::MAX);
        while let Some(chunk) = stream.try_next().await.unwrap() {
            got.extend(chunk);
        }
        got
    };
    let (cached, got) = tokio::join!(fetching.run(&|_| ()), read);
    assert!(got == large);
    assert!(counted.served() <= model.total_size() - durable + 4096);
    let cached = cached.unwrap();
    check(&cached, &files);
    let again = cache
        .fetching(&store, &model, &FetchOptions::default())
        .unwrap();
    let small = again.file("small").unwrap();
    let (done, bytes) = tokio::join!(again.run(&|_| ()), crate::fixtures::drain(small.open(0)));
    assert_eq!(
        (bytes.unwrap().as_slice(), counted.served()),
        (&b"s"[..], 0)
    );
    done.unwrap();
}

#[tokio::test]
async fn limits_and_room_are_asked_for_first() {
    let (counted, store, model) = world(&[("a", b"123"), ("b", b"456")]).await;
    let (_dir, cache) = cache();
    let refused = |options: FetchOptions| {
        let (cache, store, model) = (cache.clone(), store.clone(), model.clone());
        async move {
            cache
                .fetch(&store, &model, &options, &|_| ())
                .await
                .unwrap_err()
        }
    };
    let error = refused(FetchOptions::default().with_max_files(1)).await;
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(
        error.to_string().contains("2 files, and the limit is 1"),
        "{error}"
    );
    let error = refused(FetchOptions::default().with_max_bytes(5)).await;
    assert!(
        error.to_string().contains("6 bytes, and the limit is 5"),
        "{error}"
    );
    let error = refused(FetchOptions::default().with_keep_free(u64::MAX)).await;
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(
        error.to_string().contains("6 bytes are to be fetched"),
        "{error}"
    );
    assert!(error.to_string().contains("bytes are missing"), "{error}");
    assert!(
        error.hint().unwrap().contains("trim the cache"),
        "{error:?}"
    );
    assert_eq!(counted.served(), 0);
    let exact = FetchOptions::default().with_max_files(2).with_max_bytes(6);
    cache.fetch(&store, &model, &exact, &|_| ()).await.unwrap();
    // What is here needs no room.
    let full = FetchOptions::default().with_keep_free(u64::MAX);
    cache.fetch(&store, &model, &full, &|_| ()).await.unwrap();
}

/// Names that leave the folder, or that not every file system can keep apart, do not get here.
#[tokio::test]
async fn a_lock_with_names_that_cannot_be_files_is_none() {
    let (_, _, model) = world(&[("a", b"1"), ("b", b"2")]).await;
    for (path, why) in [
        ("../b", ".."),
        ("A", "case"),
        ("a/b", "folder"),
        ("/b", "empty"),
    ] {
        let text = serde_json::to_string(&model).unwrap();
        let text = text.replace("\"path\":\"b\"", &format!("\"path\":\"{path}\""));
        let error = serde_json::from_str::<ModelVersion>(&text).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trim_keeps_what_is_wanted_and_what_is_in_use() {
    let shared = pattern(2 * MIB, 1);
    let (counted, store, one) = world(&[("a", b"one"), ("shared", &shared)]).await;
    let source = dir(&[("a", b"two!"), ("shared", &shared)]);
    let two = unsealed(&publish(&store, source.path(), "2").await.unwrap());
    let source = dir(&[("w", &pattern(40 * MIB, 2))]);
    let three = publish(&store, source.path(), "3").await.unwrap();
    let (_dir, cache) = cache();
    fetch(&cache, &store, &one).await.unwrap();
    let held = fetch(&cache, &store, &two).await.unwrap();
    interrupted(&counted, &cache, &three, 24 << 20).await;
    let busy = cache.trim(&[], 0).await.unwrap();
    assert!(busy.in_use && busy.removed_files == 0);
    drop(held);
    // The dropped fetch gives its lock back when its last write has ended.
    let lock = std::fs::File::open(cache.dir().join("lock")).unwrap();
    tokio::task::block_in_place(|| lock.lock().unwrap());
    drop(lock);
    let roomy = cache.trim(&[&three], u64::MAX).await.unwrap();
    assert_eq!((roomy.removed_bytes, roomy.in_use), (0, false));
    assert!(journalled(cache.dir()) > 0);
    let trimmed = cache.trim(&[&two], 0).await.unwrap();
    assert_eq!(trimmed.kept_bytes, 4 + shared.len() as u64, "{trimmed:?}");
    assert!(cache.contains(&two).unwrap() && !cache.contains(&one).unwrap());
    assert_eq!(journalled(cache.dir()), 0);
    let nothing = cache.trim(&[], 0).await.unwrap();
    assert_eq!(
        (nothing.kept_bytes, parts(&cache, "known", "").len()),
        (0, 0)
    );
    assert!(!cache.contains(&two).unwrap());
}
