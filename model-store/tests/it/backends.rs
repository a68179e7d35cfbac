//! The conformance tests over every backend: memory, a directory, Azurite, versitygw.

use std::sync::Arc;

use modelship_model_store::{ModelStore, StoreOptions, StoreUrl};
use modelship_testkit::{Azurite, Versitygw, need};
use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;

use crate::conformance::{Backend, all};

/// Options read the way a program reads them.
pub(crate) fn options(variables: &[(&str, String)]) -> StoreOptions {
    StoreOptions::from_env(|name| {
        variables
            .iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.clone())
    })
}

fn backend(root: StoreUrl, options: StoreOptions, raw: Arc<dyn ObjectStore>) -> Backend {
    let path = root.path().to_owned();
    Backend {
        open: Box::new(move |model| {
            ModelStore::open(&root.join(model).unwrap(), &options).unwrap()
        }),
        raw,
        prefix: Box::new(move |model| format!("{path}/{model}")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory() {
    let raw: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let shared = Arc::clone(&raw);
    all(&Backend {
        open: Box::new(move |model| {
            let url = format!("memory://{model}").parse().unwrap();
            ModelStore::with_object_store(
                url,
                Arc::clone(&shared),
                Path::parse(format!("m/{model}")).unwrap(),
            )
        }),
        raw,
        prefix: Box::new(|model| format!("m/{model}")),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn directory() {
    let dir = tempfile::tempdir().unwrap();
    let root = StoreUrl::from_dir(&dir.path().join("with space @#%"), "models").unwrap();
    all(&backend(
        root,
        StoreOptions::default(),
        Arc::new(LocalFileSystem::new()),
    ))
    .await;
}

pub(crate) fn azurite_options(azurite: &Azurite) -> StoreOptions {
    options(&[
        ("AZURE_STORAGE_ENDPOINT", azurite.blob_endpoint()),
        ("AZURE_STORAGE_ACCOUNT_KEY", azurite.key().to_owned()),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn azure() {
    let Some(azurite) = need(Azurite::start().await) else {
        return;
    };
    if need(azurite.create_container("models").await).is_none() {
        return;
    }
    let raw = MicrosoftAzureBuilder::new()
        .with_account(azurite.account())
        .with_access_key(azurite.key())
        .with_endpoint(azurite.blob_endpoint())
        .with_allow_http(true)
        .with_container_name("models")
        .build()
        .unwrap();
    let root = format!("az://models.{}/team/vision", azurite.account())
        .parse()
        .unwrap();
    all(&backend(root, azurite_options(&azurite), Arc::new(raw))).await;
}

pub(crate) fn s3_options(server: &Versitygw) -> StoreOptions {
    options(&[
        ("AWS_ENDPOINT_URL_S3", server.endpoint()),
        ("AWS_REGION", server.region().to_owned()),
        ("AWS_ACCESS_KEY_ID", server.access_key().to_owned()),
        ("AWS_SECRET_ACCESS_KEY", server.secret_key().to_owned()),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn s3() {
    let Some(server) = need(Versitygw::start().await) else {
        return;
    };
    if need(server.create_bucket("models").await).is_none() {
        return;
    }
    let raw = AmazonS3Builder::new()
        .with_endpoint(server.endpoint())
        .with_region(server.region())
        .with_access_key_id(server.access_key())
        .with_secret_access_key(server.secret_key())
        .with_allow_http(true)
        .with_bucket_name("models")
        .build()
        .unwrap();
    let root = "s3://models/team/vision".parse().unwrap();
    all(&backend(root, s3_options(&server), Arc::new(raw))).await;
}
