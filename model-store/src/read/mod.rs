//! Reads files: ordered parts from parallel ranged requests, pinned, retried, verified.

mod check;
mod fetch;
mod meter;
mod options;
mod patience;
mod plan;
mod seal;
mod source;
mod stream;

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};

use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::model::{ModelFile, ModelVersion};
use crate::read::plan::Plan;
use crate::read::source::Source;
use crate::store::ModelStore;

pub use options::{Piece, Progress, ProgressSink, ReadOptions};

/// Bytes of a file in order; the length is known from elsewhere.
pub type ByteStream = BoxStream<'static, Result<Bytes, BoxError>>;

/// Pieces of several files, in order.
pub type PieceStream = BoxStream<'static, Result<Piece, BoxError>>;

/// The size of one uploaded part, in bytes.
pub(crate) const PART: u64 = 8 << 20;
pub(crate) const STAGE: &str = "read model file";

impl ModelStore {
    /// The bytes of a file of `model`, from offset `from` to its end, in order, with the default
    /// [`ReadOptions`].
    ///
    /// # Errors
    /// Those of [`read_with`](Self::read_with).
    pub fn read(&self, model: &ModelVersion, path: &str, from: u64) -> Result<ByteStream> {
        self.read_with(model, path, from, &ReadOptions::default())
    }

    /// The bytes of a file of `model`, from offset `from` to its end, in order.
    ///
    /// The file is asked for in parts of 1 to 8 MiB, several at once, each pinned to the tag in
    /// the lock and tried again by itself from where it was cut off; there is no limit to the time
    /// that all of it takes, as long as bytes come. What is held is bounded by
    /// [`ReadOptions::with_window`].
    ///
    /// When `from` is 0, the digest of the whole is checked before the last chunk is given out:
    /// the SHA-256 that the lock has, else the best checksum of the whole object that the store
    /// states. From another offset nothing is compared. Must be polled within a Tokio runtime.
    ///
    /// # Errors
    /// At once: `NotFound` for a file the version does not have, `Invalid` for an offset beyond
    /// its end. In the stream, as boxed [`Error`]: `Changed` (changed during read) when the object
    /// was replaced, `DigestMismatch`, `Untrusted` when nobody vouches for the bytes who is
    /// trusted enough, and those of the store.
    pub fn read_with(
        &self,
        model: &ModelVersion,
        path: &str,
        from: u64,
        options: &ReadOptions,
    ) -> Result<ByteStream> {
        let file = find(model, path)?;
        if from > file.size {
            let detail = format!("offset {from} is beyond the end at {}", file.size);
            return Err(Error::invalid(STAGE, name(model, path), detail));
        }
        let source = Source::new(self, model, file);
        let plan = self.plan(vec![source], from, options);
        Ok(chunks(stream::pieces(plan, false)).err_into().boxed())
    }

    /// Several files of `model`, one after the other in the order of `paths`, whole.
    ///
    /// They share one queue of requests: while one file is given out, the next ones are on their
    /// way, so that thousands of small files take hardly longer than one large one. Every file
    /// ends with [`Piece::End`], and its last chunk is given out when its digest was checked.
    ///
    /// # Errors
    /// As [`read_with`](Self::read_with).
    pub fn read_many(
        &self,
        model: &ModelVersion,
        paths: &[&str],
        options: &ReadOptions,
    ) -> Result<PieceStream> {
        let sources = paths
            .iter()
            .map(|path| Ok(Source::new(self, model, find(model, path)?)))
            .collect::<Result<_>>()?;
        let plan = self.plan(sources, 0, options);
        Ok(stream::pieces(plan, true).err_into().boxed())
    }

    /// Whether the store already has exactly these bytes at `path`, by reading them.
    pub(crate) async fn has_content(&self, path: &str, file: &ModelFile) -> Result<bool> {
        let Some(meta) = self.head(STAGE, path).await? else {
            return Ok(false);
        };
        if meta.size != file.size {
            return Ok(false);
        }
        let source = Source::expected(self, path, (meta.size, meta.e_tag), file.sha256.clone());
        let plan = self.plan(vec![source], 0, &ReadOptions::default());
        let mut pieces = std::pin::pin!(stream::pieces(plan, false));
        loop {
            match pieces.try_next().await {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(true),
                Err(error)
                    if matches!(error.kind(), ErrorKind::DigestMismatch | ErrorKind::Changed) =>
                {
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn plan(&self, sources: Vec<Source>, from: u64, options: &ReadOptions) -> Plan {
        let sources = sources.into_iter().map(Arc::new).collect();
        Plan::new(sources, from, options.clone(), Arc::clone(self.governor()))
    }
}

fn find<'a>(model: &'a ModelVersion, path: &str) -> Result<&'a ModelFile> {
    model.file(path).ok_or_else(|| {
        let files = model.files().iter().take(10);
        let names: Vec<&str> = files.map(|file| file.path.as_str()).collect();
        let detail = format!("the version has no such file: found {}", names.join(", "));
        Error::new(ErrorKind::NotFound, STAGE, name(model, path), detail)
    })
}

fn name(model: &ModelVersion, path: &str) -> String {
    format!("{}@{}/{path}", model.url(), model.version())
}

/// The bytes of a read of one file.
fn chunks(
    pieces: impl futures::Stream<Item = Result<Piece>> + Send + 'static,
) -> impl futures::Stream<Item = Result<Bytes>> + Send + 'static {
    pieces.try_filter_map(|piece| async move {
        Ok(match piece {
            Piece::Chunk { bytes, .. } => Some(bytes),
            Piece::End { .. } => None,
        })
    })
}

#[cfg(test)]
mod tests;
