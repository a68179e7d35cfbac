//! Room on the disk, asked for before the first byte.

use std::path::Path;

use super::failed;
use crate::error::{Error, ErrorKind, Result};

/// An error when `needed` bytes do not fit at `dir`, or leave fewer than `keep` free.
pub(super) fn check(dir: &Path, needed: u64, keep: u64) -> Result<()> {
    if needed == 0 {
        return Ok(());
    }
    let disk = rustix::fs::statvfs(dir).map_err(|error| failed(dir, error.into()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let Some(missing) = missing(free, needed, keep) else {
        return Ok(());
    };
    let kept = if keep > 0 {
        format!(", and {keep} are to stay free")
    } else {
        String::new()
    };
    let detail = format!(
        "the disk has no room: {needed} bytes are to be fetched, {free} are free{kept}; \
         {missing} bytes are missing"
    );
    let object = dir.display().to_string();
    Err(Error::new(ErrorKind::Io, super::STAGE, object, detail)
        .with_hint(format!("free {missing} bytes there, or trim the cache")))
}

fn missing(free: u64, needed: u64, keep: u64) -> Option<u64> {
    let wanted = needed.saturating_add(keep);
    (wanted > free).then(|| wanted - free)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_said_to_the_byte() {
        assert_eq!(missing(100, 100, 0), None);
        assert_eq!(missing(100, 101, 0), Some(1));
        assert_eq!(missing(100, 60, 50), Some(10));
        assert_eq!(missing(0, u64::MAX, u64::MAX), Some(u64::MAX));
        let dir = tempfile::tempdir().unwrap();
        check(dir.path(), 1, 0).unwrap();
        check(dir.path(), 0, u64::MAX).unwrap();
        let error = check(dir.path(), 1, u64::MAX).unwrap_err();
        assert!(error.to_string().contains("bytes are missing"), "{error}");
        assert!(error.hint().unwrap().starts_with("free "), "{error:?}");
    }
}
