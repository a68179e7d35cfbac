//! One part: fetched by as many requests as it takes, each going on where the last one ended.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_stream::try_stream;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::GetResultPayload;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

use crate::error::{ErrorKind, Result};
use crate::pool::{Buffer, Pool};
use crate::read::patience::Patience;
use crate::read::source::{Failure, Source};
use crate::transport::{Governor, Slot, Stated};

/// Pieces of an answer from this size on are given on as they are; smaller ones are gathered.
const LARGE: usize = 512 << 10;
/// How often a running request is looked at.
const TICK: Duration = Duration::from_millis(500);
/// Over so long a time a request must move something.
const STALL: Duration = Duration::from_secs(10);

/// What all parts of a read share.
pub(super) struct Shared {
    pub(super) governor: Arc<Governor>,
    /// The right to run one of this read's requests.
    pub(super) most: Arc<Semaphore>,
    pub(super) pool: Pool,
    /// The part that the reader waits for.
    pub(super) awaited: AtomicU64,
    /// Whether a part is being fetched twice: one at a time, for the memory that takes.
    pub(super) doubled: AtomicBool,
}

/// The right to run one request of this read.
pub(super) struct Turn {
    _own: Option<OwnedSemaphorePermit>,
    _host: Slot,
}

impl Shared {
    pub(super) async fn turn(&self) -> Turn {
        Turn {
            // It is never closed.
            _own: Arc::clone(&self.most).acquire_owned().await.ok(),
            _host: self.governor.slot().await,
        }
    }
}

/// What comes of a part, in order.
pub(super) enum Arrived {
    /// First of all from the first part of a file: what the store says about the whole.
    Stated(Option<Stated>),
    Chunk(Bytes),
}

/// A part on its way.
pub(super) struct Fetch {
    pub(super) shared: Arc<Shared>,
    pub(super) source: Arc<Source>,
    /// The part's number in the whole read.
    pub(super) number: u64,
    pub(super) range: Range<u64>,
    /// Whether to tell what the store states.
    pub(super) first: bool,
    pub(super) out: mpsc::UnboundedSender<Result<Arrived>>,
    /// Everything before has arrived.
    pub(super) at: u64,
    pub(super) buffer: Option<Buffer>,
}

/// What comes of an answer, in order.
enum Event {
    /// What the store says about the whole object.
    Head(Option<Stated>),
    /// Bytes as they came from the network.
    Chunk(Bytes),
    /// Bytes in a buffer of their own.
    Piece(Bytes),
}

/// All that comes of a second request.
type Duplicate = BoxFuture<'static, Result<Vec<Event>, Failure>>;

impl Fetch {
    /// Fetches the part; the first request has its turn already.
    pub(super) async fn run(mut self, turn: Turn) {
        let mut turn = Some(turn);
        let mut patience = Patience::new(self.number, self.range.end - self.at);
        loop {
            let running = match turn.take() {
                Some(turn) => turn,
                None => self.shared.turn().await,
            };
            let before = self.at;
            let result = self.attempt().await;
            drop(running);
            let Err(failure) = result else { return };
            match patience.after(failure, self.at - before) {
                Ok(pause) => tokio::time::sleep(pause).await,
                Err(error) => {
                    // Without a reader nobody wants to know.
                    let _ = self.out.send(Err(error));
                    return;
                }
            }
        }
    }

    /// One request for what is left: takes its bytes as fast as they come, watching over their
    /// speed.
    async fn attempt(&mut self) -> Result<(), Failure> {
        let left = self.at..self.range.end;
        let pool = self.shared.pool.clone();
        let mut answer = answer(Arc::clone(&self.source), left.clone(), pool);
        let mut pace = Pace::new(Arc::clone(&self.shared.governor));
        let mut duplicate: Option<(u64, Duplicate)> = None;
        let tick = tokio::time::sleep(TICK);
        tokio::pin!(tick);
        // The answer for an empty object has a head and nothing else.
        while self.first || self.at < self.range.end || !pace.answered {
            tokio::select! {
                biased;
                event = answer.next() => {
                    let event = event.unwrap_or_else(|| Err(self.cut_short()))?;
                    self.take_event(event, &mut pace)?;
                }
                events = wait(&mut duplicate) => {
                    let from = duplicate.take().map_or(self.at, |(from, _)| from);
                    if let Ok(events) = events {
                        return self.take_rest(from, events);
                    }
                }
                () = &mut tick => {
                    pace.check(&self.source)?;
                    if duplicate.is_none() && self.may_duplicate(&pace) {
                        duplicate = Some((self.at, self.duplicate()));
                    }
                    tick.as_mut().reset(Instant::now() + TICK);
                }
            }
        }
        let governor = &self.shared.governor;
        governor.fetched(left.end - left.start, pace.begun.elapsed());
        Ok(())
    }

    fn take_event(&mut self, event: Event, pace: &mut Pace) -> Result<(), Failure> {
        match event {
            Event::Head(stated) => {
                pace.answered = true;
                pace.since = Instant::now();
                self.take_head(stated);
                Ok(())
            }
            Event::Piece(bytes) => {
                self.at += bytes.len() as u64;
                self.send(Arrived::Chunk(bytes));
                Ok(())
            }
            Event::Chunk(bytes) => {
                pace.moved += bytes.len() as u64;
                self.shared.governor.moved(bytes.len());
                self.take(bytes)
            }
        }
    }

    fn take_head(&mut self, stated: Option<Stated>) {
        if std::mem::take(&mut self.first) {
            self.send(Arrived::Stated(stated));
        }
    }

