//! Digests of a file's bytes as they flow, on threads for blocking work, in order.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use md5::Md5;
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;

use crate::transport::Stated;

/// Bytes that may wait to be hashed; then the reader waits too. They are held beyond the window.
const WAITING: usize = 4 << 20;
/// Files up to this size are hashed where they are: going to another thread takes longer.
const SMALL: u64 = 64 << 10;

/// Everything that is computed of one file.
pub(super) struct Check {
    sha256: Option<Digester>,
    /// The store's own checksum, where it is not the SHA-256.
    other: Option<(Digester, Stated)>,
    stated_sha256: Option<[u8; 32]>,
}

/// What was found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) sha256: Option<String>,
    /// What was computed and what the store says, where they differ.
    pub(super) differs: Option<(String, String)>,
}

impl Check {
    /// For a file of `size` bytes; `sha256` when that is wanted, besides what `stated` needs.
    pub(super) fn new(size: u64, sha256: bool, stated: Option<Stated>) -> Self {
        let digester = |hasher| Digester::new(hasher, size <= SMALL);
        let other = match stated {
            Some(Stated::Md5(_)) => Some(Hasher::Md5(Md5::new())),
            Some(Stated::Crc64(_)) => Some(Hasher::Crc64(Box::new(crc_fast::Digest::new(
                CrcAlgorithm::Crc64Nvme,
            )))),
            Some(Stated::Sha256(_)) | None => None,
        };
        let stated_sha256 = match stated {
            Some(Stated::Sha256(digest)) => Some(digest),
            _ => None,
        };
        Self {
            sha256: (sha256 || stated_sha256.is_some())
                .then(|| digester(Hasher::Sha256(Sha256::new()))),
            other: other.map(digester).zip(stated),
            stated_sha256,
        }
    }

    /// Whether nothing is computed.
    pub(super) fn is_idle(&self) -> bool {
        self.sha256.is_none() && self.other.is_none()
    }

    /// Takes the next bytes. Returns at once, unless hashing is far behind.
    pub(super) async fn add(&self, bytes: &Bytes) {
        if let Some(sha256) = &self.sha256 {
            sha256.add(bytes).await;
        }
        if let Some((other, _)) = &self.other {
            other.add(bytes).await;
        }
    }

    /// What all bytes together have, compared with what the store says.
    pub(super) async fn settle(self) -> Found {
        let sha256 = match self.sha256 {
            Some(digester) => Some(digester.settle().await),
            None => None,
        };
        let mut compared = None;
        if let Some((digester, stated)) = self.other {
            compared = Some((digester.settle().await, stated.hex()));
        } else if let Some(stated) = self.stated_sha256 {
            compared = sha256.clone().map(|got| (got, hex::encode(stated)));
        }
        Found {
            sha256,
            differs: compared.filter(|(got, stated)| got != stated),
        }
    }
}

impl Stated {
    fn hex(self) -> String {
        match self {
            Self::Sha256(bytes) => hex::encode(bytes),
            Self::Crc64(bytes) => hex::encode(bytes),
            Self::Md5(bytes) => hex::encode(bytes),
        }
    }
}

enum Hasher {
    Sha256(Sha256),
    Md5(Md5),
    Crc64(Box<crc_fast::Digest>),
}

impl Hasher {
    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Md5(hasher) => hasher.update(bytes),
            Self::Crc64(hasher) => hasher.update(bytes),
        }
    }

    fn finish(self) -> String {
        match self {
            Self::Sha256(hasher) => hex::encode(hasher.finalize()),
            Self::Md5(hasher) => hex::encode(hasher.finalize()),
            Self::Crc64(hasher) => hex::encode(hasher.finalize().to_be_bytes()),
        }
    }
}

/// A digest that is computed on a thread for blocking work, which it has only while there is
/// something to do.
struct Digester {
    shared: Arc<Shared>,
    inline: bool,
}

struct Shared {
    work: Mutex<Work>,
    /// Told whenever there is less to do.
    less: Notify,
}

