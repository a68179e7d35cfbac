//! Watches: they go on over outages, and see what came meanwhile.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use modelship_model_store::{
    Error, ErrorKind, ModelRef, ModelStore, ModelVersion, ResolveOptions, RetractOptions, Selector,
    StoreOptions, WatchOptions, watch,
};
use modelship_testkit::{Versitygw, need};

use crate::backends::s3_options;
use crate::fixtures::{dir, publish, write};

type Watch = BoxStream<'static, Result<ModelVersion, Error>>;

fn often() -> WatchOptions {
    let mut options = WatchOptions::default().with_interval(Duration::from_millis(20));
    options.max_backoff = Duration::from_millis(100);
    options
}

/// The next version, over whatever passing failures; how many there were.
async fn next(watch: &mut Watch) -> (String, usize) {
    let mut failures = 0;
    for _ in 0..1_000 {
        match watch.next().await.unwrap() {
            Ok(model) => return (model.version().to_owned(), failures),
            Err(error) => {
                assert!(
                    error.is_retryable() || error.kind() == ErrorKind::NotFound,
                    "{error:?}"
                );
                failures += 1;
            }
        }
    }
    unreachable!("nothing but failures");
}

/// Waits until the watch has met an outage.
async fn failure(watch: &mut Watch) -> ErrorKind {
    for _ in 0..1_000 {
        if let Err(error) = watch.next().await.unwrap() {
            assert!(error.is_retryable(), "{error:?}");
            return error.kind();
        }
    }
    unreachable!("the watch does not notice that the store is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_survives_an_outage_of_the_store() {
    let Some(server) = need(Versitygw::start().await) else {
        return;
    };
    if need(server.create_bucket("models").await).is_none() {
        return;
    }
    let options = s3_options(&server);
    let reference: ModelRef = "s3://models/digits".parse().unwrap();
    let store = ModelStore::open(&reference.url, &options).unwrap();
    let source = dir(&[("a", b"1")]);
    publish(&store, source.path(), "1.0.0").await.unwrap();
    let mut watches = ["latest", "^1"].map(|selector| {
        let selector: Selector = selector.parse().unwrap();
        store.watch(selector, None, often())
    });
    for watch in &mut watches {
        assert_eq!(next(watch).await, ("1.0.0".into(), 0));
    }
    let stopped = server.stop();
    for watch in &mut watches {
        assert_eq!(failure(watch).await, ErrorKind::Unreachable);
    }
    let server = need(stopped.start().await).unwrap();
    write(source.path(), "a", b"2");
    publish(&store, source.path(), "1.1.0").await.unwrap();
    for watch in &mut watches {
        assert_eq!(next(watch).await.0, "1.1.0");
    }
    drop(server);
}

#[tokio::test]
async fn a_watch_waits_for_the_first_version_and_for_a_pointer_to_move_on() {
    let folder = tempfile::tempdir().unwrap();
    let reference = format!("file://{}/digits", folder.path().display());
    let reference: ModelRef = reference.parse().unwrap();
    let options = StoreOptions::default();
    let mut watched = watch(&reference, &options, often()).unwrap();
    let nothing = watched.next().await.unwrap().unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::NotFound);
    let store = ModelStore::open(&reference.url, &options).unwrap();
    let source = dir(&[("a", b"1")]);
    publish(&store, source.path(), "1.0.0").await.unwrap();
    assert_eq!(next(&mut watched).await.0, "1.0.0");
    write(source.path(), "a", b"2");
    publish(&store, source.path(), "1.1.0").await.unwrap();
    assert_eq!(next(&mut watched).await.0, "1.1.0");
    let retract = RetractOptions::default();
    store.retract("1.1.0", &retract).await.unwrap();
    assert_eq!(next(&mut watched).await.0, "1.0.0");
}

/// A folder of versions without pointer or marker, with the wait between two listings.
#[tokio::test]
async fn a_watch_sees_uploads_of_others() {
    let folder = tempfile::tempdir().unwrap();
    let reference = format!("file://{}/digits", folder.path().display());
    let reference: ModelRef = reference.parse().unwrap();
    let store = ModelStore::open(&reference.url, &StoreOptions::default()).unwrap();
    let quick = ResolveOptions::default().with_quiescence(Duration::from_millis(5));
    let store = store.with_resolve_options(quick);
    write(folder.path(), "digits/1/w", b"1");
    let mut watched = store.watch(Selector::Latest, None, often());
    assert_eq!(next(&mut watched).await.0, "1");
    write(folder.path(), "digits/2/w", b"2");
    assert_eq!(next(&mut watched).await.0, "2");
}
