//! Reads files: ordered parts from parallel ranged requests, pinned, retried, verified.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_stream::try_stream;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResult, GetResultPayload};
use sha2::{Digest as _, Sha256};
use tokio::task::JoinHandle;

use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::model::{ModelFile, ModelVersion};
use crate::pool::Pool;
use crate::store::ModelStore;

/// Bytes of a file in order; the length is known from elsewhere.
pub type ByteStream = BoxStream<'static, Result<Bytes, BoxError>>;

const STAGE: &str = "read model file";
/// The size of one ranged request, in bytes.
pub(crate) const PART: u64 = 8 << 20;
/// Parts requested ahead of the consumer. With the part being consumed, a read holds at most
/// `(PARTS_AHEAD + 1) * PART` = 40 MiB.
const PARTS_AHEAD: usize = 4;
/// Tries for one part, each with the storage library's own quick retries inside.
const TRIES: u32 = 3;

/// An object, and which bytes of it are meant.
#[derive(Clone, Debug)]
struct Source {
    path: String,
    size: u64,
    etag: Option<String>,
    version_id: Option<String>,
}

impl ModelStore {
    /// The bytes of a file of `model`, from offset `from` to its end, in order.
    ///
    /// The file is requested in parts of 8 MiB, four of them ahead of the consumer, so that at
    /// most 40 MiB are held. Every part is pinned to the tag in the lock and retried by itself.
    /// When `from` is 0, the SHA-256 is checked before the last part is given out. Must be polled
    /// within a Tokio runtime.
    ///
    /// # Errors
    /// At once: `NotFound` for a file the version does not have, `Invalid` for an offset beyond
    /// its end. In the stream, as boxed [`Error`]: `Changed` (changed during read) when the object
    /// was replaced, `DigestMismatch`, and those of the store.
    pub fn read(&self, model: &ModelVersion, path: &str, from: u64) -> Result<ByteStream> {
        let object = format!("{}@{}/{path}", model.url(), model.version());
        let Some(file) = model.file(path) else {
            let names: Vec<&str> = model
                .files()
                .iter()
                .take(10)
                .map(|file| file.path.as_str())
                .collect();
            let detail = format!("the version has no such file: found {}", names.join(", "));
            return Err(Error::new(ErrorKind::NotFound, STAGE, object, detail));
        };
        if from > file.size {
            let detail = format!("offset {from} is beyond the end at {}", file.size);
            return Err(Error::invalid(STAGE, object, detail));
        }
        let source = Source::of(model, file);
        let expected = file.sha256.clone().filter(|_| from == 0);
        Ok(self
            .stream(source, from, expected)
            .map_err(BoxError::from)
            .boxed())
    }

