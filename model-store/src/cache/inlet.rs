//! The bytes of one object in batches that are worth a write.

use bytes::{Buf as _, Bytes};
use futures::{FutureExt as _, StreamExt as _};

use super::pin::Pin;
use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::read::ByteStream;

/// Bytes taken at once, if so many are there without waiting.
const BATCH: usize = 4 << 20;

/// What comes next.
#[derive(Debug)]
pub(super) enum Batch {
    Bytes(Vec<Bytes>),
    /// The store's bytes are not those that lie on the disk at the same place.
    Other,
    End,
}

/// A stream of a file that goes on where an earlier one ended, from a little before that.
pub(super) struct Inlet<'a> {
    pin: &'a Pin,
    stream: ByteStream,
    /// What must come first, because it is here already.
    known: Bytes,
    failed: Option<Error>,
}

impl<'a> Inlet<'a> {
    pub(super) fn new(pin: &'a Pin, stream: ByteStream, known: Bytes) -> Self {
        Self {
            pin,
            stream,
            known,
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
            let Some(chunk) = self.stream.next().await else {
                return Ok(self.end());
            };
            if !self.take(chunk.map_err(|e| self.ours(e))?, &mut batch) {
                return Ok(Batch::Other);
            }
        }
        while count < BATCH {
            match self.stream.next().now_or_never() {
                Some(Some(Ok(chunk))) => {
                    count += chunk.len();
                    batch.push(chunk);
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
            Batch::End
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
    use crate::{ModelStore, StoreOptions};
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
            let mut items: Vec<Result<Bytes, BoxError>> = Vec::new();
            items.extend(
                chunks
                    .iter()
                    .map(|chunk| Ok(Bytes::from_static(chunk.as_bytes()))),
            );
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
                        Ok(Batch::End) => return said + "!end",
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
