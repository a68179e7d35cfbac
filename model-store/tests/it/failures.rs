//! What people see when something is wrong: wrong keys, missing buckets, dead endpoints, and
//! files that change under the publisher's hands.

use modelship_model_store::{
    Error, ErrorKind, Event, ModelStore, PublishOptions, Selector, StoreOptions, StoreUrl,
};
use modelship_testkit::{Azurite, Versitygw, free_port, need};

use crate::backends::{azurite_options, options, s3_options};
use crate::fixtures::{dir, publish, read, write};

async fn refused(url: &str, options: &StoreOptions) -> Error {
    let store = ModelStore::open(&url.parse().unwrap(), options).unwrap();
    store.resolve(&Selector::Latest).await.unwrap_err()
}

#[tokio::test]
async fn azure_says_what_is_wrong() {
    let Some(azurite) = need(Azurite::start().await) else {
        return;
    };
    if need(azurite.create_container("models").await).is_none() {
        return;
    }
    let good = azurite_options(&azurite);
    let mut wrong = good.clone();
    let secret = "c2VjcmV0LXNlY3JldC1zZWNyZXQ=";
    wrong.azure_account_key = Some(secret.into());
    let error = refused(&format!("az://models.{}/digits", azurite.account()), &wrong).await;
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error:?}");
    assert!(
        error.to_string().contains("container models of account"),
        "{error}"
    );
    assert!(error.to_string().contains("account key"), "{error}");
    assert!(error.hint().unwrap().contains("AZURE_STORAGE_ACCOUNT_KEY"));
    assert!(!format!("{error:?}").contains(secret));
    let error = refused(&format!("az://nothing.{}/digits", azurite.account()), &good).await;
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        error.to_string().contains("container nothing of account"),
        "{error}"
    );
    assert!(
        error
            .hint()
            .unwrap()
            .starts_with("create container nothing"),
        "{error:?}"
    );
}

#[tokio::test]
async fn s3_says_what_is_wrong() {
    let Some(server) = need(Versitygw::start().await) else {
        return;
    };
    if need(server.create_bucket("models").await).is_none() {
        return;
    }
    let good = s3_options(&server);
    let mut wrong = good.clone();
    wrong.aws_secret_access_key = Some("wrong-secret-value".into());
    let error = refused("s3://models/digits", &wrong).await;
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error:?}");
    assert!(error.to_string().contains("bucket models"), "{error}");
    assert!(error.hint().unwrap().contains("AWS_SECRET_ACCESS_KEY"));
    assert!(!format!("{error:?}").contains("wrong-secret-value"));
    let error = refused("s3://nothing/digits", &good).await;
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    assert!(
        error.hint().unwrap().starts_with("create bucket nothing"),
        "{error:?}"
    );
}

/// In a bucket that keeps old versions, a lock goes on reading the bytes it was made for.
#[tokio::test]
async fn s3_versions_keep_a_lock_readable() {
    let Some(server) = need(Versitygw::start().await) else {
        return;
    };
    if need(server.create_versioned_bucket("kept").await).is_none() {
        return;
    }
    let options = s3_options(&server);
    let url: StoreUrl = "s3://kept/digits".parse().unwrap();
    let store = ModelStore::open(&url, &options).unwrap();
    let source = dir(&[("a", b"one")]);
    let model = publish(&store, source.path(), "1").await.unwrap();
    assert!(model.files()[0].version_id.is_some(), "{model:?}");
    let raw = object_store::aws::AmazonS3Builder::new()
        .with_endpoint(server.endpoint())
        .with_region(server.region())
        .with_access_key_id(server.access_key())
        .with_secret_access_key(server.secret_key())
        .with_allow_http(true)
        .with_bucket_name("kept")
        .build()
        .unwrap();
    let key = object_store::path::Path::parse("digits/versions/1/files/a").unwrap();
    object_store::ObjectStoreExt::put(&raw, &key, b"two".to_vec().into())
        .await
        .unwrap();
    assert_eq!(read(&store, &model, "a").await.unwrap(), b"one");
}

#[tokio::test]
async fn a_dead_endpoint_is_named_with_what_to_check() {
    let endpoint = format!("http://127.0.0.1:{}", free_port());
    let s3 = options(&[
        ("AWS_ENDPOINT_URL", endpoint.clone()),
        ("AWS_ACCESS_KEY_ID", "id".into()),
        ("AWS_SECRET_ACCESS_KEY", "SECRET".into()),
    ]);
    let azure = options(&[
        ("AZURE_STORAGE_ENDPOINT", format!("{endpoint}/acme")),
        ("AZURE_STORAGE_SAS_TOKEN", "sv=1&sig=SECRET".into()),
    ]);
    for (url, options, hint) in [
        ("s3://models/digits", &s3, "AWS_ENDPOINT_URL_S3"),
        ("az://models.acme/digits", &azure, "AZURE_STORAGE_ENDPOINT"),
    ] {
        let error = refused(url, options).await;
        assert_eq!(error.kind(), ErrorKind::Unreachable, "{error:?}");
        assert!(error.is_retryable());
        assert!(error.to_string().contains("no connection to"), "{error}");
        assert!(error.hint().unwrap().contains(hint), "{error:?}");
        let chain = format!("{error} {error:?} {:?}", std::error::Error::source(&error));
        assert!(!chain.contains("SECRET"), "{chain}");
        assert!(
            !format!(
                "{:?}",
                ModelStore::open(&url.parse().unwrap(), options).unwrap()
            )
            .contains("SECRET")
        );
    }
}

/// A file that changes between hashing and sending stops the publish, small or large.
#[tokio::test]
async fn a_file_that_changes_while_publishing_is_an_error() {
    let store = ModelStore::open(
        &"memory://digits".parse().unwrap(),
        &StoreOptions::default(),
    )
    .unwrap();
    for (version, size) in [("1", 10), ("2", (8 << 20) + 1)] {
        let source = dir(&[("a", &vec![0; size])]);
        let change = |event: Event| {
            if matches!(event, Event::Hashed { .. }) {
                write(source.path(), "a", &vec![1; size]);
            }
        };
        let error = store
            .publish(source.path(), version, PublishOptions::default(), &change)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Changed, "{error:?}");
        assert!(store.versions().await.unwrap().is_empty());
    }
}

/// A publish that is dropped half-way leaves nothing to resolve, and repeating it finishes it.
#[tokio::test]
async fn a_cancelled_publish_is_invisible_and_can_be_repeated() {
    let root = tempfile::tempdir().unwrap();
    let url = StoreUrl::from_dir(root.path(), "digits").unwrap();
    let store = ModelStore::open(&url, &StoreOptions::default()).unwrap();
    let source = dir(&[("a", b"1"), ("b", &vec![7; 20 << 20])]);
    let (stop, stopped) = tokio::sync::mpsc::unbounded_channel();
    let mut stopped = stopped;
    let report = |event: Event| {
        if matches!(event, Event::Uploading { .. }) {
            let _ = stop.send(());
        }
    };
    tokio::select! {
        biased;
        _ = stopped.recv() => {}
        _ = store.publish(source.path(), "1", PublishOptions::default(), &report) => {}
    }
    assert!(store.versions().await.unwrap().is_empty());
    assert_eq!(
        store.resolve(&Selector::Latest).await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    let model = publish(&store, source.path(), "1").await.unwrap();
    assert_eq!(read(&store, &model, "b").await.unwrap(), vec![7; 20 << 20]);
}
