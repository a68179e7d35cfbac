//! What the engine does about slowness, throttling, missing digests and many small files.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use tokio::time::Instant;

use crate::error::{Error, ErrorKind};
use crate::model::{ModelVersion, Trust};
use crate::read::options::{Piece, Progress, ReadOptions};
use crate::read::tests::server::{Fault, Server, content};
use crate::read::tests::{ALL, Known, model, open};
use crate::{ByteStream, ModelStore, Scheme, StoreOptions, StoreUrl};

const NOTHING: Known = Known {
    sha256: false,
    tags: false,
};

/// Parts of 1 to 4 KiB in a window of 16 KiB.
fn small() -> ReadOptions {
    let options = ReadOptions {
        parts: 1 << 10..=4 << 10,
        ..ReadOptions::default()
    };
    options.with_window(16 << 10)
}

/// A store with one file of `size` bytes.
fn one(
    scheme: Scheme,
    size: usize,
    known: Known,
    faults: Vec<Fault>,
) -> (Server, ModelStore, ModelVersion) {
    let server = Server::new(scheme, faults);
    let model = model(&server, scheme, &[size], known);
    let store = open(&server, scheme);
    (server, store, model)
}

async fn drain(stream: ByteStream) -> Result<Vec<u8>, Error> {
    let chunks: Result<Vec<_>, _> = stream.try_collect().await;
    chunks
        .map(|chunks| chunks.concat())
        .map_err(|error| *error.downcast::<Error>().unwrap())
}

async fn read(
    store: &ModelStore,
    model: &ModelVersion,
    options: &ReadOptions,
) -> Result<Vec<u8>, Error> {
    drain(store.read_with(model, "f0", 0, options)?).await
}

/// `count` answers as they should be, then `fault`.
fn after(count: usize, fault: Fault) -> Vec<Fault> {
    let good = std::iter::repeat_n(Fault::None, count);
    good.chain([fault]).collect()
}

