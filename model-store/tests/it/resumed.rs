//! Fetches that are broken off, waited for, and read from while they go on.

use std::path::Path;
use std::time::Duration;

use futures::TryStreamExt as _;
use modelship_model_store::{ErrorKind, FetchEvent, FetchOptions, ModelCache, Selector};
use serde_json::{Value, json};

use crate::caches::{
    MIB, cache, check, fetch, fetch_seen, interrupted, journalled, noise, parts, unsealed, world,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_fetch_goes_on_where_its_journal_says() {
    let large = noise(24 * MIB + 7, 9);
    let (counted, store, sealed) = world(&[("weights", &large)]).await;
    for model in [sealed.clone(), unsealed(&sealed)] {
        let (_dir, cache) = cache();
        let durable = interrupted(&counted, &cache, &model, 16 << 20).await;
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

/// Damages what is left of a broken-off fetch, which is `end` bytes by its journal.
fn damage(what: &str, (data, journal): (&Path, &Path), end: u64) {
    let flip = |at: u64| {
        let mut bytes = std::fs::read(data).unwrap();
        bytes[usize::try_from(at).unwrap()] ^= 1;
        std::fs::write(data, bytes).unwrap();
    };
    let edit = |key: &str, value: Value| {
        let mut note: Value = serde_json::from_slice(&std::fs::read(journal).unwrap()).unwrap();
        note[key] = value;
        std::fs::write(journal, note.to_string()).unwrap();
    };
    match what {
        "first byte" => flip(0),
        "last byte" => flip(end - 1),
        "short" => std::fs::write(data, b"x").unwrap(),
        "gone" => std::fs::remove_file(data).unwrap(),
        "torn" => std::fs::write(journal, b"{").unwrap(),
        "state" => edit("sha256_state", json!("00".repeat(105))),
        "less" => edit("durable", json!(end - 1)),
        "more" => edit("durable", json!(end + 1)),
        "schema" => edit("schema_version", json!(2)),
        _ => unreachable!("{what}"),
    }
}

/// Whatever of a partial file or its journal is damaged, the result is right.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_partials_start_anew() {
    let large = noise(12 * MIB, 11);
    let (counted, store, model) = world(&[("weights", &large)]).await;
    for what in [
        "first byte",
        "last byte",
        "short",
        "gone",
        "torn",
        "state",
        "less",
        "more",
        "schema",
    ] {
        let (_dir, cache) = cache();
        interrupted(&counted, &cache, &model, 8 << 20).await;
        // The dropped fetch may still be writing its last journal: the lock says when it is not.
        let lock = std::fs::File::open(&parts(&cache, "partial", "lock")[0]).unwrap();
        tokio::task::block_in_place(|| lock.lock().unwrap());
        drop(lock);
        let end = journalled(cache.dir());
        let [data, journal] = ["data", "json"].map(|end| parts(&cache, "partial", end).remove(0));
        damage(what, (&data, &journal), end);
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

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_replaced_between_two_fetches_is_never_mixed() {
    let [old, new] = [1, 2].map(|seed| noise(20 * MIB, seed));
    for sealed in [true, false] {
        let (counted, store, model) = world(&[("weights", &old)]).await;
        let model = if sealed { model } else { unsealed(&model) };
        let (_dir, cache) = cache();
        interrupted(&counted, &cache, &model, 12 << 20).await;
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
    let [old, new] = [1, 2].map(|seed| noise(20 * MIB, seed));
    let (counted, store, model) = world(&[("weights", &old)]).await;
    let (_dir, cache) = cache();
    interrupted(&counted, &cache, &unsealed(&model), 12 << 20).await;
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
async fn two_who_want_one_model_fetch_it_once() {
    let large = noise(12 * MIB, 3);
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
    let large = noise(20 * MIB, 21);
    let files: [(&str, &[u8]); 3] = [("empty", b""), ("small", b"s"), ("weights", &large)];
    let (counted, store, model) = world(&files).await;
    let (_dir, cache) = cache();
    let durable = interrupted(&counted, &cache, &model, 12 << 20).await;
    counted.stop_at(16 << 20);
    let fetching = cache
        .fetching(&store, &model, &FetchOptions::default())
        .unwrap();
    assert!(fetching.file("no such file").is_none());
    let arriving = fetching.file("weights").unwrap();
    assert_eq!(arriving.size(), large.len() as u64);
    let read = async {
        let mut stream = arriving.open(0);
        let mut got = Vec::new();
        while got.len() < 12 * MIB {
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
