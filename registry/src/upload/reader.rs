//! The source of an upload, read ahead by a task of its own and hashed beside the runtime.

use std::fmt;
use std::mem;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::StreamExt as _;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::task::JoinSet;

use super::frontier::Frontier;
use super::journal::Journal;
use crate::blob::{ByteStream, OpenFn};
use crate::error::BoxError;

/// Bytes handed to the connection at a time: of a large blob much, since each hand-over wakes
/// somebody, of a small one little, so that progress is fine-grained.
const PIECE_LARGE: usize = 1 << 20;
const PIECE_SMALL: usize = 256 << 10;
/// From this size on a blob is large.
const LARGE: u64 = 64 << 20;
/// Pieces read ahead of the connection.
const AHEAD: usize = 8;
/// Bytes handed at a time to a thread that hashes: long work compared with the hand-over.
const BATCH: usize = 2 << 20;
/// Less than this is hashed where it is; the hand-over would take longer.
const INLINE: usize = 64 << 10;
/// Bytes that an upload holds at most besides what its source holds: those read ahead, one batch
/// being hashed and one waiting.
pub(crate) const WINDOW: u64 = (PIECE_LARGE * AHEAD + 2 * BATCH) as u64;

/// What all readers of one blob share.
pub(crate) struct Origin {
    pub(crate) open: OpenFn,
    pub(crate) size: u64,
    pub(crate) frontier: Arc<AsyncMutex<Frontier>>,
    pub(crate) journal: Option<Arc<Journal>>,
}

/// Why a source can not be used.
pub(crate) enum Failure {
    Short(u64),
    Long,
    /// It has other bytes than were read before.
    Changed,
    Source(BoxError),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short(at) => write!(f, "the source ended after {at} bytes"),
            Self::Long => f.write_str("the source goes on after its declared length"),
            Self::Changed => f.write_str("the source has other bytes than before"),
            Self::Source(_) => f.write_str("the source failed"),
        }
    }
}

/// Where a reader leaves the cause of its end.
pub(crate) type Slot = Arc<Mutex<Option<Failure>>>;

/// A source being read from some offset to its end. Dropping it stops the reading.
pub(crate) struct Reader {
    pieces: mpsc::Receiver<Bytes>,
    held: Bytes,
    at: u64,
    failure: Slot,
    _task: JoinSet<()>,
}

impl Reader {
    /// Reads `origin` for bytes from `from` on. What lies before and was not hashed yet is read
    /// too, but not handed out.
    pub(crate) fn start(origin: Arc<Origin>, from: u64) -> Self {
        let (sender, pieces) = mpsc::channel(AHEAD);
        let failure = Slot::default();
        let mut task = JoinSet::new();
        task.spawn(read(origin, from, sender, Arc::clone(&failure)));
        Self {
            pieces,
            held: Bytes::new(),
            at: from,
            failure,
            _task: task,
        }
    }

    /// Where the next piece lies.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    pub(crate) fn failure(&self) -> Slot {
        Arc::clone(&self.failure)
    }

    /// The next bytes, at most `most`; none when the source ended or failed, and all that was
    /// read is hashed.
    pub(crate) async fn next(&mut self, most: u64) -> Option<Bytes> {
        if self.held.is_empty() {
            self.held = self.pieces.recv().await?;
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let piece = self.held.split_to(self.held.len().min(most));
        self.at += piece.len() as u64;
        Some(piece)
    }
}

async fn read(origin: Arc<Origin>, from: u64, sender: mpsc::Sender<Bytes>, slot: Slot) {
    // Waits for a hash that an earlier reader left at work.
    let (known, tail) = {
        let frontier = origin.frontier.lock().await;
        (frontier.pos(), frontier.tail())
    };
    // Some of what was hashed is read once more, so that what follows it is known to belong to it.
    let start = from.min(known - tail.len() as u64);
    let large = origin.size >= LARGE;
    let mut reading = Reading {
        source: (origin.open)(start),
        piece: if large { PIECE_LARGE } else { PIECE_SMALL },
        beside: has_one_thread() || origin.journal.is_some(),
        held: Bytes::new(),
        pos: start,
        from,
        hashed: known,
        tail,
        queue: Vec::new(),
        queued: 0,
        origin,
    };
    if let Err(failure) = reading.run(&sender).await {
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(failure);
    }
}

