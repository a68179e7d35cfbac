//! Work that blocks, on the threads that are there for it.

use crate::error::{Error, ErrorKind, Result};

/// Runs `work` where it may block. Work that panics is an error of `stage` about `object`.
pub(crate) async fn blocking<T: Send + 'static>(
    (stage, object): (&'static str, &str),
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| {
        let detail = "the task that works on files ended";
        Err(Error::new(ErrorKind::Io, stage, object, detail).with_source(error))
    })
}
