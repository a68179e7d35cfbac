//! The bytes of one object in batches that are worth a write.

use bytes::{Buf as _, Bytes};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};

use super::pin::Pin;
use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::model::{ModelVersion, Trust};
use crate::read::{Piece, PieceStream, ReadOptions};
use crate::store::ModelStore;

/// Bytes taken at once, if so many are there without waiting.
const BATCH: usize = 4 << 20;

/// What comes next.
#[derive(Debug)]
pub(super) enum Batch {
    Bytes(Vec<Bytes>),
    /// The store's bytes are not those that lie on the disk at the same place.
    Other,
    /// That was all; who says that it is right.
    End(Trust),
}

/// A stream of a file that goes on where an earlier one ended, from a little before that.
pub(super) struct Inlet<'a> {
    pin: &'a Pin,
    stream: PieceStream,
    /// What must come first, because it is here already.
    known: Bytes,
    trust: Trust,
    failed: Option<Error>,
}

impl<'a> Inlet<'a> {
    /// The file at `path` from the end of `known`, which ends at `at`.
    pub(super) fn open(
        (store, model, path): (&ModelStore, &ModelVersion, &str),
        pin: &'a Pin,
        (at, known): (u64, Bytes),
        options: &ReadOptions,
    ) -> Result<Self> {
        let from = at.saturating_sub(known.len() as u64);
        let stream = if from == 0 {
            store.read_many(model, &[path], options)?
        } else {
            let bytes = store.read_with(model, path, from, options)?;
            let piece = |bytes| Piece::Chunk { file: 0, bytes };
            bytes.map_ok(piece).boxed()
        };
        Ok(Self::new(pin, stream, known))
    }

    fn new(pin: &'a Pin, stream: PieceStream, known: Bytes) -> Self {
        Self {
            pin,
            stream,
            known,
            trust: Trust::Observed,
            failed: None,
        }
    }

    /// The next bytes; the error that ended the stream comes after those before it.
    pub(super) async fn next(&mut self) -> Result<Batch> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let (mut batch, mut count) = (Vec::new(), 0);
        while batch.is_empty() {
            match self.stream.next().await {
                None => return Ok(self.end()),
                Some(Err(error)) => return Err(self.ours(error)),
                Some(Ok(Piece::End { trust, .. })) => self.trust = trust,
                Some(Ok(Piece::Chunk { bytes, .. })) => {
                    if !self.take(bytes, &mut batch) {
                        return Ok(Batch::Other);
                    }
                }
            }
        }
        while count < BATCH {
            match self.stream.next().now_or_never() {
                Some(Some(Ok(Piece::End { trust, .. }))) => self.trust = trust,
                Some(Some(Ok(Piece::Chunk { bytes, .. }))) => {
                    count += bytes.len();
                    batch.push(bytes);
                }
                Some(Some(Err(error))) => {
                    self.failed = Some(self.ours(error));
                    break;
                }
                Some(None) | None => break,
            }
        }
        Ok(Batch::Bytes(batch))
    }

    /// Keeps what is new of a chunk; whether the rest is what is known.
    fn take(&mut self, mut chunk: Bytes, batch: &mut Vec<Bytes>) -> bool {
        let count = self.known.len().min(chunk.len());
        if chunk[..count] != self.known[..count] {
            return false;
        }
        self.known.advance(count);
        chunk.advance(count);
        if !chunk.is_empty() {
            batch.push(chunk);
        }
        true
    }

    fn end(&self) -> Batch {
        if self.known.is_empty() {
            Batch::End(self.trust)
        } else {
            Batch::Other
        }
    }

    /// The stream carries its error boxed; unboxed it keeps its kind and hint.
    fn ours(&self, error: BoxError) -> Error {
        match error.downcast::<Error>() {
            Ok(own) => *own,
            Err(other) => Error::new(
                ErrorKind::Unreachable,
                super::STAGE,
                self.pin.name(),
                "the read failed",
            )
            .with_source(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StoreOptions;
    use futures::stream;

    async fn pin() -> Pin {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a"), "a").unwrap();
        let url = "memory://m".parse().unwrap();
        let store = ModelStore::open(&url, &StoreOptions::default()).unwrap();
        let model = store.publish(dir.path(), "1", crate::PublishOptions::default(), &drop);
        let model = model.await.unwrap();
        Pin::of(&model, &model.files()[0])
    }

    #[tokio::test]
    async fn what_is_known_is_compared_and_not_given_again() {
        let pin = pin().await;
        let all = |known: &'static str, chunks: &[&'static str], error: bool| {
            let mut items: Vec<Result<Piece, BoxError>> = Vec::new();
            items.extend(chunks.iter().map(|chunk| {
                Ok(Piece::Chunk {
                    file: 0,
                    bytes: Bytes::from_static(chunk.as_bytes()),
                })
            }));
            items.extend(error.then(|| Err("cut".into())));
            let mut inlet = Inlet::new(&pin, stream::iter(items).boxed(), Bytes::from(known));
            async move {
                let mut said = String::new();
                loop {
                    match inlet.next().await {
                        Ok(Batch::Bytes(chunks)) => {
                            said.push_str(std::str::from_utf8(&chunks.concat()).unwrap());
                        }
                        Ok(Batch::Other) => return said + "!other",
                        Ok(Batch::End(_)) => return said + "!end",
                        Err(_) => return said + "!error",
                    }
                }
            }
        };
        assert_eq!(all("", &["ab", "c"], false).await, "abc!end");
        assert_eq!(all("abc", &["a", "", "bcd", "e"], false).await, "de!end");
        assert_eq!(all("abc", &["abc"], false).await, "!end");
        assert_eq!(all("abc", &["ab"], false).await, "!other");
        assert_eq!(all("abc", &["a", "x"], false).await, "!other");
        assert_eq!(all("", &["ab", "c"], true).await, "abc!error");
    }
}
