//! Tests of the whole engine: over a directory, and over a store in this process that does
//! everything wrong that a store can do.

mod behaviour;
mod faults;
mod server;

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use sha2::{Digest as _, Sha256};

use crate::model::tree_digest;
use crate::read::tests::server::{Line, Object, Server, tag};
use crate::{
    ModelFile, ModelStore, ModelVersion, PublishOptions, Scheme, Selector, StoreOptions, StoreUrl,
};

#[tokio::test]
async fn a_file_is_given_out_in_large_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    std::fs::create_dir(&source).unwrap();
    let size = (9 << 20) + 7;
    std::fs::write(source.join("f"), vec![5; size]).unwrap();
    let url = StoreUrl::from_dir(dir.path(), "m").unwrap();
    let store = ModelStore::open(&url, &StoreOptions::default()).unwrap();
    let options = PublishOptions::default();
    store.publish(&source, "1", options, &drop).await.unwrap();
    let model = store.resolve(&Selector::Latest).await.unwrap();
    let chunks: Vec<Bytes> = store
        .read(&model, "f", 0)
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    let sizes: Vec<u64> = chunks.iter().map(|chunk| chunk.len() as u64).collect();
    assert_eq!(sizes, [[1 << 20; 9].as_slice(), &[7]].concat());
}

/// A store over `server`.
fn open(server: &Server, scheme: Scheme) -> ModelStore {
    let (url, options) = match scheme {
        Scheme::Azure => (
            "az://models.acme/m",
            StoreOptions {
                azure_endpoint: Some("http://127.0.0.1:1/acme".into()),
                azure_sas: Some("sv=1&sig=x".into()),
                ..StoreOptions::default()
            },
        ),
        _ => (
            "s3://models/m",
            StoreOptions {
                aws_endpoint: Some("http://127.0.0.1:1".into()),
                aws_access_key_id: Some("id".into()),
                aws_secret_access_key: Some("secret".into()),
                ..StoreOptions::default()
            },
        ),
    };
    let line = Arc::new(Line(server.clone()));
    ModelStore::open_over(&url.parse().unwrap(), &options, line).unwrap()
}

/// What a lock says about its files.
#[derive(Clone, Copy, Debug)]
struct Known {
    sha256: bool,
    tags: bool,
}

const ALL: Known = Known {
    sha256: true,
    tags: true,
};

/// Puts files of these sizes into `server`, and makes the lock of them.
fn model(server: &Server, scheme: Scheme, sizes: &[usize], known: Known) -> ModelVersion {
    let mut files = Vec::new();
    for (number, size) in sizes.iter().enumerate() {
        let name = format!("f{number}");
        let object = Object::new(*size, 0);
        let sha256 = || hex::encode(Sha256::digest(&object.bytes));
        let sha256 = known.sha256.then(sha256);
        let mut file = ModelFile::new(name.clone(), *size as u64, sha256);
        file.etag = known.tags.then(|| tag(&object));
        server.state().objects.insert(name, object);
        files.push(file);
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let url = match scheme {
        Scheme::Azure => "az://models.acme/m",
        _ => "s3://models/m",
    };
    let lock = serde_json::json!({
        "url": url, "selector": "1", "policy": "asked for", "version": "1",
        "tree_digest": tree_digest(&files),
        "total_size": files.iter().map(|file| file.size).sum::<u64>(),
        "folder": "versions/1/files", "files": files,
    });
    serde_json::from_value(lock).unwrap()
}