    fn cut_short(&self) -> Failure {
        let left = self.range.end - self.at;
        let detail = format!("the answer ended {left} bytes early");
        self.source.error(ErrorKind::Unreachable, detail).into()
    }

    /// Takes the next bytes of the part.
    fn take(&mut self, mut bytes: Bytes) -> Result<(), Failure> {
        if bytes.len() as u64 > self.range.end - self.at {
            let detail = "the answer has more bytes than were asked for";
            return Err(self.source.error(ErrorKind::Unreachable, detail).into());
        }
        while !bytes.is_empty() {
            if self.buffer.is_none() && bytes.len() >= LARGE {
                self.at += bytes.len() as u64;
                self.send(Arrived::Chunk(bytes));
                return Ok(());
            }
            let left = self.range.end - self.at;
            let mut buffer = self
                .buffer
                .take()
                .unwrap_or_else(|| self.shared.pool.buffer(left));
            let before = bytes.len();
            buffer.fill(&mut bytes);
            self.at += (before - bytes.len()) as u64;
            if buffer.is_full() {
                self.send(Arrived::Chunk(buffer.freeze()));
            } else {
                self.buffer = Some(buffer);
            }
        }
        Ok(())
    }

    fn send(&self, arrived: Arrived) {
        // Without a reader the part is about to be given up.
        let _ = self.out.send(Ok(arrived));
    }

    /// Whether the reader waits for this part for longer than is usual.
    fn may_duplicate(&self, pace: &Pace) -> bool {
        let governor = &self.shared.governor;
        self.shared.awaited.load(Ordering::Relaxed) == self.number
            && governor
                .patience()
                .is_some_and(|patience| pace.begun.elapsed() >= patience)
            && !self.shared.doubled.load(Ordering::Relaxed)
            && governor.may_duplicate()
    }

    /// A second request for what is left, whose bytes are kept apart.
    fn duplicate(&self) -> Duplicate {
        self.shared.doubled.store(true, Ordering::Relaxed);
        let guard = Doubled(Arc::clone(&self.shared));
        let pool = self.shared.pool.clone();
        let events = answer(Arc::clone(&self.source), self.at..self.range.end, pool);
        Box::pin(async move {
            let _guard = guard;
            events.try_collect().await
        })
    }

    /// Takes what a duplicate, which began at `from`, has beyond what arrived meanwhile.
    fn take_rest(&mut self, from: u64, events: Vec<Event>) -> Result<(), Failure> {
        let mut skip = usize::try_from(self.at - from).unwrap_or(usize::MAX);
        for event in events {
            match event {
                Event::Head(stated) => self.take_head(stated),
                Event::Chunk(mut bytes) | Event::Piece(mut bytes) => {
                    let skipped = skip.min(bytes.len());
                    skip -= skipped;
                    self.take(bytes.split_off(skipped))?;
                }
            }
        }
        if self.at == self.range.end {
            return Ok(());
        }
        Err(self.cut_short())
    }
}

async fn wait(duplicate: &mut Option<(u64, Duplicate)>) -> Result<Vec<Event>, Failure> {
    match duplicate {
        Some((_, running)) => running.await,
        None => std::future::pending().await,
    }
}

/// The answer to one request.
fn answer(
    source: Arc<Source>,
    range: Range<u64>,
    pool: Pool,
) -> BoxStream<'static, Result<Event, Failure>> {
    let events = try_stream! {
        let whole = range == (0..source.size);
        let found = source.open(range).await?;
        yield Event::Head(source.stated(&found, whole));
        match found.payload {
            // As a stream a file comes in pieces of 8 KiB, each by way of another thread, and
            // whole it comes in new memory each time.
            GetResultPayload::File(file, path) => {
                let range = found.range;
                let read = tokio::task::spawn_blocking(move || pool.read(&file, range)).await;
                let read = read.map_err(io::Error::other).flatten();
                for piece in read.map_err(|error| source.file_failure(&path, error))? {
                    yield Event::Piece(piece);
                }
            }
            GetResultPayload::Stream(mut stream) => {
                while let Some(chunk) = stream.next().await {
                    yield Event::Chunk(chunk.map_err(|error| source.failure(&error))?);
                }
            }
        }
    };
    events.boxed()
}

/// Says that no part is fetched twice any more.
struct Doubled(Arc<Shared>);

impl Drop for Doubled {
    fn drop(&mut self) {
        self.0.doubled.store(false, Ordering::Relaxed);
    }
}

/// The speed of one request.
struct Pace {
    governor: Arc<Governor>,
    begun: Instant,
    /// The moment since which `moved` counts.
    since: Instant,
    moved: u64,
    answered: bool,
}

impl Pace {
    fn new(governor: Arc<Governor>) -> Self {
        let now = Instant::now();
        Self {
            governor,
            begun: now,
            since: now,
            moved: 0,
            answered: false,
        }
    }

    /// An error when the request is stuck: it moves nothing, or next to nothing of what others do.
    fn check(&mut self, source: &Source) -> Result<(), Failure> {
        let elapsed = self.since.elapsed();
        // The wait for an answer has a limit of its own, and a disk has none.
        if elapsed < STALL || !self.answered || !self.governor.is_adaptive() {
            return Ok(());
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate need not be exact")]
        let rate = self.moved as f64 / elapsed.as_secs_f64();
        if self.moved == 0 || rate < self.governor.floor() {
            let detail = format!("{} bytes came in {} s", self.moved, elapsed.as_secs());
            return Err(source.error(ErrorKind::Timeout, detail).into());
        }
        (self.since, self.moved) = (Instant::now(), 0);
        Ok(())
    }
}
