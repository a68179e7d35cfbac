//! The source side of an upload: exact length, hashed on the way, replayable from any offset.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use oci_spec::image::Digest;
use tokio::sync::{Mutex as AsyncMutex, watch};

use super::frontier::Frontier;
use super::journal::Journal;
use super::reader::{Failure, Origin, Reader, Slot};
use crate::blob::Blob;
use crate::error::{BoxError, Error, ErrorKind, Result};

/// A blob's bytes on their way into one or more requests.
pub(crate) struct Pump {
    origin: Arc<Origin>,
    inherited: bool,
    shared: Arc<Shared>,
}

struct Shared {
    /// A reader between two requests: the next one goes on with it where it can.
    idle: Mutex<Option<Reader>>,
    /// Where the reader in use leaves the cause of its end.
    failure: Mutex<Slot>,
    handed: AtomicU64,
    done: watch::Sender<u64>,
}

/// What the connection is told when the source fails; the real cause is kept.
#[derive(Debug)]
struct Aborted;

impl fmt::Display for Aborted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the source of the upload failed")
    }
}

impl std::error::Error for Aborted {}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pump {
    /// The bytes of `blob`, of which `frontier` has seen some. `journal` keeps what it sees.
    pub(crate) fn new(blob: &Blob, frontier: Frontier, journal: Option<Arc<Journal>>) -> Self {
        let inherited = frontier.pos() > 0;
        let origin = Origin {
            open: blob.opener(),
            size: blob.size(),
            frontier: Arc::new(AsyncMutex::new(frontier)),
            journal,
        };
        let shared = Shared {
            idle: Mutex::new(None),
            failure: Mutex::default(),
            handed: AtomicU64::new(0),
            done: watch::channel(0).0,
        };
        Self {
            origin: Arc::new(origin),
            inherited,
            shared: Arc::new(shared),
        }
    }

    /// Whether some of the hash comes from an earlier process.
    pub(crate) fn is_inherited(&self) -> bool {
        self.inherited
    }

    /// What is hashed by now.
    pub(crate) async fn frontier(&self) -> Frontier {
        self.origin.frontier.lock().await.clone()
    }

    /// Where the transfer stands, in bytes from the start of the blob.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.shared.done.subscribe()
    }

    /// Bytes handed to connections so far, replays included.
    pub(crate) fn handed(&self) -> u64 {
        self.shared.handed.load(Ordering::Relaxed)
    }

    /// The bytes `from..to` as a request body.
    pub(crate) fn body(&self, from: u64, to: u64) -> BoxStream<'static, Result<Bytes, BoxError>> {
        self.shared.done.send_replace(from);
        let body = Body {
            reader: Some(self.reader(from)),
            at: from,
            to,
            shared: Arc::clone(&self.shared),
        };
        stream::try_unfold(body, async |mut body| {
            let piece = body.next().await?;
            Ok(piece.map(|piece| (piece, body)))
        })
        .boxed()
    }

    /// A reader at `from`: the one at hand if it stands there, else a new one.
    fn reader(&self, from: u64) -> Reader {
        let idle = lock(&self.shared.idle).take();
        let reader = idle
            .filter(|reader| reader.at() == from)
            .unwrap_or_else(|| Reader::start(Arc::clone(&self.origin), from));
        *lock(&self.shared.failure) = reader.failure();
        reader
    }

    /// The failure of the source during the last request, if that is what ended it.
    pub(crate) fn failure(&self, stage: &'static str, object: &str) -> Option<Error> {
        let slot = Arc::clone(&lock(&self.shared.failure));
        let failure = lock(&slot).take()?;
        let kind = match failure {
            Failure::Source(_) => ErrorKind::Source,
            Failure::Changed => ErrorKind::DigestMismatch,
            _ => ErrorKind::SizeMismatch,
        };
        let detail = format!("{failure}, declared are {} bytes", self.origin.size);
        let error = Error::new(kind, stage, object, detail);
        Some(match failure {
            Failure::Source(source) => error.with_source(source),
            _ => {
                error.with_hint("the source changed while it was read; take it anew and push again")
            }
        })
    }

    /// Whether everything up to `offset` was handed on.
    pub(crate) fn has_reached(&self, offset: u64) -> bool {
        *self.shared.done.borrow() == offset
    }

    /// The digest of the whole blob, reading what no request has read yet. None when the source
    /// failed.
    pub(crate) async fn digest(&self) -> Option<Digest> {
        let size = self.origin.size;
        let found = async || self.origin.frontier.lock().await.digest(size);
        if let Some(digest) = found().await {
            return Some(digest);
        }
        // It ends when all is hashed.
        let mut reader = self.reader(size);
        while reader.next(u64::MAX).await.is_some() {}
        found().await
    }
}

