//! The source side of an upload: exact length, hashed on the way, replayable from any offset.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use oci_spec::image::Digest;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use crate::blob::{Blob, ByteStream, OpenFn, finish};
use crate::error::{BoxError, Error, ErrorKind, Result};

/// Bytes handed to the connection at a time, so that progress is fine-grained and hashing one
/// piece does not hold up the runtime.
const PIECE: usize = 256 << 10;
/// Hash states are kept at this distance in bytes at least, so that a resumed upload re-reads
/// little.
const MARK_EVERY: u64 = 16 << 20;
/// Hash states kept for one blob at most (about 120 bytes each).
const MARKS_MAX: u64 = 1024;

/// A blob's bytes on their way into one or more requests.
pub(crate) struct Pump {
    open: OpenFn,
    size: u64,
    state: Arc<Mutex<State>>,
    done: watch::Sender<u64>,
}

struct State {
    hash: Sha256,
    pos: u64,
    marks: Vec<(u64, Sha256)>,
    handed: u64,
    failure: Option<Failure>,
}

enum Failure {
    Short(u64),
    Long,
    Source(BoxError),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short(at) => write!(f, "the source ended after {at} bytes"),
            Self::Long => f.write_str("the source goes on after its declared length"),
            Self::Source(_) => f.write_str("the source failed"),
        }
    }
}

/// What the connection is told when the source fails; the real cause is kept in the state.
#[derive(Debug)]
struct Aborted;

impl fmt::Display for Aborted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the source of the upload failed")
    }
}

impl std::error::Error for Aborted {}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pump {
    pub(crate) fn new(blob: &Blob) -> Self {
        let state = State {
            hash: Sha256::new(),
            pos: 0,
            marks: vec![(0, Sha256::new())],
            handed: 0,
            failure: None,
        };
        Self {
            open: blob.opener(),
            size: blob.size(),
            state: Arc::new(Mutex::new(state)),
            done: watch::channel(0).0,
        }
    }

    /// Where the transfer stands, in bytes from the start of the blob.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.done.subscribe()
    }

    /// Bytes handed to connections so far, replays included.
    pub(crate) fn handed(&self) -> u64 {
        lock(&self.state).handed
    }

    /// The bytes `from..to` as a request body. What lies before `from` and was not hashed yet is
    /// read, but not sent.
    pub(crate) fn body(&self, from: u64, to: u64) -> BoxStream<'static, Result<Bytes, BoxError>> {
        let pos = self.rewind(from);
        self.done.send_replace(from);
        let body = Body {
            source: (self.open)(pos),
            held: Bytes::new(),
            state: Arc::clone(&self.state),
            done: self.done.clone(),
            pos,
            span: (from, to),
            size: self.size,
        };
        stream::try_unfold(body, async |mut body| {
            let piece = body.next().await?;
            Ok(piece.map(|piece| (piece, body)))
        })
        .boxed()
    }

    /// Sets the hash back to the last kept state at or before `offset`; returns where that is.
    fn rewind(&self, offset: u64) -> u64 {
        let mut state = lock(&self.state);
        state.failure = None;
        if state.pos != offset {
            while state.marks.len() > 1 && state.marks.last().is_some_and(|mark| mark.0 > offset) {
                state.marks.pop();
            }
            let (pos, hash) = state
                .marks
                .last()
                .cloned()
                .unwrap_or_else(|| (0, Sha256::new()));
            state.pos = pos;
            state.hash = hash;
        }
        state.pos
    }

    /// The failure of the source during the last request, if that is what ended it.
    pub(crate) fn failure(&self, stage: &'static str, object: &str) -> Option<Error> {
        let failure = lock(&self.state).failure.take()?;
        let kind = match failure {
            Failure::Source(_) => ErrorKind::Source,
            _ => ErrorKind::SizeMismatch,
        };
        let detail = format!("{failure}, declared are {} bytes", self.size);
        let error = Error::new(kind, stage, object, detail);
        Some(match failure {
            Failure::Source(source) => error.with_source(source),
            _ => {
                error.with_hint("the source changed while it was read; take it anew and push again")
            }
        })
    }

    /// Whether everything up to `offset` was read and handed on.
    pub(crate) fn has_reached(&self, offset: u64) -> bool {
        lock(&self.state).pos == offset
    }

    /// The digest of the whole blob, reading what no request has read yet.
    pub(crate) async fn digest(&self) -> Option<Digest> {
        let mut rest = self.body(self.size, self.size);
        while let Some(piece) = rest.next().await {
            piece.ok()?;
        }
        let state = lock(&self.state);
        (state.failure.is_none() && state.pos == self.size).then(|| finish(state.hash.clone()))
    }
}

struct Body {
    source: ByteStream,
    held: Bytes,
    state: Arc<Mutex<State>>,
    done: watch::Sender<u64>,
    pos: u64,
    span: (u64, u64),
    size: u64,
}

