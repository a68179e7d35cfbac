//! Buffers that are used again: a read of any length takes the memory of its window and no more.
//!
//! Parts are read on whatever thread is free. Memory allocated on one thread and freed on another
//! stays with the allocator for a long time; with buffers of our own it does not get there.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// The size of a buffer: large enough for few system calls, small enough for caches.
pub(crate) const BUFFER: usize = 1 << 20;

/// The free buffers of one read. They go when the read and all of its bytes are gone.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    free: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Free buffers that are kept at most.
    keep: usize,
    /// Bytes of all buffers in use.
    #[cfg(test)]
    held: Arc<std::sync::atomic::AtomicUsize>,
}

impl Pool {
    /// For a read that holds `window` bytes at most.
    pub(crate) fn new(window: u64) -> Self {
        let keep = usize::try_from(window / BUFFER as u64).unwrap_or(usize::MAX);
        Self {
            free: Arc::default(),
            keep: keep.saturating_add(1),
            #[cfg(test)]
            held: Arc::default(),
        }
    }

    /// An empty buffer for `length` bytes, or for the largest number below it that one has room
    /// for. What is small gets memory of its own size, which is not kept.
    pub(crate) fn buffer(&self, length: u64) -> Buffer {
        let length = usize::try_from(length).map_or(BUFFER, |length| length.min(BUFFER));
        #[cfg(test)]
        self.held
            .fetch_add(length, std::sync::atomic::Ordering::SeqCst);
        let free = (length == BUFFER).then(|| self.lock().pop()).flatten();
        Buffer {
            bytes: free.unwrap_or_else(|| vec![0; length]),
            filled: 0,
            pool: self.clone(),
        }
    }

    /// Reads a range of a file; an error when the file ends before it does.
    pub(crate) fn read(&self, file: &File, range: Range<u64>) -> io::Result<Vec<Bytes>> {
        let mut pieces = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let mut buffer = self.buffer(range.end - at);
            file.read_exact_at(&mut buffer.bytes, at)?;
            buffer.filled = buffer.bytes.len();
            at += buffer.filled as u64;
            pieces.push(buffer.freeze());
        }
        Ok(pieces)
    }

    /// Bytes of all buffers in use.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.held.load(std::sync::atomic::Ordering::SeqCst)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A buffer in use, which goes back when its last reader drops it.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    filled: usize,
    pool: Pool,
}

impl Buffer {
    /// Moves as much from the front of `bytes` into the buffer as it has room for.
    pub(crate) fn fill(&mut self, bytes: &mut Bytes) {
        let length = bytes.len().min(self.bytes.len() - self.filled);
        let to = self.filled + length;
        self.bytes[self.filled..to].copy_from_slice(&bytes.split_to(length));
        self.filled = to;
    }

    pub(crate) fn is_full(&self) -> bool {
        self.filled == self.bytes.len()
    }

    /// What the buffer holds.
    pub(crate) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        #[cfg(test)]
        self.pool
            .held
            .fetch_sub(bytes.len(), std::sync::atomic::Ordering::SeqCst);
        let mut free = self.pool.lock();
        if bytes.len() == BUFFER && free.len() < self.pool.keep {
            free.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn free(pool: &Pool) -> usize {
        pool.free.lock().unwrap().len()
    }

    #[test]
    fn buffers_come_back_and_hold_the_right_bytes() {
        let data: Vec<u8> = (0..3_200_000_u32).map(|n| (n % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&data).unwrap();
        let pool = Pool::new(8 << 20);
        for range in [0..3_200_000, 7..2_000_001, 5..5, 3_199_999..3_200_000] {
            let pieces = pool.read(&file, range.clone()).unwrap();
            let [from, to] = [range.start, range.end].map(|at| usize::try_from(at).unwrap());
            assert!(pieces.concat() == data[from..to], "{range:?}");
        }
        assert_eq!(free(&pool), 3, "no more than the longest range took");
        let error = pool.read(&file, 0..3_200_001).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(free(&pool), 3, "also after a failure");
        let many: Vec<_> = (0..20).map(|_| pool.buffer(1 << 20)).collect();
        drop(many);
        assert_eq!(free(&pool), 9, "what does not fit the window goes");
    }

    #[test]
    fn bytes_are_gathered_and_outlive_their_pool() {
        let mut buffer = Pool::new(0).buffer(7);
        let mut bytes = Bytes::from_static(b"wei");
        buffer.fill(&mut bytes);
        assert!(bytes.is_empty() && !buffer.is_full());
        let mut bytes = Bytes::from_static(b"ghts and more");
        buffer.fill(&mut bytes);
        assert!(buffer.is_full());
        assert_eq!(bytes, " and more");
        assert_eq!(buffer.freeze(), "weights");
    }
}
