//! The order of a read: parts of all files, asked for as the memory and the host allow.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use crate::error::Result;
use crate::pool::Pool;
use crate::read::fetch::{Arrived, Fetch, Shared};
use crate::read::options::ReadOptions;
use crate::read::source::Source;
use crate::transport::Governor;

/// What a part costs of the memory at least: a task and a request are not free either.
const LEAST_COST: u64 = 16 << 10;

/// The most requests of one read, unless a number is set: each has a buffer beyond the window.
const MOST: usize = 24;

/// A part that has been asked for.
pub(super) struct Issued {
    pub(super) number: u64,
    pub(super) range: Range<u64>,
    pub(super) arriving: mpsc::UnboundedReceiver<Result<Arrived>>,
    _task: Abort,
}

/// A read of several files, one after the other; the first one from an offset on.
pub(super) struct Plan {
    pub(super) sources: Vec<Arc<Source>>,
    pub(super) from: u64,
    pub(super) options: ReadOptions,
    shared: Arc<Shared>,
    /// The bytes that may still be asked for.
    memory: Arc<Semaphore>,
    window: u64,
    /// Whether the number of requests was set.
    fixed: bool,
}

/// A task that ends with its handle, so that dropping a stream stops its requests.
pub(super) struct Abort(JoinHandle<()>);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Plan {
    pub(super) fn new(
        sources: Vec<Arc<Source>>,
        from: u64,
        options: ReadOptions,
        governor: Arc<Governor>,
    ) -> Self {
        let remote = governor.is_adaptive();
        let granted = options.window(remote);
        // Connections have buffers of their own, and what is hashed is held a little longer.
        let window = granted - if remote { granted / 8 } else { 0 };
        let room = usize::try_from(window / (2 * options.parts.start())).unwrap_or(MOST);
        let room = NonZeroUsize::new(room.min(MOST)).unwrap_or(NonZeroUsize::MIN);
        let most = options.max_requests.unwrap_or(room);
        let fixed = options.max_requests.is_some();
        let permits = usize::try_from(window).unwrap_or(usize::MAX);
        Self {
            sources,
            from,
            shared: Arc::new(Shared {
                governor,
                most: Arc::new(Semaphore::new(most.get())),
                pool: Pool::new(window),
                awaited: AtomicU64::new(u64::MAX),
                doubled: AtomicBool::new(false),
            }),
            options: ReadOptions {
                max_requests: Some(most),
                ..options
            },
            memory: Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS))),
            window,
            fixed,
        }
    }

    #[cfg(test)]
    pub(super) fn pool(&self) -> &Pool {
        &self.shared.pool
    }

    /// Begins to ask for parts. They come in order.
    pub(super) fn start(self: &Arc<Self>) -> (mpsc::UnboundedReceiver<Issued>, Abort) {
        let (sender, issued) = mpsc::unbounded_channel();
        let plan = Arc::clone(self);
        let task = tokio::spawn(async move { plan.issue(&sender).await });
        (issued, Abort(task))
    }

    /// Says which part the reader waits for.
    pub(super) fn awaits(&self, number: u64) {
        self.shared.awaited.store(number, Ordering::Relaxed);
    }

    /// Gives back the memory of bytes that were given out.
    pub(super) fn release(&self, bytes: u64) {
        self.memory
            .add_permits(usize::try_from(bytes).unwrap_or(usize::MAX));
    }

    /// Gives back what a part cost beyond its bytes.
    pub(super) fn release_rest(&self, part: &Range<u64>) {
        let length = part.end - part.start;
        self.release(self.cost(length) - length);
    }

    /// What a part of `length` bytes takes of the memory.
    fn cost(&self, length: u64) -> u64 {
        length.max(LEAST_COST.min(*self.options.parts.start()))
    }

    /// The bytes to read of all files.
    fn total(&self) -> u64 {
        let sizes: u64 = self.sources.iter().map(|source| source.size).sum();
        sizes - self.from
    }

    async fn issue(&self, sender: &mpsc::UnboundedSender<Issued>) {
        let (mut number, mut left) = (0, self.total());
        for (file, source) in self.sources.iter().enumerate() {
            let mut at = if file == 0 { self.from } else { 0 };
            let mut first = true;
            // An empty file is one request, and a read from the end of a file is none.
            while at < source.size || (first && source.size == 0) {
                let end = source.size.min(at + self.part(left));
                let cost = u32::try_from(self.cost(end - at)).unwrap_or(u32::MAX);
                let Ok(memory) = self.memory.acquire_many(cost).await else {
                    return;
                };
                memory.forget();
                if !first {
                    // Parts of different generations must never meet.
                    source.pin.wait().await;
                }
                let part = self.fetch(source, number, at..end, first).await;
                if sender.send(part).is_err() {
                    return;
                }
                left -= end - at;
                (at, number, first) = (end, number + 1, false);
            }
        }
    }

    /// The length of the next part: so that a third more than there are requests fit the memory,
    /// and so that all requests have something to do until the end.
    fn part(&self, left: u64) -> u64 {
        let governor = &self.shared.governor;
        let (least, most) = (*self.options.parts.start(), *self.options.parts.end());
        if !governor.is_adaptive() {
            return most.min(self.window / 2);
        }
        let requests = self
            .options
            .max_requests
            .map_or(usize::MAX, NonZeroUsize::get);
        // A number that was set is soon reached; one that is found out is not known yet.
        let requests = if self.fixed {
            requests
        } else {
            requests.min(governor.limit())
        };
        let requests = requests.max(1) as u64;
        let fits = self.window / 4 * 3 / requests;
        let share = left / requests;
        // Whole numbers of the least part fill the buffers they are gathered in.
        let length = fits.min(share).min(most) / least * least;
        length.max(least)
    }

    async fn fetch(
        &self,
        source: &Arc<Source>,
        number: u64,
        range: Range<u64>,
        first: bool,
    ) -> Issued {
        let turn = self.shared.turn().await;
        let (out, arriving) = mpsc::unbounded_channel();
        let fetch = Fetch {
            shared: Arc::clone(&self.shared),
            source: Arc::clone(source),
            number,
            at: range.start,
            range: range.clone(),
            first,
            out,
            buffer: None,
        };
        Issued {
            number,
            range,
            arriving,
            _task: Abort(tokio::spawn(fetch.run(turn))),
        }
    }
}