impl Body {
    async fn next(&mut self) -> Result<Option<Bytes>, BoxError> {
        let (from, to) = self.span;
        while self.pos < to {
            let Some(mut piece) = self.pull().await? else {
                return Err(self.fail(Failure::Short(self.pos)));
            };
            let left = usize::try_from(to - self.pos).unwrap_or(usize::MAX);
            if piece.len() > left {
                if to == self.size {
                    return Err(self.fail(Failure::Long));
                }
                piece.truncate(left);
            }
            self.take(&piece);
            // The last piece is held back until the source has ended too: a request that lacks
            // its last bytes can not be committed.
            if self.pos == self.size && self.pull().await?.is_some() {
                return Err(self.fail(Failure::Long));
            }
            if self.pos > from {
                let fresh = usize::try_from(self.pos - from)
                    .unwrap_or(usize::MAX)
                    .min(piece.len());
                let piece = piece.split_off(piece.len() - fresh);
                lock(&self.state).handed += piece.len() as u64;
                self.done.send_replace(self.pos);
                return Ok(Some(piece));
            }
        }
        if self.size == 0 && self.pull().await?.is_some() {
            return Err(self.fail(Failure::Long));
        }
        Ok(None)
    }

    /// The next bytes of the source, at most [`PIECE`]; `None` at its end.
    async fn pull(&mut self) -> Result<Option<Bytes>, BoxError> {
        while self.held.is_empty() {
            match self.source.next().await {
                Some(Ok(chunk)) => self.held = chunk,
                Some(Err(error)) => return Err(self.fail(Failure::Source(error))),
                None => return Ok(None),
            }
        }
        Ok(Some(self.held.split_to(self.held.len().min(PIECE))))
    }

    fn take(&mut self, piece: &[u8]) {
        self.pos += piece.len() as u64;
        let mut state = lock(&self.state);
        state.hash.update(piece);
        state.pos = self.pos;
        let last = state.marks.last().map_or(0, |mark| mark.0);
        if self.pos - last >= MARK_EVERY.max(self.size / MARKS_MAX) {
            let mark = (self.pos, state.hash.clone());
            state.marks.push(mark);
        }
    }

    fn fail(&self, failure: Failure) -> BoxError {
        lock(&self.state).failure = Some(failure);
        Box::new(Aborted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::sha256_of;
    use futures::TryStreamExt as _;
    use proptest::prelude::*;

    fn blob(data: &Bytes, declared: u64, chunk: usize) -> Blob {
        let data = data.clone();
        Blob::new("x/y", declared, move |from| {
            let rest = data.slice(usize::try_from(from).unwrap().min(data.len())..);
            let parts: Vec<_> = rest
                .chunks(chunk)
                .map(|part| Ok(Bytes::copy_from_slice(part)))
                .collect();
            stream::iter(parts).boxed()
        })
    }

    async fn collect(pump: &Pump, from: u64, to: u64) -> Result<Vec<u8>, BoxError> {
        let parts: Vec<Bytes> = pump.body(from, to).try_collect().await?;
        Ok(parts.concat())
    }

    #[tokio::test]
    async fn wrong_lengths_fail_before_the_last_byte_is_handed_on() {
        let data = Bytes::from(vec![7; 100]);
        for (declared, text) in [(99, "goes on"), (101, "ended after 100")] {
            let pump = Pump::new(&blob(&data, declared, 10));
            assert!(collect(&pump, 0, declared).await.is_err());
            assert!(pump.handed() < declared);
            let error = pump.failure("push blob", "r").unwrap();
            assert_eq!(error.kind(), ErrorKind::SizeMismatch);
            assert!(error.to_string().contains(text), "{error}");
        }
        let pump = Pump::new(&blob(&data, 0, 10));
        assert_eq!(pump.digest().await, None);
    }

    #[tokio::test]
    async fn marks_bound_what_a_resume_reads_again() {
        let size = MARK_EVERY * 2 + 5;
        let data = Bytes::from(vec![1; usize::try_from(size).unwrap()]);
        let pump = Pump::new(&blob(&data, size, 1 << 20));
        collect(&pump, 0, size).await.unwrap();
        assert_eq!(pump.rewind(MARK_EVERY + 9), MARK_EVERY);
        assert_eq!(pump.digest().await.unwrap(), sha256_of(&data));
    }

    proptest! {
        #[test]
        fn any_order_of_replays_finds_the_digest(
            data in proptest::collection::vec(any::<u8>(), 0..400),
            chunk in 1usize..50,
            cuts in proptest::collection::vec((0.0f64..1.0, 0.0f64..1.0), 0..5),
        ) {
            let data = Bytes::from(data);
            let size = data.len() as u64;
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let pump = Pump::new(&blob(&data, size, chunk));
                for (from, to) in cuts {
                    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "tests")]
                    let place = |part: f64| (part * size as f64) as usize;
                    let (from, to) = (place(from.min(to)), place(from.max(to)));
                    let got = collect(&pump, from as u64, to as u64).await.unwrap();
                    assert_eq!(got, data[from..to]);
                }
                assert_eq!(pump.digest().await.unwrap(), sha256_of(&data));
            });
        }
    }
}
