//! What each step of a push takes when nothing else is done: no pass can be faster than these.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use sha2::{Digest, Sha256};

use crate::Result;
use crate::material::{FILE, Material};

/// Bytes hashed at a time: large enough for the hash to run at its speed, small enough for caches.
const CHUNK: usize = 1 << 20;

/// Reads the model from the store, verified as always, and drops the bytes.
pub(crate) async fn store_read(material: &Material) -> Result<Duration> {
    let start = Instant::now();
    let mut bytes = material.store.read(&material.model, FILE, 0)?;
    let mut seen = 0;
    while let Some(chunk) = bytes.try_next().await? {
        seen += chunk.len() as u64;
    }
    let took = start.elapsed();
    if seen != material.model.total_size() {
        return Err(format!("the store gave {seen} bytes").into());
    }
    Ok(took)
}

/// SHA-256 over the layer on one core. Reading the file is not counted.
pub(crate) async fn sha256(material: &Material) -> Result<Duration> {
    let tar = material.tar.clone();
    tokio::task::spawn_blocking(move || hash(&tar)).await?
}

fn hash(path: &Path) -> Result<Duration> {
    let mut file = File::open(path)?;
    let mut chunk = vec![0; CHUNK];
    let mut hasher = Sha256::new();
    let mut took = Duration::ZERO;
    loop {
        let count = file.read(&mut chunk)?;
        if count == 0 {
            break;
        }
        let start = Instant::now();
        hasher.update(&chunk[..count]);
        took += start.elapsed();
    }
    // The result is used, so that none of the work can be optimised away.
    std::hint::black_box(hasher.finalize());
    Ok(took)
}
