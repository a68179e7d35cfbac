//! `ResolveOptions`: how long to watch a folder, and how much of it to take.

use std::time::Duration;

/// How [`ModelStore::resolve`](crate::ModelStore::resolve) treats folders that were not published
/// by this crate; give it to
/// [`ModelStore::with_resolve_options`](crate::ModelStore::with_resolve_options).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResolveOptions {
    /// The time between the two listings of a version that has no marker of completeness; only
    /// when both are the same is it taken for complete. Three seconds by default: enough for many
    /// small files, while a job that needs minutes for one file should write a marker.
    pub quiescence: Duration,
    /// The most objects that a version may have; 50,000 by default.
    pub max_files: usize,
    /// The most bytes that a version may have; 4 TiB by default.
    pub max_bytes: u64,
}

impl Default for ResolveOptions {
    fn default() -> Self {
        Self {
            quiescence: Duration::from_secs(3),
            max_files: 50_000,
            max_bytes: 4 << 40,
        }
    }
}

impl ResolveOptions {
    /// Sets the time between the two listings of a version without a marker.
    #[must_use]
    pub fn with_quiescence(mut self, quiescence: Duration) -> Self {
        self.quiescence = quiescence;
        self
    }

    /// Sets the most objects that a version may have.
    #[must_use]
    pub fn with_max_files(mut self, files: usize) -> Self {
        self.max_files = files;
        self
    }

    /// Sets the most bytes that a version may have.
    #[must_use]
    pub fn with_max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = bytes;
        self
    }
}