struct Work {
    /// Away while a thread works with it.
    hasher: Option<Hasher>,
    queue: VecDeque<Bytes>,
    /// Bytes in the queue and in the thread's hands.
    waiting: usize,
}

impl Digester {
    fn new(hasher: Hasher, inline: bool) -> Self {
        let work = Work {
            hasher: Some(hasher),
            queue: VecDeque::new(),
            waiting: 0,
        };
        let shared = Arc::new(Shared {
            work: Mutex::new(work),
            less: Notify::new(),
        });
        Self { shared, inline }
    }

    async fn add(&self, bytes: &Bytes) {
        while !self.try_add(bytes) {
            self.shared.less.notified().await;
        }
    }

    /// Whether there was room for `bytes`.
    fn try_add(&self, bytes: &Bytes) -> bool {
        let mut work = self.shared.lock();
        if self.inline {
            if let Some(hasher) = &mut work.hasher {
                hasher.update(bytes);
            }
            return true;
        }
        if work.waiting >= WAITING {
            return false;
        }
        work.waiting += bytes.len();
        work.queue.push_back(bytes.clone());
        if let Some(hasher) = work.hasher.take() {
            let shared = Arc::clone(&self.shared);
            tokio::task::spawn_blocking(move || shared.run(hasher));
        }
        true
    }

    async fn settle(self) -> String {
        loop {
            let hasher = self.shared.lock().hasher.take();
            if let Some(hasher) = hasher {
                return hasher.finish();
            }
            self.shared.less.notified().await;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hashes until nothing is left, then gives the hasher back.
    fn run(&self, mut hasher: Hasher) {
        loop {
            let next = {
                let mut work = self.lock();
                let next = work.queue.pop_front();
                if next.is_none() {
                    work.hasher = Some(hasher);
                    drop(work);
                    self.less.notify_one();
                    return;
                }
                next
            };
            let length = next.as_ref().map_or(0, Bytes::len);
            if let Some(bytes) = next {
                hasher.update(&bytes);
            }
            self.lock().waiting -= length;
            self.less.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn found(bytes: &[u8], sha256: bool, stated: Option<Stated>) -> Found {
        let check = Check::new(bytes.len() as u64, sha256, stated);
        for chunk in bytes.chunks(1 << 20) {
            check.add(&Bytes::copy_from_slice(chunk)).await;
        }
        check.settle().await
    }

    fn md5(text: &str) -> Stated {
        Stated::Md5(hex::decode(text).unwrap().try_into().unwrap())
    }

    #[tokio::test]
    async fn digests_are_those_of_other_tools() {
        // printf hello | md5sum; the CRC-64/NVME of "123456789" is its published check value.
        let good = found(
            b"hello",
            true,
            Some(md5("5d41402abc4b2a76b9719d911017c592")),
        )
        .await;
        assert!(good.sha256.unwrap().starts_with("2cf24dba5fb0a30e"));
        assert_eq!(good.differs, None);
        let crc = Stated::Crc64(0xae8b_1486_0a79_9888_u64.to_be_bytes());
        let good = found(b"123456789", false, Some(crc)).await;
        assert_eq!((good.sha256, good.differs), (None, None));
        let bad = found(
            b"hullo",
            false,
            Some(md5("5d41402abc4b2a76b9719d911017c592")),
        )
        .await;
        assert_eq!(bad.differs.unwrap().1, "5d41402abc4b2a76b9719d911017c592");
    }

    #[tokio::test]
    async fn large_files_are_hashed_in_order_by_another_thread() {
        let bytes: Vec<u8> = (0..40_000_000_u32).map(|n| (n % 251) as u8).collect();
        let sha256: [u8; 32] = Sha256::digest(&bytes).into();
        let good = found(&bytes, true, Some(Stated::Sha256(sha256))).await;
        assert_eq!(good.sha256, Some(hex::encode(sha256)));
        assert_eq!(good.differs, None);
        assert!(Check::new(1, false, None).is_idle());
    }
}
