//! How a read is done, and what it says while it goes on.

use std::fmt;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::model::Trust;

/// The memory of a read from a store in the network, in bytes.
const REMOTE_WINDOW: u64 = 128 << 20;
/// The memory of a read from a directory or from memory: there is no distance to make up for.
const LOCAL_WINDOW: u64 = 40 << 20;
/// The sizes of one ranged request, in bytes.
const PARTS: RangeInclusive<u64> = 1 << 20..=8 << 20;

/// A receiver of [`Progress`], which is called on the task that reads.
pub type ProgressSink = Arc<dyn Fn(&Progress) + Send + Sync>;

/// How a file is read.
///
/// ```
/// use modelship_model_store::{ReadOptions, Trust};
/// let options = ReadOptions::default()
///     .with_window(64 << 20)
///     .with_require(Trust::StoreMd5)
///     .with_progress(|now| println!("{}: {} of {}", now.path, now.done, now.total));
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct ReadOptions {
    pub(crate) window: Option<u64>,
    pub(crate) require: Option<Trust>,
    pub(crate) max_requests: Option<NonZeroUsize>,
    pub(crate) progress: Option<ProgressSink>,
    pub(crate) parts: RangeInclusive<u64>,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            window: None,
            require: None,
            max_requests: None,
            progress: None,
            parts: PARTS,
        }
    }
}

impl ReadOptions {
    /// Sets how many bytes are held at most: those that have arrived and were not given out yet,
    /// and those that have been asked for. Two mebibytes at least; 128 MiB unless set, and 40 MiB
    /// for `file` and `memory`. A chunk counts until the next one is asked for.
    #[must_use]
    pub fn with_window(mut self, bytes: u64) -> Self {
        self.window = Some(bytes);
        self
    }

    /// Makes it an error, of kind [`Untrusted`](crate::ErrorKind::Untrusted), when nobody at least
    /// this trusted vouches for a file. It is said before the first byte of the file is given out.
    #[must_use]
    pub fn with_require(mut self, trust: Trust) -> Self {
        self.require = Some(trust);
        self
    }

    /// Sets how many requests run at once at most. Without it, as many as pay off: the number is
    /// found out while reading, for all stores on the same host together, and lowered when the
    /// host refuses requests. Zero counts as one.
    #[must_use]
    pub fn with_max_requests(mut self, requests: usize) -> Self {
        self.max_requests = Some(NonZeroUsize::new(requests).unwrap_or(NonZeroUsize::MIN));
        self
    }

    /// Sets what is called for every chunk that is given out.
    #[must_use]
    pub fn with_progress(mut self, sink: impl Fn(&Progress) + Send + Sync + 'static) -> Self {
        self.progress = Some(Arc::new(sink));
        self
    }

    /// The bytes to hold at most; never less than two of the smallest parts.
    pub(crate) fn window(&self, remote: bool) -> u64 {
        let window = self
            .window
            .unwrap_or(if remote { REMOTE_WINDOW } else { LOCAL_WINDOW });
        window.max(2 * self.parts.start())
    }
}

impl fmt::Debug for ReadOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadOptions")
            .field("window", &self.window)
            .field("require", &self.require)
            .field("max_requests", &self.max_requests)
            .field("progress", &self.progress.is_some())
            .finish_non_exhaustive()
    }
}

/// How far a read is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The file that is given out.
    pub path: Arc<str>,
    /// Bytes given out so far, of all files of the read; the offset it began at counts as done.
    pub done: u64,
    /// Bytes of all files of the read.
    pub total: u64,
    /// Bytes per second, over the last seconds.
    pub rate: u64,
}

impl Progress {
    /// How long the rest takes if the rate stays; `None` while nothing has moved.
    pub fn eta(&self) -> Option<Duration> {
        let left = u128::from(self.total.saturating_sub(self.done));
        let millis = (left * 1000).checked_div(u128::from(self.rate))?;
        Some(Duration::from_millis(
            u64::try_from(millis).unwrap_or(u64::MAX),
        ))
    }
}

/// What [`ModelStore::read_many`](crate::ModelStore::read_many) gives out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Piece {
    /// The next bytes of a file.
    Chunk {
        /// Which file, by its place in the list that was asked for.
        file: usize,
        /// The bytes.
        bytes: Bytes,
    },
    /// A file is complete: its length and tag are those of the lock, and every digest that is
    /// known of it was compared.
    End {
        /// Which file, by its place in the list that was asked for.
        file: usize,
        /// The SHA-256 of its bytes, in lower-case hexadecimal.
        sha256: String,
        /// Who vouches for these bytes.
        trust: Trust,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_have_a_default_and_a_least_size() {
        let options = ReadOptions::default();
        assert_eq!(
            (options.window(true), options.window(false)),
            (128 << 20, 40 << 20)
        );
        assert_eq!(options.with_window(1).window(true), 2 << 20);
    }

    #[test]
    fn the_rest_takes_as_long_as_the_rate_says() {
        let progress = |done, rate| Progress {
            path: "a".into(),
            done,
            total: 100,
            rate,
        };
        assert_eq!(progress(50, 25).eta(), Some(Duration::from_secs(2)));
        assert_eq!(progress(100, 25).eta(), Some(Duration::ZERO));
        assert_eq!(progress(0, 0).eta(), None);
    }
}
