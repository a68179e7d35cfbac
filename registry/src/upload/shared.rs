//! What the uploads of one repository share: the bytes they may hold, and what one has learned.

use std::sync::{Mutex, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};

use super::ladder::Rung;
use super::reader;
use crate::blob::Blob;
use crate::options::RegistryOptions;
use crate::profile::Profile;

/// Shared by all uploads of a repository and its clones.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) profile: Profile,
    /// One permit for each KiB.
    permits: Semaphore,
    total: u32,
    learned: Mutex<Option<Rung>>,
}

impl Shared {
    pub(crate) fn new(options: &RegistryOptions, host: &str) -> Self {
        let profile = options.profile.clone();
        // More permits than this cannot be asked for at once: 2 TiB.
        let total = u32::try_from(options.upload_window >> 10)
            .unwrap_or(u32::MAX)
            .clamp(1, u32::MAX >> 1);
        Self {
            profile: profile.unwrap_or_else(|| Profile::for_host(host)),
            permits: Semaphore::new(total as usize),
            total,
            learned: Mutex::new(None),
        }
    }

    /// Waits until the bytes that an upload of `blob` holds fit in. One that never fits runs
    /// alone.
    pub(crate) async fn admit(&self, blob: &Blob) -> Option<SemaphorePermit<'_>> {
        self.permits.acquire_many(self.cost(blob)).await.ok()
    }

    /// In KiB, rounded up.
    fn cost(&self, blob: &Blob) -> u32 {
        let held = blob.window().saturating_add(reader::WINDOW);
        let bytes = held.min(blob.size().saturating_mul(2));
        u32::try_from(bytes.div_ceil(1 << 10))
            .unwrap_or(u32::MAX)
            .min(self.total)
    }

    pub(crate) fn learned(&self) -> Option<Rung> {
        *self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn learn(&self, rung: Rung) {
        *self.learned.lock().unwrap_or_else(PoisonError::into_inner) = Some(rung);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt as _;
    use futures::future::FutureExt as _;
    use futures::stream;

    fn blob(size: u64, window: u64) -> Blob {
        Blob::new("x/y", size, |_| stream::empty().boxed()).with_window(window)
    }

    #[tokio::test]
    async fn a_blob_beyond_the_window_runs_alone() {
        let options = RegistryOptions {
            upload_window: 20 << 20,
            ..RegistryOptions::default()
        };
        let shared = Shared::new(&options, "registry.invalid");
        let small = shared.admit(&blob(1 << 30, 1 << 20)).await.unwrap();
        let huge = blob(1 << 40, u64::MAX);
        assert!(shared.admit(&huge).now_or_never().is_none());
        drop(small);
        let permit = shared.admit(&huge).await.unwrap();
        let tiny = blob(1, 1 << 20);
        assert!(shared.admit(&tiny).now_or_never().is_none());
        drop(permit);
        assert!(shared.admit(&tiny).now_or_never().is_some());
        assert_eq!(shared.cost(&blob(0, 1 << 20)), 0);
    }
}
