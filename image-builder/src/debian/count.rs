//! Adds up received bytes and reports them.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::progress::{Event, Progress};

/// The bytes received of one object, across tries and parallel downloads.
pub(super) struct Counter<'a> {
    progress: Progress<'a>,
    object: Arc<str>,
    done: AtomicI64,
    total: u64,
}

impl<'a> Counter<'a> {
    pub(super) fn new(progress: Progress<'a>, object: &str, total: u64) -> Self {
        Self {
            progress,
            object: object.into(),
            done: AtomicI64::new(0),
            total,
        }
    }

    /// Counts `more` bytes; a negative number takes back what a failed try had received.
    pub(super) fn add(&self, more: i64) {
        let done = self.done.fetch_add(more, Ordering::Relaxed) + more;
        (self.progress)(Event::Moved {
            object: Arc::clone(&self.object),
            done: u64::try_from(done).unwrap_or(0),
            total: self.total,
        });
    }
}
