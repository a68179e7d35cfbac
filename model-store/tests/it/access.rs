//! Credentials that may do little: what they are enough for, and what is said when they are not.

use std::time::Duration;

use modelship_model_store::{Error, ErrorKind, ModelStore, Selector, StoreOptions};
use modelship_testkit::{Azurite, need};
use object_store::ObjectStoreExt as _;
use object_store::azure::{MicrosoftAzure, MicrosoftAzureBuilder};
use object_store::path::Path;
use object_store::signer::Signer as _;

use crate::backends::options;
use crate::fixtures::read;

fn raw(azurite: &Azurite) -> MicrosoftAzure {
    MicrosoftAzureBuilder::new()
        .with_account(azurite.account())
        .with_access_key(azurite.key())
        .with_endpoint(azurite.blob_endpoint())
        .with_allow_http(true)
        .with_container_name("models")
        .build()
        .unwrap()
}

/// A signature that lets its bearer read one blob, and nothing else.
async fn signature(azurite: &Azurite, key: &str) -> StoreOptions {
    let (method, minute) = (http::Method::GET, Duration::from_mins(1));
    let path = Path::parse(key).unwrap();
    let signed = raw(azurite)
        .signed_url(method, &path, minute)
        .await
        .unwrap();
    options(&[
        ("AZURE_STORAGE_ENDPOINT", azurite.blob_endpoint()),
        (
            "AZURE_STORAGE_SAS_TOKEN",
            signed.query().unwrap().to_owned(),
        ),
    ])
}

async fn refused(store: &ModelStore, selector: &str) -> Error {
    let selector: Selector = selector.parse().unwrap();
    store.resolve(&selector).await.unwrap_err()
}

#[tokio::test]
async fn a_signature_for_one_blob_is_enough_for_it_and_says_what_it_lacks() {
    let Some(azurite) = need(Azurite::start().await) else {
        return;
    };
    if need(azurite.create_container("models").await).is_none() {
        return;
    }
    for key in ["digits.pkl", "m/1/w"] {
        let key = Path::parse(key).unwrap();
        raw(&azurite).put(&key, "bytes".into()).await.unwrap();
    }
    let options = signature(&azurite, "digits.pkl").await;
    let secret = options.azure_sas.clone().unwrap();
    let url = format!("az://models.{}/digits.pkl", azurite.account());
    let store = ModelStore::open(&url.parse().unwrap(), &options).unwrap();
    let model = store.resolve(&Selector::Latest).await.unwrap();
    assert_eq!(read(&store, &model, "digits.pkl").await.unwrap(), b"bytes");
    store.recheck(&model).await.unwrap();
    let url = format!("az://models.{}/m", azurite.account());
    let store = ModelStore::open(&url.parse().unwrap(), &options).unwrap();
    for selector in [
        "latest",
        "1",
        "^1",
        "newest",
        "before:2199-01-01",
        "alias:prod",
    ] {
        let error = refused(&store, selector).await;
        let refusal = matches!(error.kind(), ErrorKind::Forbidden | ErrorKind::Unauthorized);
        assert!(refusal, "{selector}: {error:?}");
        let text = error.to_string();
        assert!(text.contains("container models of account"), "{text}");
        assert!(text.contains("shared access signature"), "{text}");
        assert!(error.hint().unwrap().contains("AZURE_STORAGE_SAS_TOKEN"));
        let all = format!("{error:?} {:?}", std::error::Error::source(&error));
        assert!(!all.contains(&secret) && !all.contains("sig="), "{all}");
    }
}

/// A container that is not there is told from a model that is not, whatever is asked for.
#[tokio::test]
async fn a_missing_container_is_named_by_every_selector() {
    let Some(azurite) = need(Azurite::start().await) else {
        return;
    };
    let options = crate::backends::azurite_options(&azurite);
    for name in ["digits", "digits.pkl"] {
        let url = format!("az://nothing.{}/{name}", azurite.account());
        let store = ModelStore::open(&url.parse().unwrap(), &options).unwrap();
        let digest = format!("sha256:{}", "0".repeat(64));
        for selector in [
            "latest",
            "1",
            "^1",
            "newest",
            "before:2199-01-01",
            "alias:prod",
            "object:x",
            &digest,
        ] {
            let error = refused(&store, selector).await;
            assert_eq!(error.kind(), ErrorKind::NotFound, "{selector}: {error:?}");
            let hint = error.hint().unwrap();
            assert!(
                hint.starts_with("create container nothing"),
                "{selector}: {hint}"
            );
        }
    }
}
