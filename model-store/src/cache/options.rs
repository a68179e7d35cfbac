//! How to fetch, and what is told meanwhile.

use std::time::Duration;

use crate::read::ReadOptions;

/// How to fetch a model into a [`ModelCache`](super::ModelCache).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FetchOptions {
    /// The most files a model may have; any number where there is none.
    pub max_files: Option<usize>,
    /// The most bytes a model may have; any number where there is none.
    pub max_bytes: Option<u64>,
    /// Bytes of the disk that must stay free.
    pub keep_free: u64,
    /// Files that are fetched at once; 16 by default. A large file, which fills the network by
    /// itself, counts as several: of those, two are.
    pub files_at_once: usize,
    /// Hash files again that are found in the cache; only small ones are by default.
    pub rehash: bool,
    /// How the store is read. The window is that of all files together; a trust that is required
    /// is also required of what is found in the cache.
    pub read: ReadOptions,
}

impl Default for FetchOptions {
    fn default() -> Self {
        Self {
            max_files: None,
            max_bytes: None,
            keep_free: 0,
            files_at_once: 16,
            rehash: false,
            read: ReadOptions::default(),
        }
    }
}

impl FetchOptions {
    /// Refuses models of more files.
    #[must_use]
    pub fn with_max_files(mut self, files: usize) -> Self {
        self.max_files = Some(files);
        self
    }

    /// Refuses models of more bytes.
    #[must_use]
    pub fn with_max_bytes(mut self, bytes: u64) -> Self {
        self.max_bytes = Some(bytes);
        self
    }

    /// Refuses a fetch after which fewer bytes of the disk would be free.
    #[must_use]
    pub fn with_keep_free(mut self, bytes: u64) -> Self {
        self.keep_free = bytes;
        self
    }

    /// Sets how many files are fetched at once, at least one.
    #[must_use]
    pub fn with_files_at_once(mut self, files: usize) -> Self {
        self.files_at_once = files;
        self
    }

    /// Sets how the store is read.
    #[must_use]
    pub fn with_read(mut self, read: ReadOptions) -> Self {
        self.read = read;
        self
    }

    /// Sets whether every file that is found in the cache is hashed again.
    #[must_use]
    pub fn with_rehash(mut self, rehash: bool) -> Self {
        self.rehash = rehash;
        self
    }
}

/// What happens while a model is fetched. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum FetchEvent {
    /// Another process or task is fetching this file; it is waited for.
    Waiting {
        /// The path inside the version.
        path: String,
    },
    /// The file goes on where an earlier process left it.
    Resumed {
        /// The path inside the version.
        path: String,
        /// What was there already.
        offset: u64,
    },
    /// What was there of the file cannot be used; it starts anew.
    Restarted {
        /// The path inside the version.
        path: String,
    },
    /// How far the fetch is: now and then, and once at the end.
    Progress(FetchProgress),
}

/// How far a fetch is.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct FetchProgress {
    /// The file that moved last, by its path inside the version.
    pub path: String,
    /// How many bytes of it are here.
    pub file_done: u64,
    /// Its size.
    pub file_size: u64,
    /// How many bytes of the model are here, those that were here before included.
    pub done: u64,
    /// The bytes of the model; content that several files share is counted once.
    pub total: u64,
    /// Bytes per second that come from the store, smoothed over some seconds.
    pub rate: f64,
    /// How much longer it takes at this rate; nothing while that is not known.
    pub eta: Option<Duration>,
}