/// Whether what is hashed here keeps the connection waiting. Where there are several threads a
/// piece takes one of them for less than a millisecond, and a hand-over would cost more.
fn has_one_thread() -> bool {
    Handle::current().runtime_flavor() != RuntimeFlavor::MultiThread
}

struct Reading {
    origin: Arc<Origin>,
    source: ByteStream,
    piece: usize,
    /// Whether to hash on threads for blocking work.
    beside: bool,
    held: Bytes,
    pos: u64,
    from: u64,
    /// Bytes before this were hashed before this reader started.
    hashed: u64,
    /// What lay right before [`hashed`](Self::hashed).
    tail: Bytes,
    queue: Vec<(u64, Bytes)>,
    queued: usize,
}

impl Reading {
    async fn run(&mut self, sender: &mpsc::Sender<Bytes>) -> Result<(), Failure> {
        let size = self.origin.size;
        while self.pos < size {
            let Some(mut piece) = self.pull().await? else {
                return Err(Failure::Short(self.pos));
            };
            let (at, end) = (self.pos, self.pos + piece.len() as u64);
            if end > size {
                return Err(Failure::Long);
            }
            self.pos = end;
            if !self.is_as_before(at, &piece) {
                return Err(Failure::Changed);
            }
            self.hash(at, piece.clone()).await;
            // The last piece is held back until the source has ended too: a request that lacks
            // its last bytes can not be committed.
            if end == size && self.pull().await?.is_some() {
                return Err(Failure::Long);
            }
            let before = usize::try_from(self.from.saturating_sub(at)).unwrap_or(usize::MAX);
            if before < piece.len() {
                let fresh = piece.split_off(before);
                if sender.send(fresh).await.is_err() {
                    return Ok(());
                }
            }
        }
        // Nothing was read above when all of it had been hashed, or when there is nothing.
        if self.pull().await?.is_some() {
            return Err(Failure::Long);
        }
        self.flush().await;
        self.origin.frontier.lock().await.end();
        Ok(())
    }

    /// Whether the piece at `at` has the bytes that an earlier reader saw there, as far as those
    /// are kept.
    fn is_as_before(&self, at: u64, piece: &[u8]) -> bool {
        let start = self.hashed - self.tail.len() as u64;
        let (from, to) = (at.max(start), (at + piece.len() as u64).min(self.hashed));
        from >= to || part(piece, at, from..to) == part(&self.tail, start, from..to)
    }

    /// The next bytes of the source, at most a piece; `None` at its end.
    async fn pull(&mut self) -> Result<Option<Bytes>, Failure> {
        while self.held.is_empty() {
            match self.source.next().await {
                Some(Ok(chunk)) => self.held = chunk,
                Some(Err(error)) => return Err(Failure::Source(error)),
                None => {
                    // Some sources must not be asked again after their end.
                    self.source = futures::stream::empty().boxed();
                    return Ok(None);
                }
            }
        }
        Ok(Some(self.held.split_to(self.held.len().min(self.piece))))
    }

    async fn hash(&mut self, at: u64, piece: Bytes) {
        if self.pos <= self.hashed {
            return;
        }
        self.queued += piece.len();
        self.queue.push((at, piece));
        if self.queued >= BATCH || !self.beside {
            self.flush().await;
        }
    }

    /// Hashes what is queued, or hands it to a thread that may block, after the batch before it.
    async fn flush(&mut self) {
        if self.queue.is_empty() {
            return;
        }
        let mut frontier = Arc::clone(&self.origin.frontier).lock_owned().await;
        let batch = mem::take(&mut self.queue);
        let small = mem::take(&mut self.queued) <= INLINE;
        let journal = self.origin.journal.clone();
        let here = !self.beside || (small && journal.is_none());
        let work = move || {
            for (at, piece) in &batch {
                frontier.feed(*at, piece);
            }
            if let Some(journal) = journal {
                journal.checkpoint(&frontier);
            }
        };
        if here {
            work();
        } else {
            // It holds the frontier until it is done, which is what everybody waits for.
            drop(tokio::task::spawn_blocking(work));
        }
    }
}

/// The bytes of `range` out of `bytes`, which begin at `first`.
fn part(bytes: &[u8], first: u64, range: Range<u64>) -> Option<&[u8]> {
    let [from, to] = [range.start, range.end].map(|at| usize::try_from(at - first).ok());
    bytes.get(from?..to?)
}
