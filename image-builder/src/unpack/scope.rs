//! Finding a place below a root without ever leaving it.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::STAGE;
use crate::error::{Error, ErrorKind, Result};

/// The most symlinks followed on one way, as on Linux.
const MAX_LINKS: usize = 40;

/// Splits the name of an archive member into its parts; `None` for the root itself.
///
/// Refuses what could name a place outside of the root.
pub(super) fn parts(name: &str) -> Result<Option<Vec<&str>>> {
    let refuse = |why: &str| {
        let shown: String = name.chars().take(200).collect();
        Err(Error::new(ErrorKind::Invalid, STAGE, shown, why)
            .with_hint("the layer is broken or hostile; do not use its image"))
    };
    if name.starts_with('/') {
        return refuse("an entry has an absolute name");
    }
    let parts: Vec<&str> = name
        .split('/')
        .filter(|part| !matches!(*part, "" | "."))
        .collect();
    if parts.contains(&"..") {
        return refuse("an entry's name has `..` in it");
    }
    Ok((!parts.is_empty()).then_some(parts))
}

/// The real directory that `parts` name below `root`, made where it is missing. Symlinks on the
/// way are resolved with `root` as `/`.
pub(super) fn directory(root: &Path, parts: &[&str]) -> Result<PathBuf> {
    walk(root, parts, true)?.ok_or_else(|| refused(parts, "a directory on the way is missing"))
}

/// As [`directory`], without making anything: `None` if it does not exist.
pub(super) fn existing(root: &Path, parts: &[&str]) -> Result<Option<PathBuf>> {
    walk(root, parts, false)
}

fn walk(root: &Path, parts: &[&str], make: bool) -> Result<Option<PathBuf>> {
    let mut ahead: VecDeque<String> = parts.iter().map(|&part| part.to_owned()).collect();
    let mut at = root.to_owned();
    let mut links = 0;
    while let Some(part) = ahead.pop_front() {
        if part == ".." {
            if at == root {
                return Err(refused(parts, "a symlink on the way leaves the root"));
            }
            at.pop();
            continue;
        }
        let next = at.join(&part);
        match fs::symlink_metadata(&next) {
            Ok(meta) if meta.is_dir() => at = next,
            Ok(meta) if meta.is_symlink() => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(refused(parts, "the symlinks on the way go in a circle"));
                }
                let link = fs::read_link(&next).map_err(|e| io_error(&next, e))?;
                let link = link
                    .to_str()
                    .ok_or_else(|| refused(parts, "a symlink is not UTF-8"))?;
                if link.starts_with('/') {
                    root.clone_into(&mut at);
                }
                let steps = link.split('/').filter(|step| !matches!(*step, "" | "."));
                for (place, step) in steps.enumerate() {
                    ahead.insert(place, step.to_owned());
                }
            }
            Ok(_) if make => return Err(refused(parts, "a parent of it is not a directory")),
            Ok(_) => return Ok(None),
            Err(e) if e.kind() == io::ErrorKind::NotFound && make => {
                fs::create_dir(&next).map_err(|e| io_error(&next, e))?;
                super::entry::set_mode(&next, 0o755)?;
                at = next;
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io_error(&next, e)),
        }
    }
    Ok(Some(at))
}

fn refused(parts: &[&str], why: &str) -> Error {
    Error::new(ErrorKind::Invalid, STAGE, parts.join("/"), why)
        .with_hint("the layer is broken or hostile; do not use its image")
}

fn io_error(path: &Path, source: io::Error) -> Error {
    Error::io(STAGE, path, "the file system refused it", source)
}