#[tokio::test(start_paused = true)]
async fn a_store_that_asks_for_a_pause_gets_it() {
    for (code, header, value, seconds) in [
        (503, "retry-after", "7", 7),
        (429, "x-ms-retry-after-ms", "9000", 9),
        (503, "retry-after", "100000", 60),
    ] {
        let refused = Fault::Status(code, vec![(header, value.to_owned())]);
        let (server, store, model) = one(Scheme::Azure, 5000, ALL, vec![refused]);
        let begun = Instant::now();
        let options = small().with_max_requests(1);
        assert_eq!(
            read(&store, &model, &options).await.unwrap(),
            content(5000, 0)
        );
        assert_eq!(begun.elapsed().as_secs(), seconds);
        assert_eq!(store.governor().limit(), 4, "half of what it was");
        assert_eq!(
            server.state().seen.requests,
            3,
            "two parts, one of them again"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn requests_of_every_kind_keep_the_pause() {
    let later = vec![("retry-after", "20".to_owned())];
    let (_server, store, _) = one(Scheme::S3, 10, ALL, vec![Fault::Status(503, later)]);
    let begun = Instant::now();
    let found = store.head("look", "versions/1/files/f0").await.unwrap();
    assert_eq!(found.unwrap().size, 10);
    assert_eq!(begun.elapsed().as_secs(), 20);
}

#[tokio::test(start_paused = true)]
async fn the_part_that_is_waited_for_is_asked_for_twice() {
    let faults = after(30, Fault::Stall(100));
    let (server, store, model) = one(Scheme::S3, 40 << 10, ALL, faults);
    let begun = Instant::now();
    let bytes = read(&store, &model, &small()).await.unwrap();
    assert!(bytes == content(40 << 10, 0));
    let taken = begun.elapsed();
    assert!(
        taken > Duration::from_secs(2) && taken < Duration::from_secs(5),
        "{taken:?}"
    );
    assert_eq!(
        server.state().seen.requests,
        41,
        "40 parts and one duplicate"
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_stuck_is_replaced_and_goes_on_where_it_was() {
    let (server, store, model) = one(Scheme::Azure, 4000, ALL, vec![Fault::Stall(999)]);
    server.state().pieces.0 = 10;
    let options = small().with_max_requests(1);
    let begun = Instant::now();
    assert_eq!(
        read(&store, &model, &options).await.unwrap(),
        content(4000, 0)
    );
    let taken = begun.elapsed().as_secs();
    assert!((10..=21).contains(&taken), "{taken}");
    assert_eq!(
        server.state().seen.requests,
        3,
        "two parts, one of them in two requests"
    );
}

#[tokio::test(start_paused = true)]
async fn a_slow_store_is_waited_for_as_long_as_bytes_come() {
    let (server, store, model) = one(Scheme::Azure, 9000, ALL, Vec::new());
    server.state().pieces = (1, Duration::from_secs(3));
    let options = small().with_max_requests(1);
    let begun = Instant::now();
    assert!(read(&store, &model, &options).await.unwrap() == content(9000, 0));
    assert_eq!(begun.elapsed().as_secs(), 27_000);
}

#[tokio::test(start_paused = true)]
async fn a_dead_store_is_given_up_after_some_tries() {
    let (server, store, model) = one(Scheme::S3, 9, ALL, vec![Fault::Refused; 50]);
    let error = read(&store, &model, &small()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
    assert_eq!(server.state().seen.requests, 6);
}

#[tokio::test(start_paused = true)]
async fn the_first_request_is_not_a_head_and_pins_what_is_not_pinned() {
    for scheme in [Scheme::Azure, Scheme::S3] {
        let known = Known {
            sha256: true,
            tags: false,
        };
        let (server, store, model) = one(scheme, 20_000, known, Vec::new());
        assert!(read(&store, &model, &small()).await.unwrap() == content(20_000, 0));
        check_gets(&server, scheme);
        // Of the same size: only the tag of the first answer can tell.
        let faults = after(3, Fault::Replaced(20_000));
        let (_server, store, model) = one(scheme, 20_000, NOTHING, faults);
        let error = read(&store, &model, &small()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Changed, "{error:?}");
    }
}

/// All requests were for ranges, and S3 was asked for checksums.
fn check_gets(server: &Server, scheme: Scheme) {
    let state = server.state();
    assert_eq!((state.seen.heads, state.seen.unranged), (0, 0));
    let asked = state.seen.with_checksum_mode;
    let all = state.seen.requests;
    assert_eq!(asked, if scheme == Scheme::S3 { all } else { 0 });
}

#[tokio::test(start_paused = true)]
async fn versions_are_sealed_with_what_the_store_states() {
    for (scheme, trust, heads) in [
        (Scheme::Azure, Trust::StoreMd5, 0),
        (Scheme::S3, Trust::StoreSha256, 1),
    ] {
        let server = Server::new(scheme, Vec::new());
        // Of the last one, S3 says the whole only when asked for it by itself.
        let sizes = [0, 500, 9000];
        let unsealed = model(
            &server,
            scheme,
            &sizes,
            Known {
                sha256: false,
                tags: true,
            },
        );
        let store = open(&server, scheme);
        let found = store.find_digests(&unsealed, &small()).await.unwrap();
        let sealed = unsealed.seal(&found).unwrap();
        assert!(sealed.is_sealed() && !unsealed.is_sealed());
        let known = model(&server, scheme, &sizes, ALL);
        assert_eq!(sealed.tree_digest(), known.tree_digest());
        assert!(
            sealed.files().iter().all(|file| file.trust == Some(trust)),
            "{sealed:?}"
        );
        assert_eq!(server.state().seen.heads, heads);
        let before = server.state().seen.requests;
        assert_eq!(store.seal_version(&sealed, &small()).await.unwrap(), sealed);
        assert_eq!(
            server.state().seen.requests,
            before,
            "nothing is read again"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_that_nobody_vouches_for_are_refused_when_that_is_required() {
    let (server, store, model) = one(Scheme::Azure, 9000, NOTHING, Vec::new());
    let enough = small().with_require(Trust::StoreMd5);
    assert!(read(&store, &model, &enough).await.unwrap() == content(9000, 0));
    let more = small().with_require(Trust::StoreSha256);
    let mut stream = store.read_with(&model, "f0", 0, &more).unwrap();
    let error = stream.next().await.unwrap().unwrap_err();
    let error = error.downcast::<Error>().unwrap();
    assert_eq!(error.kind(), ErrorKind::Untrusted, "{error:?}");
    assert!(error.to_string().contains("the store (md5)"), "{error}");
    drop(stream);
    // The lock's own word counts for what it is.
    let (_, store, model) = one(Scheme::Azure, 9000, ALL, Vec::new());
    assert!(
        read(&store, &model, &small().with_require(Trust::Manifest))
            .await
            .is_ok()
    );
    let error = read(&store, &model, &small().with_require(Trust::Signed))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Untrusted);
    // What the store states is compared, and not only believed.
    server.state().faults.extend(after(2, Fault::Flipped(3)));
    let (store, model) = (
        open(&server, Scheme::Azure),
        super::model(&server, Scheme::Azure, &[9000], NOTHING),
    );
    let error = read(&store, &model, &small()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DigestMismatch);
    assert!(error.to_string().contains("the store says"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn many_small_files_are_fetched_together_and_come_in_order() {
    let sizes: Vec<usize> = (0..60).map(|n| n * 7 % 50).collect();
    let late = vec![Fault::Late(Duration::from_millis(200)); sizes.len()];
    let server = Server::new(Scheme::S3, late);
    let model = model(&server, Scheme::S3, &sizes, ALL);
    let store = open(&server, Scheme::S3);
    let names: Vec<&str> = model
        .files()
        .iter()
        .map(|file| file.path.as_str())
        .collect();
    let options = ReadOptions::default();
    let begun = Instant::now();
    let mut pieces = store.read_many(&model, &names, &options).unwrap();
    let (mut files, mut ends) = (vec![Vec::new(); names.len()], Vec::new());
    while let Some(piece) = pieces.try_next().await.unwrap() {
        match piece {
            Piece::Chunk { file, bytes } => files[file].extend_from_slice(&bytes),
            Piece::End {
                file,
                sha256,
                trust,
            } => {
                assert_eq!(model.file(names[file]).unwrap().sha256, Some(sha256));
                assert_eq!(trust, Trust::Manifest);
                ends.push(file);
            }
        }
    }
    assert!(ends.iter().copied().eq(0..names.len()), "{ends:?}");
    for (name, bytes) in names.iter().zip(&files) {
        let number: usize = name[1..].parse().unwrap();
        assert_eq!(*bytes, content(sizes[number], 0), "{name}");
    }
    assert!(
        begun.elapsed() < Duration::from_secs(2),
        "{:?}",
        begun.elapsed()
    );
    let state = server.state();
    assert_eq!((state.seen.requests, state.seen.heads), (60, 0));
    // 0 * 7 and 50 * 7 have no bytes, and nothing to ask a range of.
    assert_eq!(state.seen.unranged, 2);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_holds_up_requests_and_never_answers() {
    let (server, store, model) = one(Scheme::Azure, 60 << 10, ALL, Vec::new());
    let mut stream = store.read_with(&model, "f0", 0, &small()).unwrap();
    let mut got = Vec::new();
    while let Some(bytes) = stream.try_next().await.unwrap() {
        got.extend_from_slice(&bytes);
        tokio::time::sleep(Duration::from_secs(100)).await;
        let state = server.state();
        assert_eq!(
            state.seen.running, 0,
            "all that was asked for has been taken"
        );
        // Plus one chunk that has just been given out.
        assert!(state.seen.requests * 1024 <= got.len() + (20 << 10));
    }
    assert!(got == content(60 << 10, 0));
}

#[tokio::test(start_paused = true)]
async fn a_read_that_is_dropped_stops_its_requests() {
    let (server, store, model) = one(Scheme::S3, 60 << 10, ALL, Vec::new());
    server.state().pieces = (10, Duration::from_secs(1));
    let mut stream = store.read_with(&model, "f0", 0, &small()).unwrap();
    tokio::select! {
        _ = stream.next() => panic!("it is slow"),
        () = tokio::time::sleep(Duration::from_secs(3)) => {}
    }
    let before = server.state().seen.requests;
    drop(stream);
    tokio::time::sleep(Duration::from_secs(1000)).await;
    let state = server.state();
    assert_eq!((state.seen.running, state.seen.requests), (0, before));
}

#[tokio::test(start_paused = true)]
async fn progress_says_how_far_how_fast_and_how_long() {
    let (server, store, model) = one(Scheme::Azure, 20_000, ALL, Vec::new());
    server.state().pieces = (1000, Duration::from_secs(1));
    let events = Arc::new(Mutex::new(Vec::<Progress>::new()));
    let sink = Arc::clone(&events);
    let options = small()
        .with_max_requests(1)
        .with_progress(move |now| sink.lock().unwrap().push(now.clone()));
    let stream = store.read_with(&model, "f0", 10_000, &options).unwrap();
    assert!(drain(stream).await.unwrap() == content(20_000, 0)[10_000..]);
    let events = events.lock().unwrap();
    assert!(events.is_sorted_by_key(|event| event.done));
    let last = events.last().unwrap();
    assert_eq!((last.done, last.total, &*last.path), (20_000, 20_000, "f0"));
    assert_eq!(last.eta(), Some(Duration::ZERO));
    assert!((800..1300).contains(&last.rate), "{last:?}");
}

#[test]
fn stores_on_one_account_share_what_they_know_of_it() {
    let key = |account: &str, name: &str| {
        let url: StoreUrl = format!("az://models.{account}/{name}").parse().unwrap();
        let options = StoreOptions {
            azure_account_key: Some("a2V5".into()),
            ..StoreOptions::default()
        };
        ModelStore::open(&url, &options).unwrap()
    };
    let one = key("sharedacct", "digits");
    let same = key("sharedacct", "faces");
    let other = key("otheracct", "digits");
    assert!(Arc::ptr_eq(one.governor(), same.governor()));
    assert!(!Arc::ptr_eq(one.governor(), other.governor()));
    one.governor().throttled(None);
    assert_eq!((same.governor().limit(), other.governor().limit()), (4, 8));
}