struct Body {
    reader: Option<Reader>,
    at: u64,
    to: u64,
    shared: Arc<Shared>,
}

impl Body {
    async fn next(&mut self) -> Result<Option<Bytes>, BoxError> {
        let Some(reader) = self.reader.as_mut().filter(|_| self.at < self.to) else {
            return Ok(None);
        };
        let Some(piece) = reader.next(self.to - self.at).await else {
            return Err(Box::new(Aborted));
        };
        self.at += piece.len() as u64;
        self.shared
            .handed
            .fetch_add(piece.len() as u64, Ordering::Relaxed);
        if self.at == self.to {
            // Before the piece is seen: the connection may not ask for more than it announced.
            *lock(&self.shared.idle) = self.reader.take();
        }
        self.shared.done.send_replace(self.at);
        Ok(Some(piece))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::sha256_of;
    use futures::TryStreamExt as _;
    use proptest::prelude::*;

    fn blob(data: &Bytes, declared: u64, chunk: usize, opened: &Arc<AtomicU64>) -> Blob {
        let (data, opened) = (data.clone(), Arc::clone(opened));
        Blob::new("x/y", declared, move |from| {
            opened.fetch_add(1, Ordering::Relaxed);
            let rest = data.slice(usize::try_from(from).unwrap().min(data.len())..);
            let parts: Vec<_> = rest
                .chunks(chunk)
                .map(|part| Ok(Bytes::copy_from_slice(part)))
                .collect();
            stream::iter(parts).boxed()
        })
    }

    fn pump(data: &Bytes, declared: u64, chunk: usize) -> Pump {
        let blob = blob(data, declared, chunk, &Arc::default());
        Pump::new(&blob, Frontier::new(), None)
    }

    async fn collect(pump: &Pump, from: u64, to: u64) -> Result<Vec<u8>, BoxError> {
        let parts: Vec<Bytes> = pump.body(from, to).try_collect().await?;
        Ok(parts.concat())
    }

    #[tokio::test]
    async fn wrong_lengths_fail_before_the_last_byte_is_handed_on() {
        let data = Bytes::from(vec![7; 100]);
        for (declared, text) in [(99, "goes on"), (101, "ended after 100")] {
            let pump = pump(&data, declared, 10);
            assert!(collect(&pump, 0, declared).await.is_err());
            assert!(pump.handed() < declared);
            let error = pump.failure("push blob", "r").unwrap();
            assert_eq!(error.kind(), ErrorKind::SizeMismatch);
            assert!(error.to_string().contains(text), "{error}");
        }
        assert_eq!(pump(&data, 0, 10).digest().await, None);
    }

    #[tokio::test]
    async fn chunks_in_order_read_the_source_once() {
        let data = Bytes::from(vec![1; 3 << 20]);
        let (size, opened) = (data.len() as u64, Arc::default());
        let pump = Pump::new(&blob(&data, size, 100_000, &opened), Frontier::new(), None);
        let mut at = 0;
        while at < size {
            let to = size.min(at + 700_001);
            collect(&pump, at, to).await.unwrap();
            at = to;
        }
        assert_eq!(pump.digest().await.unwrap(), sha256_of(&data));
        assert_eq!(pump.digest().await.unwrap(), sha256_of(&data));
        assert_eq!((opened.load(Ordering::Relaxed), pump.handed()), (1, size));
    }

    #[tokio::test]
    async fn what_is_sent_again_is_not_hashed_again() {
        let data = Bytes::from(vec![2; 5 << 20]);
        let size = data.len() as u64;
        let pump = pump(&data, size, 1 << 20);
        collect(&pump, 0, 4 << 20).await.unwrap();
        let first = pump.origin.frontier.lock().await.pos();
        collect(&pump, 1 << 20, 2 << 20).await.unwrap();
        assert!(pump.origin.frontier.lock().await.pos() >= first);
        assert_eq!(pump.digest().await.unwrap(), sha256_of(&data));
        assert_eq!(pump.handed(), 5 << 20);
    }

    #[tokio::test]
    async fn a_source_that_is_another_on_its_second_opening_is_noticed() {
        // More than is read ahead after the first request.
        const SIZE: u64 = 8 << 20;
        for from in [0, 1 << 20, 4 << 20, SIZE] {
            let opened = AtomicU64::new(0);
            let blob = Blob::new("x/y", SIZE, move |from| {
                let seed = opened.fetch_add(1, Ordering::Relaxed).to_le_bytes()[0];
                let rest = vec![seed; usize::try_from(SIZE - from).unwrap()];
                stream::iter([Ok(Bytes::from(rest))]).boxed()
            });
            let pump = Pump::new(&blob, Frontier::new(), None);
            collect(&pump, 0, 3 << 20).await.unwrap();
            // Another request, not one that goes on where the first ended.
            drop(pump.shared.idle.lock().unwrap().take());
            let sent = collect(&pump, from, SIZE).await;
            if from == SIZE {
                assert!(
                    sent.is_ok() && pump.digest().await.is_none(),
                    "nothing was sent"
                );
            } else {
                assert!(sent.is_err(), "from {from}");
            }
            let error = pump.failure("push blob", "r").unwrap();
            assert_eq!(error.kind(), ErrorKind::DigestMismatch, "from {from}");
        }
    }

    #[tokio::test]
    async fn a_dropped_body_stops_its_source() {
        struct Held(Arc<AtomicU64>);
        impl Drop for Held {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let dropped = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&dropped);
        let blob = Blob::new("x/y", 1 << 40, move |_| {
            let held = Held(Arc::clone(&count));
            stream::unfold(held, async |held| {
                Some((Ok(Bytes::from_static(&[0; 1000])), held))
            })
            .boxed()
        });
        let pump = Pump::new(&blob, Frontier::new(), None);
        let mut body = pump.body(0, 1 << 40);
        body.next().await.unwrap().unwrap();
        drop(body);
        for _ in 0..10_000 {
            if dropped.load(Ordering::Relaxed) > 0 {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("the source is still read");
    }

    proptest! {
        #[test]
        fn any_order_of_replays_finds_the_digest(
            data in proptest::collection::vec(any::<u8>(), 0..400),
            chunk in 1usize..50,
            cuts in proptest::collection::vec((0.0f64..1.0, 0.0f64..1.0, any::<bool>()), 0..5),
        ) {
            let data = Bytes::from(data);
            let size = data.len() as u64;
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let pump = pump(&data, size, chunk);
                for (from, to, whole) in cuts {
                    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "tests")]
                    let place = |part: f64| (part * size as f64) as usize;
                    let (from, to) = (place(from.min(to)), place(from.max(to)));
                    if whole {
                        let got = collect(&pump, from as u64, to as u64).await.unwrap();
                        assert_eq!(got, data[from..to]);
                    } else if let Some(piece) = pump.body(from as u64, to as u64).next().await {
                        // A request that breaks.
                        assert!(data[from..to].starts_with(&piece.unwrap()));
                    }
                }
                assert_eq!(pump.digest().await.unwrap(), sha256_of(&data));
            });
        }
    }
}
