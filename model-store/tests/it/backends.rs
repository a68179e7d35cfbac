//! The conformance tests over every backend: memory, a directory, Azurite, versitygw.

use std::sync::Arc;

use modelship_model_store::{ModelStore, StoreOptions, StoreUrl};
use modelship_testkit::{Azurite, Versitygw, need};
use object_store::ObjectStore;
use object_store::aws::{AmazonS3, AmazonS3Builder};
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

pub(crate) fn memory_backend() -> Backend {
    let raw: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let shared = Arc::clone(&raw);
    Backend {
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
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory() {
    all(&memory_backend()).await;
}

pub(crate) fn directory_backend(dir: &std::path::Path) -> Backend {
    let root = StoreUrl::from_dir(&dir.join("with space @#%"), "models").unwrap();
    backend(
        root,
        StoreOptions::default(),
        Arc::new(LocalFileSystem::new()),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn directory() {
    let dir = tempfile::tempdir().unwrap();
    all(&directory_backend(dir.path())).await;
}

pub(crate) fn azurite_options(azurite: &Azurite) -> StoreOptions {
    options(&[
        ("AZURE_STORAGE_ENDPOINT", azurite.blob_endpoint()),
        ("AZURE_STORAGE_ACCOUNT_KEY", azurite.key().to_owned()),
    ])
}

pub(crate) async fn azure_backend() -> Option<(Azurite, Backend)> {
    let azurite = need(Azurite::start().await)?;
    need(azurite.create_container("models").await)?;
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
    let backend = backend(root, azurite_options(&azurite), Arc::new(raw));
    Some((azurite, backend))
}

#[tokio::test(flavor = "multi_thread")]
async fn azure() {
    if let Some((_azurite, backend)) = azure_backend().await {
        all(&backend).await;
    }
}

pub(crate) fn s3_options(server: &Versitygw) -> StoreOptions {
    options(&[
        ("AWS_ENDPOINT_URL_S3", server.endpoint()),
        ("AWS_REGION", server.region().to_owned()),
        ("AWS_ACCESS_KEY_ID", server.access_key().to_owned()),
        ("AWS_SECRET_ACCESS_KEY", server.secret_key().to_owned()),
    ])
}

pub(crate) async fn s3_backend() -> Option<(Versitygw, Backend)> {
    let server = need(Versitygw::start().await)?;
    need(server.create_bucket("models").await)?;
    let raw = s3_raw(&server, "models");
    let root = "s3://models/team/vision".parse().unwrap();
    let backend = backend(root, s3_options(&server), Arc::new(raw));
    Some((server, backend))
}

/// The objects of a bucket, as they are.
pub(crate) fn s3_raw(server: &Versitygw, bucket: &str) -> AmazonS3 {
    AmazonS3Builder::new()
        .with_endpoint(server.endpoint())
        .with_region(server.region())
        .with_access_key_id(server.access_key())
        .with_secret_access_key(server.secret_key())
        .with_allow_http(true)
        .with_bucket_name(bucket)
        .build()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn s3() {
    if let Some((_server, backend)) = s3_backend().await {
        all(&backend).await;
    }
}
