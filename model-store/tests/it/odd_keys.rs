//! Keys that no file can have: taken exactly, or refused by name. Each server has what it can.

use std::sync::Arc;
use std::time::Duration;

use modelship_model_store::{ErrorKind, ModelStore, ResolveOptions, Selector, StoreOptions};
use modelship_testkit::{Moto, need};
use object_store::aws::AmazonS3;
use object_store::path::Path;
use object_store::{Attribute, Attributes, ObjectStore, ObjectStoreExt, PutOptions};

use crate::backends::{azure_backend, azurite_options, options, s3_backend, s3_options, s3_raw};
use crate::conformance::Backend;
use crate::fixtures::read;

fn open(url: &str, options: &StoreOptions) -> ModelStore {
    let store = ModelStore::open(&url.parse().unwrap(), options).unwrap();
    let quiet = ResolveOptions::default().with_quiescence(Duration::ZERO);
    store.with_resolve_options(quiet)
}

async fn refusal(store: &ModelStore) -> String {
    let error = store.resolve(&Selector::Latest).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    assert!(
        error.hint().unwrap().contains("rename or remove"),
        "{error:?}"
    );
    error.to_string()
}

fn moto_options(moto: &Moto) -> StoreOptions {
    options(&[
        ("AWS_ENDPOINT_URL_S3", moto.endpoint()),
        ("AWS_REGION", "us-east-1".into()),
        ("AWS_ACCESS_KEY_ID", "any".into()),
        ("AWS_SECRET_ACCESS_KEY", "any".into()),
    ])
}

#[tokio::test]
async fn keys_that_no_file_can_have_are_refused_by_name() {
    let Some(moto) = need(Moto::start().await) else {
        return;
    };
    if need(moto.create_bucket("models").await).is_none() {
        return;
    }
    let options = moto_options(&moto);
    for (model, key, named) in [
        ("slashes", "1/a//b", "slashes/1/a//b"),
        ("level", "1//b", "level/1//b"),
        ("empty", "1/", ""),
        ("parent", "1/../b", "parent/1/../b"),
        ("dot", "1/./b", "dot/1/./b"),
        ("backslash", "1/a\\b", "a\\\\b"),
        ("control", "1/a\u{1}b", "control/1/a"),
        ("case", "1/W.BIN", "W.BIN"),
        (
            "both",
            "1/w.bin/part",
            "\"w.bin\" is both a file and a folder",
        ),
        ("drive", "1/C:/x", "C:/x"),
    ] {
        for key in ["1/w.bin", key] {
            let key = format!("{model}/{key}");
            moto.put_object("models", &key, b"bytes").await.unwrap();
        }
        let store = open(&format!("s3://models/{model}"), &options);
        if named.is_empty() {
            continue;
        }
        let text = refusal(&store).await;
        assert!(text.contains(named), "{key}: {text}");
    }
    // Of a folder without versions too, and only in that folder.
    moto.put_object("models", "plain/w", b"1").await.unwrap();
    moto.put_object("models", "plain/a//b", b"1").await.unwrap();
    let text = refusal(&open("s3://models/plain", &options)).await;
    assert!(text.contains("plain/a//b"), "{text}");
    moto.put_object("models", "good/1/w", b"1").await.unwrap();
    moto.put_object("models", "good-other/1//w", b"1")
        .await
        .unwrap();
    let good = open("s3://models/good", &options);
    assert_eq!(
        good.resolve(&Selector::Latest).await.unwrap().version(),
        "1"
    );
}

#[tokio::test]
async fn odd_keys_that_files_can_have_are_taken_exactly() {
    let Some(moto) = need(Moto::start().await) else {
        return;
    };
    if need(moto.create_bucket("models").await).is_none() {
        return;
    }
    let names = [
        "a%2Fb",
        "a b+c",
        "\u{fc}n\u{ef}/c\u{f6}d\u{e9} \u{1f642}",
        "~#?&=;:@!$'()*,[]{}|^`<>\"%",
    ];
    for name in names {
        let key = format!("odd/1/{name}");
        moto.put_object("models", &key, name.as_bytes())
            .await
            .unwrap();
    }
    // Markers of folders are no files; an empty file is one.
    for (key, bytes) in [
        ("odd/1/", ""),
        ("odd/1/sub/", ""),
        ("odd/1/\u{fc}n\u{ef}/", ""),
        ("odd/1/nothing", ""),
    ] {
        moto.put_object("models", key, bytes.as_bytes())
            .await
            .unwrap();
    }
    let store = open("s3://models/odd", &moto_options(&moto));
    let model = store.resolve(&Selector::Latest).await.unwrap();
    let mut expected: Vec<&str> = names.to_vec();
    expected.push("nothing");
    expected.sort_unstable();
    let found: Vec<&str> = model
        .files()
        .iter()
        .map(|file| file.path.as_str())
        .collect();
    assert_eq!(found, expected);
    for name in names {
        assert_eq!(
            read(&store, &model, name).await.unwrap(),
            name.as_bytes(),
            "{name}"
        );
    }
    assert_eq!(read(&store, &model, "nothing").await.unwrap(), b"");
    store.recheck(&model).await.unwrap();
}

