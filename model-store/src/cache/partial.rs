//! A file that is arriving: its bytes, their hash, and the journal that another process goes on
//! from.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::task::JoinHandle;

use super::content::{Seal, check_digest, remove};
use super::journal::Journal;
use super::lock::FileLock;
use super::pin::Pin;
use super::{ModelCache, blocking, failed};
use crate::error::{Error, Result};
use crate::model::Trust;

/// The journal is written again after so many bytes, if the disk keeps up.
const CHECKPOINT: u64 = 4 << 20;
/// The bytes that may have arrived since the last journal: more are not taken until it is written.
/// What a killed process had beyond its journal is fetched again.
const BEHIND: u64 = 16 << 20;
/// The last bytes that are compared with the store's before a file goes on.
const TAIL: u64 = 4 << 10;

/// A file that is arriving. Its lock is held by whoever has it.
#[derive(Debug)]
pub(super) struct Partial {
    pin: Pin,
    path: PathBuf,
    journal: PathBuf,
    data: Arc<File>,
    hash: Sha256,
    at: u64,
    /// Held until the last write that was begun has ended, also when the fetch is dropped.
    lock: Arc<FileLock>,
}

impl Partial {
    /// What an earlier process left of the file, or an empty one.
    pub(super) fn open(cache: &ModelCache, pin: &Pin, lock: &Arc<FileLock>) -> Result<Self> {
        let (path, journal) = paths(cache, pin);
        let resume = || {
            // Without a tag and without a digest nobody would see that two contents were mixed.
            let (at, hash) = (pin.is_exact() || pin.sha256.is_some())
                .then(|| Journal::read(&journal, pin))??;
            let data = File::options().read(true).write(true).open(&path).ok()?;
            if at == 0 || data.metadata().ok()?.len() < at {
                return None;
            }
            data.set_len(at).ok()?;
            Some((data, at, hash))
        };
        let Some((data, at, hash)) = resume() else {
            return Self::fresh(cache, pin, lock);
        };
        let data = Arc::new(data);
        let pin = pin.clone();
        Ok(Self {
            pin,
            path,
            journal,
            data,
            hash,
            at,
            lock: Arc::clone(lock),
        })
    }

    /// An empty file; what was there is thrown away, the journal first.
    pub(super) fn fresh(cache: &ModelCache, pin: &Pin, lock: &Arc<FileLock>) -> Result<Self> {
        let (path, journal) = paths(cache, pin);
        let make = || {
            remove(&journal)?;
            remove(&path)?;
            File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(&path)
        };
        let data = make().map_err(|error| failed(&path, error))?;
        Ok(Self {
            pin: pin.clone(),
            path,
            journal,
            data: Arc::new(data),
            hash: Sha256::new(),
            at: 0,
            lock: Arc::clone(lock),
        })
    }

    /// How many bytes are here.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// The file, to read from while it arrives.
    pub(super) fn data(&self) -> &Arc<File> {
        &self.data
    }

    /// The last bytes that are here, to compare with the store's.
    pub(super) fn tail(&self) -> Result<Bytes> {
        let count = TAIL.min(self.at);
        let mut tail = vec![0; usize::try_from(count).unwrap_or(0)];
        let read = self.data.read_exact_at(&mut tail, self.at - count);
        read.map_err(|error| failed(&self.path, error))?;
        Ok(tail.into())
    }

    /// Reads what an earlier process left: whether it is what that process hashed.
    pub(super) fn recheck(&self) -> Recheck {
        let (data, end, path) = (Arc::clone(&self.data), self.at, self.path.clone());
        let expected = self.hash.clone().finalize();
        let alive = Arc::new(());
        let wanted = Arc::downgrade(&alive);
        let task = tokio::task::spawn_blocking(move || {
            let hash = hash_prefix(&data, end, &wanted).map_err(|error| failed(&path, error))?;
            Ok(hash.finalize() == expected)
        });
        Recheck {
            task,
            _alive: alive,
        }
    }

    /// Takes the next bytes. Blocks.
    pub(super) fn write(mut self, chunks: &[Bytes]) -> Result<Self> {
        for chunk in chunks {
            let written = self.data.write_all_at(chunk, self.at);
            written.map_err(|error| failed(&self.path, error))?;
            self.hash.update(chunk);
            self.at += chunk.len() as u64;
        }
        Ok(self)
    }

