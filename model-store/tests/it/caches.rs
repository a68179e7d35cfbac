//! Caches, models to fetch into them, and fetches that are broken off.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use futures::FutureExt as _;
use modelship_model_store::{
    CachedModel, FetchEvent, FetchOptions, ModelCache, ModelStore, ModelVersion, Result,
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::counted::Counted;
use crate::fixtures::{dir, pattern, publish};

pub(crate) const MIB: usize = 1 << 20;

/// As [`pattern`], and quickly: every 4 KiB differ from all others.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = pattern(64 << 10, seed).repeat(length.div_ceil(64 << 10));
    bytes.truncate(length);
    for (number, block) in bytes.chunks_mut(4096).enumerate() {
        let number = (number as u64).to_le_bytes();
        let count = block.len().min(number.len());
        block[..count].copy_from_slice(&number[..count]);
    }
    bytes
}

pub(crate) fn cache() -> (TempDir, ModelCache) {
    let dir = tempfile::tempdir().unwrap();
    let cache = ModelCache::open(&dir.path().join("cache")).unwrap();
    (dir, cache)
}

pub(crate) async fn world(files: &[(&str, &[u8])]) -> (Counted, ModelStore, ModelVersion) {
    let counted = Counted::new();
    let store = counted.store();
    let model = publish(&store, dir(files).path(), "1").await.unwrap();
    counted.served();
    (counted, store, model)
}

pub(crate) async fn fetch(
    cache: &ModelCache,
    store: &ModelStore,
    model: &ModelVersion,
) -> Result<CachedModel> {
    let options = FetchOptions::default();
    cache.fetch(store, model, &options, &|_| ()).await
}

/// Fetches, and gives the events.
pub(crate) async fn fetch_seen(
    cache: &ModelCache,
    store: &ModelStore,
    model: &ModelVersion,
) -> (Result<CachedModel>, Vec<FetchEvent>) {
    let events = Mutex::new(Vec::new());
    let sink = |event| events.lock().unwrap().push(event);
    let options = FetchOptions::default();
    let done = cache.fetch(store, model, &options, &sink).await;
    (done, events.into_inner().unwrap())
}

/// The same lock as it would be without a manifest.
pub(crate) fn unsealed(model: &ModelVersion) -> ModelVersion {
    let mut lock = serde_json::to_value(model).unwrap();
    let mut lines = String::new();
    for file in lock["files"].as_array_mut().unwrap() {
        let file = file.as_object_mut().unwrap();
        file.remove("sha256");
        file.remove("trust");
        let text = |name: &str| file.get(name).and_then(Value::as_str).unwrap_or_default();
        let (path, size) = (text("path"), &file["size"]);
        let (etag, version) = (text("etag"), text("version_id"));
        writeln!(lines, "{path} {size} etag:{etag} version:{version}").unwrap();
    }
    lock["tree_digest"] = json!(format!("sha256:{}", hex::encode(Sha256::digest(lines))));
    let model: ModelVersion = serde_json::from_value(lock).unwrap();
    assert!(!model.is_sealed());
    model
}

pub(crate) fn check(cached: &CachedModel, files: &[(&str, &[u8])]) {
    assert_eq!(cached.model().files().len(), files.len());
    assert!(cached.model().is_sealed());
    for (path, bytes) in files {
        let local = cached.path(path).unwrap();
        assert!(std::fs::read(&local).unwrap() == *bytes, "{path}");
        assert!(std::fs::metadata(local).unwrap().permissions().readonly());
    }
    assert_eq!(cached.path("no such file"), None);
}

/// The files of a folder below the cache with this ending.
pub(crate) fn parts(cache: &ModelCache, folder: &str, end: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(cache.dir().join(folder)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .filter(|path| path.to_str().unwrap().ends_with(end))
        .collect()
}

/// How many bytes the only journal of the cache speaks of.
pub(crate) fn journalled(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir.join("partial")).unwrap();
    let journal = entries
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|end| end == "json"));
    let Some(text) = journal.and_then(|path| std::fs::read(path).ok()) else {
        return 0;
    };
    let journal: Value = serde_json::from_slice(&text).unwrap();
    journal["durable"].as_u64().unwrap()
}

/// Fetches up to about `stop`, and drops the fetch there. Says how much is in the journal.
pub(crate) async fn interrupted(
    counted: &Counted,
    cache: &ModelCache,
    model: &ModelVersion,
    stop: u64,
) -> u64 {
    counted.stop_at(stop);
    let store = counted.store();
    let mut fetch = Box::pin(fetch(cache, &store, model));
    for _ in 0..2_000 {
        assert!((&mut fetch).now_or_never().is_none(), "it has to wait");
        if journalled(cache.dir())
            .checked_sub(1)
            .is_some_and(|n| n + (8 << 20) >= stop)
        {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(fetch);
    counted.stop_at(u64::MAX);
    let durable = journalled(cache.dir());
    assert!(durable > 0, "nothing was journalled");
    counted.served();
    durable
}
