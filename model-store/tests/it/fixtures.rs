//! Directories with models in them, and helpers to read streams.

use std::path::Path;

use futures::TryStreamExt;
use modelship_model_store::{
    ByteStream, Error, ErrorKind, Event, ModelStore, ModelVersion, PublishOptions, Result,
};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

/// A directory with these files.
pub(crate) fn dir(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, bytes) in files {
        write(dir.path(), path, bytes);
    }
    dir
}

pub(crate) fn write(dir: &Path, path: &str, bytes: &[u8]) {
    let file = dir.join(path);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, bytes).unwrap();
}

/// Bytes that differ at every place, so that swapped parts are seen.
pub(crate) fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = std::iter::repeat_with(&mut step)
        .take(length.div_ceil(8))
        .flatten()
        .collect();
    bytes.truncate(length);
    bytes
}

pub(crate) async fn publish(store: &ModelStore, dir: &Path, version: &str) -> Result<ModelVersion> {
    store
        .publish(dir, version, PublishOptions::default(), &|_| ())
        .await
}

/// Publishes, and gives the events.
pub(crate) async fn publish_seen(
    store: &ModelStore,
    dir: &Path,
    version: &str,
) -> (Result<ModelVersion>, Vec<Event>) {
    let events = std::sync::Mutex::new(Vec::new());
    let done = store
        .publish(dir, version, PublishOptions::default(), &|event| {
            events.lock().unwrap().push(event);
        })
        .await;
    (done, events.into_inner().unwrap())
}

/// All bytes of a stream, or its error as ours.
pub(crate) async fn drain(stream: ByteStream) -> Result<Vec<u8>, Error> {
    let chunks: Result<Vec<_>, _> = stream.try_collect().await;
    chunks
        .map(|chunks| chunks.concat())
        .map_err(|error| *error.downcast::<Error>().unwrap())
}

pub(crate) async fn read(
    store: &ModelStore,
    model: &ModelVersion,
    path: &str,
) -> Result<Vec<u8>, Error> {
    drain(store.read(model, path, 0)?).await
}

pub(crate) fn kind<T: std::fmt::Debug>(result: Result<T, Error>) -> ErrorKind {
    result.unwrap_err().kind()
}

/// The SHA-256 of a text, in hexadecimal.
pub(crate) fn sha256(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}
