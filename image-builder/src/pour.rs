//! Pouring a layer into a file: one pass that hashes, writes and reports.

use std::io;
use std::path::Path;
use std::sync::Arc;

use futures::TryStreamExt;
use oci_spec::image::Digest;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

use crate::error::{Error, Result};
use crate::hash::Hasher;
use crate::layer::Layer;
use crate::progress::{Event, Progress};

/// A report at least every so many bytes.
const REPORT: u64 = 4 * 1024 * 1024;

/// Writes the layer's stored bytes to `file` and gives their digest. `at` names the file's place
/// in errors.
pub(crate) async fn pour(
    layer: &Layer,
    file: &mut File,
    (stage, at): (&'static str, &Path),
    progress: Progress<'_>,
) -> Result<Digest> {
    let failed = |source: io::Error| Error::io(stage, at, "cannot write a blob", source);
    let object: Arc<str> = layer.history().into();
    let total = layer.len();
    let (mut hasher, mut reported) = (Hasher::default(), 0);
    let mut bytes = layer.open(0);
    while let Some(chunk) = bytes
        .try_next()
        .await
        .map_err(|e| Error::from_stream(stage, layer.history(), e))?
    {
        hasher.update(&chunk);
        file.write_all(&chunk).await.map_err(failed)?;
        let done = hasher.seen();
        if done - reported >= REPORT || done == total {
            reported = done;
            let object = Arc::clone(&object);
            progress(Event::Moved {
                object,
                done,
                total,
            });
        }
    }
    file.flush().await.map_err(failed)?;
    Ok(hasher.finish())
}
