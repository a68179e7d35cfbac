//! Advisory locks that end with their process, however it ends.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{blocking, failed};
use crate::error::Result;

/// How often a lock that another one holds is asked for. It is asked for, and not waited for in
/// the system, because a thread that waits there could not be told to stop.
const PAUSE: Duration = Duration::from_millis(50);

/// A lock on a file that nobody reads or writes.
#[derive(Debug)]
pub(super) struct FileLock {
    path: PathBuf,
    _file: File,
}

/// Whether others may hold the lock at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    Alone,
    Together,
}

impl FileLock {
    /// The lock, if nobody holds it in a way that excludes this one.
    pub(super) fn attempt(path: &Path, share: Share) -> io::Result<Option<Self>> {
        let file = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .open(path)?;
        let locked = match share {
            Share::Alone => file.try_lock(),
            Share::Together => file.try_lock_shared(),
        };
        match locked {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Its holder may have removed the file between the two calls: then this is a lock on
        // nothing, and the next attempt makes a new file.
        let same = match fs::metadata(path) {
            Ok(there) => {
                let ours = file.metadata()?;
                (there.dev(), there.ino()) == (ours.dev(), ours.ino())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        let path = path.to_owned();
        Ok(same.then_some(Self { path, _file: file }))
    }

    /// Waits for the lock; `waiting` is called once, when it is not free.
    pub(super) async fn wait(path: PathBuf, share: Share, waiting: impl FnOnce()) -> Result<Self> {
        let mut waiting = Some(waiting);
        loop {
            let asked = path.clone();
            let attempt = move || Self::attempt(&asked, share).map_err(|e| failed(&asked, e));
            if let Some(lock) = blocking(attempt).await? {
                return Ok(lock);
            }
            if let Some(waiting) = waiting.take() {
                waiting();
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Removes the lock's file, when there is nothing left to lock.
    pub(super) fn remove(&self) {
        // A file that stays is taken the next time.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_by_one_or_by_all_that_share_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let get = |share| FileLock::attempt(&path, share).unwrap();
        let alone = get(Share::Alone).unwrap();
        assert!(get(Share::Alone).is_none() && get(Share::Together).is_none());
        drop(alone);
        let together = [get(Share::Together), get(Share::Together)];
        assert!(together.iter().all(Option::is_some) && get(Share::Alone).is_none());
        drop(together);
        assert!(get(Share::Alone).is_some());
    }

    #[tokio::test]
    async fn of_those_who_wait_for_a_removed_lock_one_gets_the_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let inside = std::sync::atomic::AtomicUsize::new(0);
        let enter = |_| async {
            let lock = FileLock::wait(path.clone(), Share::Alone, || ()).await;
            let lock = lock.unwrap();
            let others = inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            assert_eq!(others, 0);
            tokio::task::yield_now().await;
            inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
            lock.remove();
        };
        futures::future::join_all((0..8).map(enter)).await;
        assert!(!path.exists());
    }
}
