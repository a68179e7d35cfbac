//! Keeps a cache within bounds.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::content::remove;
use super::lock::{FileLock, Share};
use super::pin::Pin;
use super::{ModelCache, blocking, failed};
use crate::error::Result;
use crate::model::ModelVersion;

/// What a trim did. Sizes are in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Trimmed {
    /// Whether someone is using the cache, so that nothing was removed.
    pub in_use: bool,
    /// Files that were removed, unfinished ones included.
    pub removed_files: usize,
    /// Their sizes together.
    pub removed_bytes: u64,
    /// The sizes of what is left.
    pub kept_bytes: u64,
}

/// A file of the cache.
struct Found {
    path: PathBuf,
    size: u64,
    arrived: SystemTime,
}

impl ModelCache {
    /// Removes files that are not of the models `keep`, those that arrived first before the
    /// others, until no more than `max_bytes` are left; and what was left of other fetches that
    /// never ended. Files of `keep` stay, also where they are more.
    ///
    /// Nothing is removed while anybody fetches into the cache or holds a
    /// [`CachedModel`](super::CachedModel) of it, in this process or another one.
    ///
    /// # Errors
    /// `Io` or `Forbidden` when files cannot be listed or removed.
    pub async fn trim(&self, keep: &[&ModelVersion], max_bytes: u64) -> Result<Trimmed> {
        let pins = keep.iter().flat_map(|model| {
            let pin = |file| Pin::of(model, file);
            model.files().iter().map(pin)
        });
        let (cache, pins): (_, Vec<Pin>) = (self.clone(), pins.collect());
        blocking(move || cache.trim_now(&pins, max_bytes)).await
    }

    fn trim_now(&self, keep: &[Pin], max_bytes: u64) -> Result<Trimmed> {
        let path = self.dir().join("lock");
        let lock = FileLock::attempt(&path, Share::Alone).map_err(|e| failed(&path, e))?;
        let Some(_lock) = lock else {
            return Ok(Trimmed {
                in_use: true,
                ..Trimmed::default()
            });
        };
        let keys: HashSet<String> = keep.iter().map(Pin::key).collect();
        let digests: HashSet<String> = keep
            .iter()
            .filter_map(|p| Some(self.digest_of(p)?.0))
            .collect();
        let mut trimmed = Trimmed::default();
        for part in list(&self.dir().join("partial"))? {
            // Locks too: nobody has one of them.
            let key = name(&part.path).split('.').next().unwrap_or_default();
            let lock = part.path.extension().is_some_and(|end| end == "lock");
            trimmed.see(&part, keys.contains(key) && !lock)?;
        }
        self.trim_contents(&digests, max_bytes, &mut trimmed)?;
        for note in list(&self.dir().join("known"))? {
            let digest = Self::known_digest(&note.path);
            if !digest.is_some_and(|digest| self.content(&digest).exists()) {
                remove(&note.path).map_err(|error| failed(&note.path, error))?;
            }
        }
        Ok(trimmed)
    }

    fn trim_contents(
        &self,
        keep: &HashSet<String>,
        max_bytes: u64,
        trimmed: &mut Trimmed,
    ) -> Result<()> {
        let mut files = Vec::new();
        for shard in list(&self.dir().join("sha256"))? {
            files.extend(list(&shard.path)?);
        }
        files.sort_by(|a, b| (a.arrived, &a.path).cmp(&(b.arrived, &b.path)));
        let mut left: u64 = files.iter().map(|file| file.size).sum();
        for file in files {
            let kept = keep.contains(name(&file.path)) || left <= max_bytes;
            left -= if kept { 0 } else { file.size };
            trimmed.see(&file, kept)?;
        }
        Ok(())
    }
}

impl Trimmed {
    fn see(&mut self, file: &Found, kept: bool) -> Result<()> {
        if kept {
            self.kept_bytes += file.size;
            return Ok(());
        }
        remove(&file.path).map_err(|error| failed(&file.path, error))?;
        self.removed_files += 1;
        self.removed_bytes += file.size;
        Ok(())
    }
}

fn name(path: &Path) -> &str {
    let name = path.file_name().and_then(|name| name.to_str());
    name.unwrap_or_default()
}

/// The entries of a folder.
fn list(folder: &Path) -> Result<Vec<Found>> {
    let list = || -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let meta = entry.metadata()?;
            found.push(Found {
                path: entry.path(),
                size: if meta.is_file() { meta.len() } else { 0 },
                arrived: meta.modified()?,
            });
        }
        Ok(found)
    };
    list().map_err(|error| failed(folder, error))
}
