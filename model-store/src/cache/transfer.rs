//! One content on its way from the store into the cache.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::arriving::Place;
use super::content::{SMALL, Seal, Wanted};
use super::inlet::{Batch, Inlet};
use super::lock::{FileLock, Share};
use super::meter::Meter;
use super::options::FetchEvent;
use super::partial::{Checkpoints, Partial, Recheck};
use super::pin::Pin;
use super::{ModelCache, blocking};
use crate::error::{Error, ErrorKind, Result};
use crate::model::{ModelVersion, Trust};
use crate::read::ReadOptions;
use crate::store::ModelStore;

/// What one transfer works with.
pub(super) struct Transfer<'a> {
    pub(super) store: &'a ModelStore,
    pub(super) model: &'a ModelVersion,
    pub(super) path: &'a str,
    pub(super) cache: &'a ModelCache,
    pub(super) pin: &'a Pin,
    pub(super) place: &'a watch::Sender<Place>,
    pub(super) meter: &'a Meter<'a>,
    pub(super) read: ReadOptions,
}

impl Transfer<'_> {
    /// Fetches the content, or waits for who is fetching it; gives what was found.
    pub(super) async fn run(&self) -> Result<Seal> {
        let path = self.cache.partial(&self.pin.key(), "lock");
        let waiting = || {
            self.meter.tell(FetchEvent::Waiting {
                path: self.path.to_owned(),
            });
        };
        let lock = Arc::new(FileLock::wait(path, Share::Alone, waiting).await?);
        let (cache, pin) = (self.cache.clone(), self.pin.clone());
        let wanted = Wanted::of(&self.read, false);
        let seal = match blocking(move || cache.find(&pin, wanted)).await? {
            Some(seal) => {
                self.meter.found(self.pin.size);
                seal
            }
            None if self.pin.size < SMALL => self.small(&lock).await?,
            None => self.large(&lock).await?,
        };
        let whole = Place::Whole(self.cache.content(&seal.0));
        self.place.send_replace(whole);
        lock.remove();
        Ok(seal)
    }

    async fn small(&self, lock: &Arc<FileLock>) -> Result<Seal> {
        let mut inlet = self.inlet(0, Bytes::new())?;
        let (mut chunks, mut count) = (Vec::new(), 0);
        let trust = loop {
            match inlet.next().await? {
                Batch::Bytes(batch) => {
                    count += batch.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
                    chunks.extend(batch);
                }
                Batch::End(trust) => break trust,
                // There was nothing to compare with.
                Batch::Other => return Err(self.cut(count)),
            }
        };
        if count != self.pin.size {
            return Err(self.cut(count));
        }
        let (cache, pin, held) = (self.cache.clone(), self.pin.clone(), Arc::clone(lock));
        let placed = blocking(move || {
            let _held = held;
            cache.place_small(&pin, &chunks, trust)
        });
        let seal = placed.await?;
        self.meter.moved(count, self.path, count, count);
        Ok(seal)
    }

    async fn large(&self, lock: &Arc<FileLock>) -> Result<Seal> {
        // Of a file that goes on, no checksum of the store is compared.
        let must_compare = self.pin.sha256.is_none() && self.read.require > Some(Trust::Observed);
        let open = if must_compare {
            Partial::fresh
        } else {
            Partial::open
        };
        let partial = self.open(lock, open).await?;
        if partial.at() > 0 {
            self.meter.found(partial.at());
            self.meter.tell(FetchEvent::Resumed {
                path: self.path.to_owned(),
                offset: partial.at(),
            });
        }
        if let Some(seal) = self.receive(partial).await? {
            return Ok(seal);
        }
        self.meter.tell(FetchEvent::Restarted {
            path: self.path.to_owned(),
        });
        let fresh = self.open(lock, Partial::fresh).await?;
        let whole = self.receive(fresh).await?;
        // Only what an earlier process left can turn out to be of no use.
        whole.ok_or_else(|| self.cut(0))
    }

    async fn open(
        &self,
        lock: &Arc<FileLock>,
        open: fn(&ModelCache, &Pin, &Arc<FileLock>) -> Result<Partial>,
    ) -> Result<Partial> {
        let (cache, pin, lock) = (self.cache.clone(), self.pin.clone(), Arc::clone(lock));
        blocking(move || open(&cache, &pin, &lock)).await
    }

    /// Receives what is missing of `partial`; `None` when what an earlier process left is not what
    /// it hashed, or not what the store has.
    async fn receive(&self, mut partial: Partial) -> Result<Option<Seal>> {
        let tail = partial.tail()?;
        let mut inlet = self.inlet(partial.at(), tail)?;
        let mut recheck = (partial.at() > 0).then(|| partial.recheck());
        let mut checkpoints = Checkpoints::after(partial.at());
        let trust = loop {
            let next = tokio::select! {
                biased;
                checked = passed(&mut recheck) => Next::Checked(checked?),
                saved = checkpoints.saved() => Next::Saved(saved?),
                batch = inlet.next() => Next::Batch(batch),
            };
            match next {
                Next::Checked(true) => recheck = None,
                Next::Saved(()) => {}
                Next::Batch(Ok(Batch::Bytes(batch))) => {
                    partial = self.write(partial, batch).await?;
                }
                Next::Batch(Ok(Batch::End(trust))) => break trust,
                Next::Batch(Err(error)) => {
                    return Err(self.give_up(error, partial, checkpoints).await);
                }
                Next::Checked(false) | Next::Batch(Ok(Batch::Other)) => {
                    checkpoints.settle().await?;
                    return Ok(self.stale(&partial));
                }
            }
            checkpoints.step(&partial).await?;
            if recheck.is_none() {
                self.show(&partial);
            }
        };
        checkpoints.settle().await?;
        if recheck.is_some() && !passed(&mut recheck).await? {
            return Ok(self.stale(&partial));
        }
        if partial.at() != self.pin.size {
            return Err(self.cut(partial.at()));
        }
        let cache = self.cache.clone();
        blocking(move || partial.finish(&cache, trust))
            .await
            .map(Some)
    }

    /// The bytes from `at` on, after those of `tail`.
    fn inlet(&self, at: u64, tail: Bytes) -> Result<Inlet<'_>> {
        let file = (self.store, self.model, self.path);
        Inlet::open(file, self.pin, (at, tail), &self.read)
    }

    async fn write(&self, partial: Partial, batch: Vec<Bytes>) -> Result<Partial> {
        let before = partial.at();
        let partial = blocking(move || partial.write(&batch)).await?;
        let (at, size) = (partial.at(), self.pin.size);
        self.meter.moved(at - before, self.path, at, size);
        Ok(partial)
    }

    /// Lets readers have what is there, up to the last byte, which is for a file that is right.
    fn show(&self, partial: &Partial) {
        let there = partial.at().min(self.pin.size.saturating_sub(1));
        let place = Place::Open(Arc::clone(partial.data()), there);
        self.place.send_replace(place);
    }

    fn stale(&self, partial: &Partial) -> Option<Seal> {
        self.meter.lost(partial.at());
        None
    }

    /// Leaves what is here for a later process, unless no later one can use it.
    async fn give_up(&self, error: Error, partial: Partial, mut checkpoints: Checkpoints) -> Error {
        // The error that comes is the one to tell, whatever becomes of the rest.
        if matches!(error.kind(), ErrorKind::Changed | ErrorKind::DigestMismatch) {
            let _ = checkpoints.settle().await;
            let discard = move || {
                partial.discard();
                Ok(())
            };
            let _ = blocking(discard).await;
        } else {
            let _ = checkpoints.last(&partial).await;
        }
        error
    }

    fn cut(&self, count: u64) -> Error {
        let detail = format!("the object ended after {count} of {} bytes", self.pin.size);
        Error::new(
            ErrorKind::Unreachable,
            super::STAGE,
            self.pin.name(),
            detail,
        )
    }
}

/// What happens next to a file that is arriving.
enum Next {
    /// What was there is what was hashed, or is not.
    Checked(bool),
    /// A journal is on the disk.
    Saved(()),
    Batch(Result<Batch>),
}

/// Waits for the check of what was there; for ever, if there was nothing.
async fn passed(recheck: &mut Option<Recheck>) -> Result<bool> {
    match recheck {
        Some(recheck) => recheck.passed().await,
        None => std::future::pending().await,
    }
}
