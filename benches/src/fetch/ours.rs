//! Our way: ranged requests in parallel, in order, verified as they flow.

use std::time::{Duration, Instant};

use futures::TryStreamExt as _;
use modelship_model_store::{ModelStore, ModelVersion, ReadOptions, StoreOptions};
use sha2::{Digest as _, Sha256};

use crate::fetch::bucket::{Bucket, file};
use crate::{Result, machine};

/// The memory of a read, in bytes.
const WINDOW: u64 = 128 << 20;
/// Bytes hashed at a time by the loop that ours is compared with.
const CHUNK: usize = 1 << 20;

/// Reads the file for `streams` through `endpoint` with at most `requests` requests at a time.
pub(crate) async fn read(
    bucket: &Bucket,
    endpoint: &str,
    (streams, requests): (u32, Option<u32>),
) -> Result<Duration> {
    let store = bucket.store(endpoint)?;
    let mut options = ReadOptions::default().with_window(WINDOW);
    if let Some(requests) = requests {
        options = options.with_max_requests(usize::try_from(requests)?);
    }
    let start = Instant::now();
    drain(&store, &bucket.model, &file(streams), &options).await?;
    Ok(start.elapsed())
}

async fn drain(
    store: &ModelStore,
    model: &ModelVersion,
    path: &str,
    options: &ReadOptions,
) -> Result<()> {
    let mut bytes = store.read_with(model, path, 0, options)?;
    let mut seen = 0;
    while let Some(chunk) = bytes.try_next().await? {
        seen += chunk.len() as u64;
    }
    let size = model.file(path).map_or(0, |file| file.size);
    if seen == size {
        return Ok(());
    }
    Err(format!("the store gave {seen} of {size} bytes").into())
}

/// A model of one object of `size` zeros, whose digest is known, in the service at `endpoint`.
fn zeros(endpoint: &str, size: u64) -> Result<(ModelStore, ModelVersion)> {
    let mut options = StoreOptions::default();
    options.aws_endpoint = Some(endpoint.to_owned());
    options.anonymous = true;
    let url = "s3://zeros/weights".parse()?;
    let store = ModelStore::open(&url, &options)?;
    let sha256 = hex::encode(hash(size).0);
    let line = format!("zeros {size} {sha256}\n");
    let tree = hex::encode(Sha256::digest(line));
    let lock = serde_json::json!({
        "url": url, "selector": "1", "policy": "synthetic", "version": "1",
        "tree_digest": format!("sha256:{tree}"), "total_size": size, "folder": "files",
        "files": [{"path": "zeros", "size": size, "sha256": sha256, "etag": "\"zeros\""}],
    });
    Ok((store, serde_json::from_value(lock)?))
}

/// The SHA-256 of `size` zeros, and the time that the bare loop over memory took.
fn hash(size: u64) -> ([u8; 32], Duration) {
    let chunk = vec![0; CHUNK];
    let mut hasher = Sha256::new();
    let (start, mut left) = (Instant::now(), size);
    while left > 0 {
        let count = usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
        hasher.update(&chunk[..count]);
        left -= count as u64;
    }
    (hasher.finalize().into(), start.elapsed())
}

/// What one process measured that read an object of zeros.
#[derive(serde::Serialize, serde::Deserialize)]
pub(crate) struct Flat {
    /// The peak of its resident memory.
    pub(crate) rss_mib: u64,
    pub(crate) window_mib: u64,
    pub(crate) read_seconds: f64,
    /// The bare hash loop over as many bytes.
    pub(crate) hash_seconds: f64,
}

/// Reads `size` zeros from the service at `endpoint`, and then hashes as many from memory.
pub(crate) async fn flat(endpoint: &str, size: u64) -> Result<Flat> {
    let (store, model) = tokio::task::block_in_place(|| zeros(endpoint, size))?;
    let options = ReadOptions::default().with_window(WINDOW);
    let start = Instant::now();
    drain(&store, &model, "zeros", &options).await?;
    let read = start.elapsed();
    let rss_mib = machine::peak_rss_mib()?;
    let (_, hashed) = tokio::task::block_in_place(|| hash(size));
    Ok(Flat {
        rss_mib,
        window_mib: WINDOW >> 20,
        read_seconds: read.as_secs_f64(),
        hash_seconds: hashed.as_secs_f64(),
    })
}