    /// Writes the bytes through to the disk, then the journal that speaks of them.
    pub(super) fn checkpoint(&self) -> impl FnOnce() -> Result<u64> + Send + 'static {
        let (data, at) = (Arc::clone(&self.data), self.at);
        let note = Journal::new(&self.pin, at, &self.hash);
        let (journal, lock) = (self.journal.clone(), Arc::clone(&self.lock));
        move || {
            let _held = lock;
            let written = data.sync_data().and_then(|()| note.write(&journal));
            written.map(|()| at).map_err(|e| failed(&journal, e))
        }
    }

    /// Compares the digest and gives the file its name. Blocks.
    pub(super) fn finish(self, cache: &ModelCache, trust: Trust) -> Result<Seal> {
        let sha256 = hex::encode(self.hash.clone().finalize());
        if let Err(error) = check_digest(&self.pin, &sha256) {
            self.discard();
            return Err(error);
        }
        let synced = self.data.sync_all();
        synced.map_err(|error| failed(&self.path, error))?;
        let seal = cache.place(&self.path, &self.pin, (sha256, trust))?;
        // Without its data a journal is worth nothing.
        let _ = remove(&self.journal);
        Ok(seal)
    }

    /// Throws the bytes away. What stays is found out the next time.
    pub(super) fn discard(self) {
        let _ = remove(&self.journal).and_then(|()| remove(&self.path));
    }
}

fn paths(cache: &ModelCache, pin: &Pin) -> (PathBuf, PathBuf) {
    let key = pin.key();
    (cache.partial(&key, "data"), cache.partial(&key, "json"))
}

/// The check of what an earlier process left, while the rest arrives. It stops when it is dropped.
#[derive(Debug)]
pub(super) struct Recheck {
    task: JoinHandle<Result<bool>>,
    _alive: Arc<()>,
}

impl Recheck {
    /// Waits until that is known: whether the bytes are right.
    pub(super) async fn passed(&mut self) -> Result<bool> {
        let passed = (&mut self.task).await;
        passed.map_err(|error| failed(&PathBuf::new(), io::Error::other(error)))?
    }
}

fn hash_prefix(data: &File, end: u64, wanted: &Weak<()>) -> io::Result<Sha256> {
    let mut buffer = vec![0; 1 << 20];
    let (mut hash, mut at) = (Sha256::new(), 0);
    while at < end && wanted.strong_count() > 0 {
        let count = usize::try_from(end - at).map_or(buffer.len(), |left| left.min(buffer.len()));
        data.read_exact_at(&mut buffer[..count], at)?;
        hash.update(&buffer[..count]);
        at += count as u64;
    }
    Ok(hash)
}

/// The journals of a file that is arriving, written beside the arrival and not in its way.
#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    durable: u64,
    running: Option<JoinHandle<Result<u64>>>,
}

impl Checkpoints {
    /// From a journal that speaks of `durable` bytes.
    pub(super) fn after(durable: u64) -> Self {
        let running = None;
        Self { durable, running }
    }

    /// Writes a journal where it is time to; waits only where the last one lies too far back.
    pub(super) async fn step(&mut self, partial: &Partial) -> Result<()> {
        if partial.at().saturating_sub(self.durable) >= BEHIND {
            self.settle().await?;
        }
        if self.running.is_none() && partial.at().saturating_sub(self.durable) >= CHECKPOINT {
            self.running = Some(tokio::task::spawn_blocking(partial.checkpoint()));
        }
        Ok(())
    }

    /// Waits until the journal that is being written is on the disk; for ever, if there is none.
    pub(super) async fn saved(&mut self) -> Result<()> {
        if self.running.is_none() {
            std::future::pending::<()>().await;
        }
        self.settle().await
    }

    /// Waits for the journal that is being written.
    pub(super) async fn settle(&mut self) -> Result<()> {
        if let Some(running) = &mut self.running {
            let done = running.await;
            self.running = None;
            self.durable = done
                .map_err(|error| -> Error { failed(&PathBuf::new(), io::Error::other(error)) })??;
        }
        Ok(())
    }

    /// Writes a last journal, for the process that goes on.
    pub(super) async fn last(mut self, partial: &Partial) -> Result<()> {
        self.settle().await?;
        if partial.at() > self.durable {
            blocking(partial.checkpoint()).await?;
        }
        Ok(())
    }
}
