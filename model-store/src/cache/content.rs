//! The whole files of a cache, and what was found in objects that nobody states a SHA-256 of.

use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::pin::Pin;
use super::{ModelCache, failed};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Trust;
use crate::names::check_sha256;
use crate::read::ReadOptions;

/// Files of fewer bytes are fetched whole. They are not written through to the disk one by one,
/// which would take longer than to fetch them; instead they are hashed whenever they are found.
pub(super) const SMALL: u64 = 1 << 20;

/// What an object was found to hold.
#[derive(Serialize, Deserialize)]
struct Known {
    schema_version: u32,
    pin: Pin,
    sha256: String,
    trust: Trust,
}

/// The SHA-256 of a file, and who but the lock says that it is right.
pub(super) type Seal = (String, Trust);

/// Which files of the cache are good enough.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    /// Whether large files are hashed again, too.
    rehash: bool,
    /// Who has to vouch for what the lock does not say.
    least: Option<Trust>,
}

impl Wanted {
    pub(super) fn of(read: &ReadOptions, rehash: bool) -> Self {
        let least = read.require;
        Self { rehash, least }
    }
}

impl ModelCache {
    /// Where the file with this content is, or will be.
    pub(super) fn content(&self, sha256: &str) -> PathBuf {
        let shard = sha256.get(..2).unwrap_or_default();
        self.dir().join("sha256").join(shard).join(sha256)
    }

    /// Whether a file with this name and size is here.
    pub(super) fn has(&self, sha256: &str, size: u64) -> Result<bool> {
        let path = self.content(sha256);
        match fs::symlink_metadata(&path) {
            Ok(meta) => Ok(meta.is_file() && meta.len() == size),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed(&path, error)),
        }
    }

    /// The SHA-256 of what `pin` means, from the lock or from an earlier fetch of this very state
    /// of the object.
    pub(super) fn digest_of(&self, pin: &Pin) -> Option<Seal> {
        let stated = pin.sha256.clone().map(|sha256| (sha256, Trust::Observed));
        stated.or_else(|| self.known(pin))
    }

    fn known(&self, pin: &Pin) -> Option<Seal> {
        let text = fs::read(self.known_path(pin)).ok()?;
        let known: Known = serde_json::from_slice(&text).ok()?;
        let fits = known.schema_version == 1 && known.pin == *pin && pin.is_exact();
        (fits && check_sha256(&known.sha256).is_ok()).then_some((known.sha256, known.trust))
    }

    fn known_path(&self, pin: &Pin) -> PathBuf {
        let name = format!("{}.json", pin.object_key());
        self.dir().join("known").join(name)
    }

    /// The content that a note of the folder `known` is about.
    pub(super) fn known_digest(path: &Path) -> Option<String> {
        let known: Known = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        Some(known.sha256)
    }

    /// Notes what was found, where the lock does not say it. The caller holds the file's lock.
    pub(super) fn remember(&self, pin: &Pin, (sha256, trust): &Seal) -> Result<()> {
        if pin.sha256.is_some() || !pin.is_exact() {
            return Ok(());
        }
        let known = Known {
            schema_version: 1,
            pin: pin.clone(),
            sha256: sha256.clone(),
            trust: *trust,
        };
        let path = self.known_path(pin);
        let text = serde_json::to_vec(&known).map_err(|e| failed(&path, e.into()))?;
        // A note that a crash of the machine tears is no JSON, or names what is then hashed.
        replace(&path, &text, false).map_err(|error| failed(&path, error))
    }

    /// The SHA-256 of the file that `pin` means, if that file is here. A small one, or any one on
    /// request, is hashed again before it is trusted.
    pub(super) fn find(&self, pin: &Pin, wanted: Wanted) -> Result<Option<Seal>> {
        let Some((sha256, trust)) = self.digest_of(pin) else {
            return Ok(None);
        };
        // Read once more, it may be compared with what the store says.
        if pin.sha256.is_none() && Some(trust) < wanted.least {
            return Ok(None);
        }
        let rehash = wanted.rehash || pin.size < SMALL;
        let whole = self.is_whole(&sha256, pin.size, rehash)?;
        Ok(whole.then_some((sha256, trust)))
    }

    fn is_whole(&self, sha256: &str, size: u64, rehash: bool) -> Result<bool> {
        if !self.has(sha256, size)? {
            return Ok(false);
        }
        let path = self.content(sha256);
        let right = || Ok(!rehash || hash_file(&path)? == sha256);
        right().map_err(|error| failed(&path, error))
    }

    /// Writes a small file, whose lock the caller holds.
    pub(super) fn place_small(&self, pin: &Pin, chunks: &[Bytes], trust: Trust) -> Result<Seal> {
        let mut hash = Sha256::new();
        for chunk in chunks {
            hash.update(chunk);
        }
        let sha256 = hex::encode(hash.finalize());
        check_digest(pin, &sha256)?;
        let known = (sha256.clone(), trust);
        if self.is_whole(&sha256, pin.size, true)? {
            // Another object has the same content.
            self.remember(pin, &known)?;
            return Ok(known);
        }
        let path = self.partial(&pin.key(), "data");
        let write = || {
            // An earlier process may have left a read-only file under this name.
            remove(&path)?;
            let mut file = File::create_new(&path)?;
            chunks.iter().try_for_each(|chunk| file.write_all(chunk))
        };
        write().map_err(|error| failed(&path, error))?;
        self.place(&path, pin, known)
    }

    /// Gives a finished file its name.
    pub(super) fn place(&self, from: &Path, pin: &Pin, seal: Seal) -> Result<Seal> {
        let target = self.content(&seal.0);
        let place = || {
            fs::set_permissions(from, Permissions::from_mode(0o444))?;
            if let Some(shard) = target.parent() {
                fs::create_dir_all(shard)?;
            }
            fs::rename(from, &target)
        };
        place().map_err(|error| failed(&target, error))?;
        self.remember(pin, &seal)?;
        Ok(seal)
    }
}

/// Compares what was found with what the lock says.
pub(super) fn check_digest(pin: &Pin, actual: &str) -> Result<()> {
    match &pin.sha256 {
        Some(expected) if expected != actual => {
            let detail = format!("the bytes have sha256 {actual}, the lock says {expected}");
            Err(
                Error::new(ErrorKind::DigestMismatch, super::STAGE, pin.name(), detail).with_hint(
                    "the object is damaged or was replaced: publish it again under a new version",
                ),
            )
        }
        _ => Ok(()),
    }
}

fn hash_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len().min(SMALL);
    let mut buffer = vec![0; usize::try_from(length).unwrap_or(0).max(1)];
    let mut hash = Sha256::new();
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex::encode(hash.finalize())),
            count => hash.update(&buffer[..count]),
        }
    }
}

/// Writes a small document whole or not at all; `durable` also for the case that the machine stops.
pub(super) fn replace(path: &Path, text: &[u8], durable: bool) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(text)?;
    if durable {
        file.sync_data()?;
    }
    fs::rename(new, path)
}

/// Removes a file that may not be there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