/// Thousands of files come in several pages; all are there.
#[tokio::test]
async fn listings_of_several_pages_are_whole() {
    let Some((server, backend)) = s3_backend().await else {
        return;
    };
    // Written beside the server: a file of its folder is an object.
    let folder = server.data_dir().join("models/many/1");
    std::fs::create_dir_all(&folder).unwrap();
    for number in 0..2_345 {
        std::fs::write(folder.join(format!("part-{number:05}")), b"x").unwrap();
    }
    let store = open("s3://models/many", &s3_options(&server));
    let model = store.resolve(&Selector::Latest).await.unwrap();
    assert_eq!((model.files().len(), model.total_size()), (2_345, 2_345));
    drop(backend);
}

async fn put_marked(raw: &Arc<dyn ObjectStore>, key: &str) {
    let mut attributes = Attributes::new();
    attributes.insert(Attribute::Metadata("hdi_isfolder".into()), "true".into());
    let options = PutOptions {
        attributes,
        ..PutOptions::default()
    };
    let key = Path::parse(key).unwrap();
    raw.put_opts(&key, Vec::new().into(), options)
        .await
        .unwrap();
}

async fn put(backend: &Backend, key: &str) {
    let key = Path::parse(key).unwrap();
    backend
        .raw
        .put(&key, b"bytes".to_vec().into())
        .await
        .unwrap();
}

/// What Spark and the Hadoop driver leave: an empty object for each folder, marked as one.
#[tokio::test]
async fn folders_of_the_hadoop_driver_are_no_files() {
    let Some((azurite, backend)) = azure_backend().await else {
        return;
    };
    for key in [
        "spark/1/w.bin",
        "spark/1/sub/x%2Fy \u{fc}",
        "spark/1/_SUCCESS",
    ] {
        put(&backend, key).await;
    }
    for key in ["spark/1", "spark/1/sub", "spark/1/nothing-in-it"] {
        put_marked(&backend.raw, key).await;
    }
    let url = format!("az://models.{}/spark", azurite.account());
    let store = open(&url, &azurite_options(&azurite));
    let model = store.resolve(&Selector::Latest).await.unwrap();
    let found: Vec<&str> = model
        .files()
        .iter()
        .map(|file| file.path.as_str())
        .collect();
    assert_eq!(found, ["sub/x%2Fy \u{fc}", "w.bin"]);
    assert_eq!(read(&store, &model, found[0]).await.unwrap(), b"bytes");
}

/// A bucket that keeps old versions: locks are pinned to them, and one can be asked for.
#[tokio::test]
async fn object_versions_are_pinned_and_can_be_asked_for() {
    let Some((server, _backend)) = s3_backend().await else {
        return;
    };
    if need(server.create_versioned_bucket("kept").await).is_none() {
        return;
    }
    let raw: AmazonS3 = s3_raw(&server, "kept");
    let put = async |key: &str, text: &str| {
        let key = Path::parse(key).unwrap();
        raw.put(&key, text.to_owned().into())
            .await
            .unwrap()
            .version
            .unwrap()
    };
    let first = put("digits.pkl", "one").await;
    let options = s3_options(&server);
    let store = open("s3://kept/digits.pkl", &options);
    let locked = store.resolve(&Selector::Latest).await.unwrap();
    assert_eq!(locked.files()[0].version_id.as_ref(), Some(&first));
    put("digits.pkl", "two").await;
    assert_eq!(read(&store, &locked, "digits.pkl").await.unwrap(), b"one");
    assert_eq!(store.relock(&locked).await.unwrap(), locked);
    let selector: Selector = format!("object:{first}").parse().unwrap();
    let old = store.resolve(&selector).await.unwrap();
    assert_eq!(old.version(), locked.version());
    assert_eq!(read(&store, &old, "digits.pkl").await.unwrap(), b"one");
    let mut seen = None;
    assert!(store.poll(&selector, &mut seen).await.unwrap().is_some());
    assert!(store.poll(&selector, &mut seen).await.unwrap().is_none());
    // A folder's files too, with one request more for each.
    put("m/1/w", "one").await;
    put("m/1/x", "xxx").await;
    let store = open("s3://kept/m", &options);
    let locked = store.resolve(&Selector::Latest).await.unwrap();
    assert!(locked.files().iter().all(|file| file.version_id.is_some()));
    put("m/1/w", "two").await;
    assert_eq!(read(&store, &locked, "w").await.unwrap(), b"one");
    assert_eq!(store.relock(&locked).await.unwrap(), locked);
    assert_eq!(
        store.recheck(&locked).await.unwrap_err().kind(),
        ErrorKind::Changed
    );
}
