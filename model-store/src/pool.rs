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

/// The size of a buffer at most: large enough for few system calls, small enough for caches.
const BUFFER: usize = 1 << 20;

/// The free buffers of one read. They go when the read and all of its bytes are gone.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    free: Arc<Mutex<Vec<Vec<u8>>>>,
    size: usize,
}

impl Pool {
    /// For a file of `size` bytes: a small one is not given a large buffer.
    pub(crate) fn new(size: u64) -> Self {
        Self {
            free: Arc::default(),
            size: usize::try_from(size).map_or(BUFFER, |size| size.min(BUFFER)),
        }
    }

    fn take(&self) -> Vec<u8> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.pop().unwrap_or_else(|| vec![0; self.size])
    }

    /// Reads a range of a file; an error when the file ends before it does.
    pub(crate) fn read(&self, file: &File, range: Range<u64>) -> io::Result<Vec<Bytes>> {
        let mut pieces = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let left = usize::try_from(range.end - at).unwrap_or(usize::MAX);
            let length = left.min(self.size);
            let mut lent = Lent {
                buffer: self.take(),
                length,
                pool: self.clone(),
            };
            file.read_exact_at(&mut lent.buffer[..length], at)?;
            pieces.push(Bytes::from_owner(lent));
            at += length as u64;
        }
        Ok(pieces)
    }
}

/// A buffer in use, which goes back when its last reader drops it.
struct Lent {
    buffer: Vec<u8>,
    length: usize,
    pool: Pool,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        let mut free = self
            .pool
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        free.push(buffer);
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
        let data: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&data).unwrap();
        let pool = Pool::new(3_000_000);
        for range in [0..3_000_000, 7..2_000_001, 5..5, 2_999_999..3_000_000] {
            let pieces = pool.read(&file, range.clone()).unwrap();
            let [from, to] = [range.start, range.end].map(|at| usize::try_from(at).unwrap());
            assert!(pieces.concat() == data[from..to], "{range:?}");
        }
        assert_eq!(free(&pool), 3, "no more than the longest range took");
        let error = pool.read(&file, 0..3_000_001).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(free(&pool), 3, "also after a failure");
    }

    #[test]
    fn bytes_outlive_their_pool() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"weights").unwrap();
        let pieces = Pool::new(7).read(&file, 0..7).unwrap();
        assert_eq!(pieces.concat(), b"weights");
    }
}
