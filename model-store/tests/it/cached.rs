//! The cache of models on this machine: what it fetches, what it finds, what it never trusts.

use std::collections::BTreeMap;
use std::time::Duration;

use modelship_model_store::{
    ErrorKind, FetchEvent, FetchOptions, ModelVersion, ReadOptions, Selector, Trust,
};
use serde_json::json;

use crate::caches::{
    MIB, cache, check, fetch, fetch_seen, interrupted, journalled, noise, parts, unsealed, world,
};
use crate::fixtures::{dir, kind, pattern, publish};

#[tokio::test(flavor = "multi_thread")]
async fn every_file_arrives_once_and_is_found_again() {
    let large = noise(11 * MIB + 3, 1);
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
        assert!(parts(&cache, "partial", file).is_empty());
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
    let large = noise(3 * MIB, 5);
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
    let read = ReadOptions::default().with_require(Trust::Manifest);
    let strict = FetchOptions::default().with_read(read);
    let refused = cache.fetch(&store, &model, &strict, &|_| ()).await;
    assert_eq!(kind(refused), ErrorKind::Untrusted);
    cache
        .fetch(&store, &sealed, &strict, &|_| ())
        .await
        .unwrap();
    counted.served();
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
    let shared = noise(2 * MIB, 1);
    let (counted, store, one) = world(&[("a", b"one"), ("shared", &shared)]).await;
    let source = dir(&[("a", b"two!"), ("shared", &shared)]);
    let two = unsealed(&publish(&store, source.path(), "2").await.unwrap());
    let source = dir(&[("w", &noise(12 * MIB, 2))]);
    let three = publish(&store, source.path(), "3").await.unwrap();
    let (_dir, cache) = cache();
    fetch(&cache, &store, &one).await.unwrap();
    let held = fetch(&cache, &store, &two).await.unwrap();
    interrupted(&counted, &cache, &three, 8 << 20).await;
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
