//! Applying one member of a layer's archive.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::ops::Bound;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use tar::EntryType;

use super::{STAGE, Target, scope};
use crate::error::{Error, ErrorKind, Result};
use crate::path::WHITEOUT;
use crate::tar_read::Member;

const OPAQUE: &str = ".wh..wh..opq";

impl Target {
    /// Applies one member; `content` gives its bytes if it is a file.
    pub(super) fn apply(&mut self, member: &Member, content: &mut impl Read) -> Result<()> {
        let Some(parts) = scope::parts(&member.path)? else {
            return Ok(());
        };
        let Some((&name, parents)) = parts.split_last() else {
            return Ok(());
        };
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            return self.whiteout(parents, name, hidden);
        }
        if !is_unpacked(member.kind) {
            return Ok(());
        }
        let parent = scope::directory(&self.root, parents)?;
        let path = parent.join(name);
        self.make_room(&path, member.kind)?;
        match member.kind {
            EntryType::Directory => make_dir(&path, member)?,
            EntryType::Symlink => {
                symlink(&member.link, &path).map_err(|e| refused(&path, e))?;
            }
            EntryType::Link => self.hard_link(&path, member)?,
            _ => make_file(&path, member, content)?,
        }
        self.made.insert(path);
        Ok(())
    }

    /// Removes what is in the way, unless directory meets directory. Never follows a symlink.
    fn make_room(&self, path: &Path, kind: EntryType) -> Result<()> {
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.is_dir() && kind == EntryType::Directory => Ok(()),
            Ok(_) if path == self.root => Err(invalid(path, "an entry would replace the root")),
            Ok(_) => remove(path),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(refused(path, e)),
        }
    }

    fn hard_link(&self, path: &Path, member: &Member) -> Result<()> {
        let missing = || {
            invalid(
                path,
                &format!("its hard link target `{}` is missing", member.link),
            )
        };
        let parts = scope::parts(&member.link)?.ok_or_else(missing)?;
        let (name, parents) = parts.split_last().ok_or_else(missing)?;
        let parent = scope::existing(&self.root, parents)?.ok_or_else(missing)?;
        let target = parent.join(name);
        let meta = fs::symlink_metadata(&target).map_err(|e| missing().with_source(e))?;
        if meta.is_dir() {
            return Err(invalid(path, "its hard link target is a directory"));
        }
        // `link` does not follow a symlink as the last part of its source.
        fs::hard_link(&target, path).map_err(|e| refused(path, e))
    }

    /// Deletes what a whiteout hides, as far as lower layers put it there.
    fn whiteout(&self, parents: &[&str], name: &str, hidden: &str) -> Result<()> {
        let Some(parent) = scope::existing(&self.root, parents)? else {
            return Ok(());
        };
        if name == OPAQUE {
            return self.clear(&parent);
        }
        if hidden.starts_with(WHITEOUT) {
            // Bookkeeping of the AUFS driver; it hides nothing.
            return Ok(());
        }
        if matches!(hidden, "" | "." | "..") {
            return Err(invalid(&parent.join(name), "a whiteout names no entry"));
        }
        let path = parent.join(hidden);
        if self.made.contains(&path) {
            return Ok(());
        }
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_dir() && self.made_below(&path) => self.clear(&path),
            Ok(_) => remove(&path),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(refused(&path, e)),
        }
    }

    /// Whether this layer has made `dir` or something in it.
    fn made_below(&self, dir: &Path) -> bool {
        let from = (Bound::Included(dir), Bound::Unbounded);
        let mut made = self.made.range::<Path, _>(from);
        made.next().is_some_and(|made| made.starts_with(dir))
    }

    /// Removes from a directory what this layer has not made.
    fn clear(&self, dir: &Path) -> Result<()> {
        for entry in fs::read_dir(dir).map_err(|e| refused(dir, e))? {
            let entry = entry.map_err(|e| refused(dir, e))?;
            let path = entry.path();
            let is_dir = entry.file_type().map_err(|e| refused(&path, e))?.is_dir();
            if is_dir && self.made_below(&path) {
                self.clear(&path)?;
            } else if !self.made.contains(&path) {
                remove(&path)?;
            }
        }
        Ok(())
    }
}

/// Devices and pipes are not: making them needs privileges, and no model server needs them.
fn is_unpacked(kind: EntryType) -> bool {
    matches!(
        kind,
        EntryType::Regular
            | EntryType::Continuous
            | EntryType::Directory
            | EntryType::Symlink
            | EntryType::Link
    )
}

fn make_dir(path: &Path, member: &Member) -> Result<()> {
    match fs::create_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(refused(path, e)),
        _ => {}
    }
    set_mode(path, member.mode & 0o1777 | 0o700)
}

fn make_file(path: &Path, member: &Member, content: &mut impl Read) -> Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(|e| refused(path, e))?;
    let copied = io::copy(content, &mut file).map_err(|e| match e.kind() {
        // Of the reader, about the archive; the file system has no such error.
        io::ErrorKind::InvalidData => invalid(path, "its content is damaged").with_source(e),
        _ => refused(path, e),
    })?;
    if copied != member.size {
        return Err(invalid(path, "its content ends early"));
    }
    let mode = Permissions::from_mode(member.mode & 0o777 | 0o600);
    file.set_permissions(mode).map_err(|e| refused(path, e))?;
    set_time(&file, member.mtime).map_err(|e| refused(path, e))
}

fn set_time(file: &File, seconds: u64) -> io::Result<()> {
    match SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)) {
        Some(time) => file.set_modified(time),
        None => Ok(()),
    }
}

/// Sets the mode whatever the umask is; `path` is a directory made or checked just now.
pub(super) fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(|e| refused(path, e))
}

/// Removes a file, a link or a whole directory; symlinks are not followed.
fn remove(path: &Path) -> Result<()> {
    let meta = fs::symlink_metadata(path).map_err(|e| refused(path, e))?;
    let removed = if meta.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    removed.map_err(|e| refused(path, e))
}

fn invalid(path: &Path, why: &str) -> Error {
    Error::new(ErrorKind::Invalid, STAGE, path.display().to_string(), why)
        .with_hint("the layer is broken or hostile; do not use its image")
}

fn refused(path: &Path, source: io::Error) -> Error {
    Error::io(STAGE, path, "cannot apply the entry", source)
}
