//! The directory on disk that takes what a process writes, for as long as it lives.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::TempDir;

use crate::error::{Error, Result};

/// An overlay's upper and work directories; removed on drop, so drop it after the process.
#[derive(Debug)]
pub(crate) struct Scratch(TempDir);

impl Scratch {
    /// Makes a fresh one below `dir`.
    pub(crate) fn new(dir: &Path) -> Result<Self> {
        let failed = |error| Error::io("make scratch directory", dir.display().to_string(), error);
        let scratch = tempfile::Builder::new()
            .prefix("sandbox-")
            .tempdir_in(dir)
            .map_err(failed)?;
        for name in ["upper", "work"] {
            let path = scratch.path().join(name);
            fs::create_dir(&path).map_err(failed)?;
            // The upper directory's mode is that of the root inside, whatever the umask says.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(failed)?;
        }
        Ok(Self(scratch))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The program, and overlayfs itself, leave directories that may not be opened.
        open_up(self.path());
    }
}

/// Lets the owner into every directory below `top`. Links are not followed.
fn open_up(top: &Path) {
    let mut todo = vec![top.to_owned()];
    while let Some(dir) = todo.pop() {
        // What cannot be opened up belongs to somebody else; removing it will fail the same way.
        let _ = fs::set_permissions(&dir, fs::Permissions::from_mode(0o700));
        let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
        todo.extend(
            entries
                .filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|e| e.path()),
        );
    }
}
