//! Temporary folders that do not outlive their process for long, however it ends.
//!
//! Beside each folder stands a lock file which its owner holds. A folder whose lock is free has
//! no owner any more, and whoever makes the next folder removes it.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

const PREFIX: &str = "modelship-testkit-";

/// A temporary folder, removed on drop, or by a later process when its own was killed.
///
/// Its path is short (23 characters below the system's temporary folder), because the path of a
/// Unix socket within it must stay below 108.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    lock_path: PathBuf,
    _lock: File,
}

impl Scratch {
    /// Makes an empty folder, after removing those that were left by killed processes.
    ///
    /// # Errors
    /// When the system's temporary folder cannot be written.
    pub fn new() -> io::Result<Self> {
        let parent = std::env::temp_dir();
        sweep(&parent)?;
        let path = parent.join(format!(
            "{PREFIX}{}",
            hex::encode(rand::random::<[u8; 3]>())
        ));
        let lock_path = path.with_extension("lock");
        // Locked before the folder exists: a folder is never seen without its lock held.
        let lock = File::create_new(&lock_path)?;
        lock.lock()?;
        std::fs::create_dir(&path)?;
        Ok(Self {
            path,
            lock_path,
            _lock: lock,
        })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of `name` in the folder.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is removed by a later sweep, which the kept lock file names.
        if std::fs::remove_dir_all(&self.path).is_ok() {
            let _ = std::fs::remove_file(&self.lock_path);
        }
    }
}

/// Removes the folders below `parent` whose owner is gone, except where something is mounted.
fn sweep(parent: &Path) -> io::Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for path in abandoned(parent)? {
        let below = format!(" {}/", path.display());
        if !mounts.contains(&below) {
            // Two sweeps may meet at the same folder: what is gone is as good as removed.
            let _ = std::fs::remove_dir_all(&path);
            let _ = std::fs::remove_file(path.with_extension("lock"));
        }
    }
    Ok(())
}

/// The folders below `parent` whose owner is gone.
pub(crate) fn abandoned(parent: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(parent)? {
        let entry = entry?;
        let ours = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.starts_with(PREFIX));
        if ours && entry.file_type().is_ok_and(|kind| kind.is_dir()) && is_free(&entry.path()) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn is_free(folder: &Path) -> bool {
    match File::open(folder.with_extension("lock")) {
        Ok(lock) => !matches!(lock.try_lock(), Err(TryLockError::WouldBlock)),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_removed_on_drop_and_an_abandoned_one_by_the_next_sweep() {
        let parent = tempfile::tempdir().unwrap();
        let left = parent.path().join("modelship-testkit-left");
        std::fs::create_dir_all(left.join("data")).unwrap();
        File::create(left.with_extension("lock")).unwrap();
        let held = parent.path().join("modelship-testkit-held");
        std::fs::create_dir(&held).unwrap();
        let lock = File::create(held.with_extension("lock")).unwrap();
        lock.lock().unwrap();
        let other = parent.path().join("other");
        std::fs::create_dir(&other).unwrap();

        sweep(parent.path()).unwrap();
        assert!(!left.exists() && !left.with_extension("lock").exists());
        assert!(held.exists() && other.exists());

        let scratch = Scratch::new().unwrap();
        let path = scratch.path().to_owned();
        assert!(path.is_dir());
        drop(scratch);
        assert!(!path.exists() && !path.with_extension("lock").exists());
    }
}
