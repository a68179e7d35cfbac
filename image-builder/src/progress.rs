//! What long work reports while it runs.

use std::sync::Arc;

/// One report of long work, given to the caller's progress sink.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Bytes of an object were moved.
    Moved {
        /// What is moved: a digest, a file or a package.
        object: Arc<str>,
        /// The bytes moved so far.
        done: u64,
        /// The bytes to move in all.
        total: u64,
    },
    /// An object was moved to its end and stored under its digest, which is known only now.
    Stored {
        /// The digest.
        digest: Arc<str>,
        /// Its size in bytes.
        size: u64,
    },
    /// The object was already there; nothing was moved.
    Reused {
        /// What is there: a digest, a file or a package.
        object: Arc<str>,
        /// Its size in bytes.
        total: u64,
    },
}

/// A progress sink.
pub(crate) type Progress<'a> = &'a (dyn Fn(Event) + Send + Sync);