    /// Whether the store already has exactly these bytes at `path`, by reading them.
    pub(crate) async fn has_content(&self, path: &str, file: &ModelFile) -> Result<bool> {
        let Some(meta) = self.head(STAGE, path).await? else {
            return Ok(false);
        };
        if meta.size != file.size {
            return Ok(false);
        }
        let source = Source {
            path: path.to_owned(),
            size: meta.size,
            etag: meta.e_tag,
            version_id: None,
        };
        let mut stream = std::pin::pin!(self.stream(source, 0, file.sha256.clone()));
        loop {
            match stream.try_next().await {
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

    fn stream(
        &self,
        source: Source,
        from: u64,
        expected: Option<String>,
    ) -> impl Stream<Item = Result<Bytes>> + Send + 'static {
        let store = self.clone();
        let source = Arc::new(source);
        try_stream! {
            if source.size == 0 {
                // An empty object has no range to ask for.
                store.check_empty(&source).await?;
            }
            let mut hashing = expected.is_some().then(Hashing::new);
            let mut parts = std::pin::pin!(store.parts(&source, from));
            let mut at = from;
            while let Some(part) = parts.try_next().await? {
                at += part.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
                if let Some(so_far) = hashing.take() {
                    hashing = Some(so_far.add(&part).await?);
                }
                if at == source.size && let Some((hashing, expected)) = hashing.take().zip(expected.as_ref()) {
                    store.check_digest(&source, hashing.settle().await?, expected)?;
                }
                for chunk in part {
                    yield chunk;
                }
            }
            if let Some((hashing, expected)) = hashing.zip(expected) {
                store.check_digest(&source, hashing.settle().await?, &expected)?;
            }
        }
    }

    /// The parts from `from` to the end, in order, requested ahead by tasks of their own: a slow
    /// consumer delays new requests, but never the bytes of one that is running.
    fn parts(
        &self,
        source: &Arc<Source>,
        from: u64,
    ) -> impl Stream<Item = Result<Vec<Bytes>>> + Send + 'static {
        let (store, source) = (self.clone(), Arc::clone(source));
        let (size, pool) = (source.size, Pool::new(source.size));
        let starts =
            stream::iter((from..size).step_by(usize::try_from(PART).unwrap_or(usize::MAX)));
        let spawn = move |start: u64| {
            let (store, source, pool) = (store.clone(), Arc::clone(&source), pool.clone());
            let range = start..(start + PART).min(size);
            let task = Abort(tokio::spawn(async move {
                store.part(&source, range, &pool).await
            }));
            async move { task.join().await }
        };
        starts.map(spawn).buffered(PARTS_AHEAD)
    }

    /// One part, tried again where that may help.
    async fn part(&self, source: &Source, range: Range<u64>, pool: &Pool) -> Result<Vec<Bytes>> {
        let mut tries = 1;
        loop {
            match self.try_part(source, range.clone(), pool).await {
                Err(error) if error.is_retryable() && tries < TRIES => {
                    tokio::time::sleep(Duration::from_millis(200) * 2_u32.pow(tries)).await;
                    tries += 1;
                }
                result => return result,
            }
        }
    }

    async fn try_part(
        &self,
        source: &Source,
        range: Range<u64>,
        pool: &Pool,
    ) -> Result<Vec<Bytes>> {
        let length = range.end - range.start;
        let found = self.get(
            source,
            GetOptions {
                range: Some(GetRange::Bounded(range)),
                ..GetOptions::default()
            },
        );
        let chunks = chunks(found.await?, pool.clone()).await;
        let chunks = chunks.map_err(|error| self.changed_or(source, &error))?;
        let got = chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
        if got != length {
            let detail = format!("the answer ended after {got} of {length} bytes");
            return Err(Error::new(
                ErrorKind::Unreachable,
                STAGE,
                self.name_of(&source.path),
                detail,
            ));
        }
        Ok(chunks)
    }

    async fn check_empty(&self, source: &Source) -> Result<()> {
        self.get(
            source,
            GetOptions {
                head: true,
                ..GetOptions::default()
            },
        )
        .await
        .map(drop)
    }

    /// One request, pinned to the source's tag and version.
    async fn get(&self, source: &Source, options: GetOptions) -> Result<GetResult> {
        let options = GetOptions {
            if_match: source.etag.clone(),
            version: source.version_id.clone(),
            ..options
        };
        let key: Path = self.key(&source.path)?;
        let found = self.objects().get_opts(&key, options).await;
        let found = found.map_err(|error| self.changed_or(source, &error))?;
        if found.meta.size != source.size {
            return Err(self.changed(source));
        }
        Ok(found)
    }

    /// A pinned object that is gone, or whose range is, has changed.
    fn changed_or(&self, source: &Source, error: &object_store::Error) -> Error {
        let changed = matches!(
            error,
            object_store::Error::Precondition { .. } | object_store::Error::NotFound { .. }
        );
        let ours = self.error(STAGE, &source.path, error);
        if changed {
            self.changed(source).with_source(ours)
        } else {
            ours
        }
    }

    fn changed(&self, source: &Source) -> Error {
        let detail = "changed during read: the object is no longer the one that was resolved";
        Error::new(
            ErrorKind::Changed,
            STAGE,
            self.name_of(&source.path),
            detail,
        )
        .with_hint("resolve the model again")
    }

    fn check_digest(&self, source: &Source, hasher: Sha256, expected: &str) -> Result<()> {
        let actual = hex::encode(hasher.finalize());
        if actual == expected {
            return Ok(());
        }
        let detail = format!("the bytes have sha256 {actual}, the manifest says {expected}");
        Err(Error::new(
            ErrorKind::DigestMismatch,
            STAGE,
            self.name_of(&source.path),
            detail,
        )
        .with_hint("the object is damaged or was replaced: publish it again under a new version"))
    }
}

impl Source {
    fn of(model: &ModelVersion, file: &ModelFile) -> Self {
        Self {
            path: model.object(file),
            size: file.size,
            etag: file.etag.clone(),
            version_id: file.version_id.clone(),
        }
    }
}

/// The bytes of one answer, as they came.
async fn chunks(found: GetResult, pool: Pool) -> object_store::Result<Vec<Bytes>> {
    match found.payload {
        // As a stream a file comes in pieces of 8 KiB, each by way of another thread, and whole
        // it comes in new memory each time.
        GetResultPayload::File(file, path) => {
            let range = found.range;
            let read = tokio::task::spawn_blocking(move || pool.read(&file, range)).await;
            read.map_err(io::Error::other).flatten().map_err(|error| {
                let object = path.display().to_string();
                let source = Box::new(error);
                match source.kind() {
                    // Shorter than it was a moment ago: another file, as far as the lock goes.
                    io::ErrorKind::UnexpectedEof => object_store::Error::NotFound {
                        path: object,
                        source,
                    },
                    _ => object_store::Error::Generic {
                        store: "file",
                        source,
                    },
                }
            })
        }
        GetResultPayload::Stream(stream) => stream.try_collect().await,
    }
}

/// The digest of the parts so far. A part is hashed on a thread for blocking work while the
/// consumer has it: hashing does not hold up what becomes of the bytes.
enum Hashing {
    Settled(Sha256),
    Running(JoinHandle<Sha256>),
}

impl Hashing {
    fn new() -> Self {
        Self::Settled(Sha256::new())
    }

    /// Begins to hash `part` when those before it are done: of all parts given out, only the last
    /// one is held.
    async fn add(self, part: &[Bytes]) -> Result<Self> {
        let mut hasher = self.settle().await?;
        let part = part.to_vec();
        Ok(Self::Running(tokio::task::spawn_blocking(move || {
            for chunk in &part {
                hasher.update(chunk);
            }
            hasher
        })))
    }

    async fn settle(self) -> Result<Sha256> {
        match self {
            Self::Settled(hasher) => Ok(hasher),
            Self::Running(task) => task.await.map_err(|error| {
                Error::new(ErrorKind::Io, STAGE, "sha256", "the hashing task ended")
                    .with_source(error)
            }),
        }
    }
}

/// A task that ends with its handle, so that dropping a stream stops its requests.
struct Abort<T>(JoinHandle<Result<T>>);

impl<T> Abort<T> {
    async fn join(mut self) -> Result<T> {
        (&mut self.0).await.unwrap_or_else(|error| {
            Err(
                Error::new(ErrorKind::Io, STAGE, "part", "the reading task ended")
                    .with_source(error),
            )
        })
    }
}

impl<T> Drop for Abort<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{PublishOptions, Selector, StoreOptions, StoreUrl};

    #[tokio::test]
    async fn a_file_is_given_out_in_large_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        std::fs::create_dir(&source).unwrap();
        let size = usize::try_from(PART).unwrap() + (1 << 20) + 7;
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
}
