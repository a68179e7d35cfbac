//! What a listing of a directory leaves out without a word: names that the storage library keeps
//! for unfinished uploads, links to nothing, and what is no file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::STAGE;
use crate::error::{Error, ErrorKind, Result};
use crate::store::ModelStore;

/// Folders deeper than this are not looked into; links may go round in circles.
const MAX_DEPTH: usize = 64;

impl ModelStore {
    /// Refuses, by name, what is in `folder` of a directory store and would be left out of its
    /// listing. A set of files that lacks one unnoticed is a torn set.
    pub(crate) async fn check_hidden(&self, folder: &str) -> Result<()> {
        let Some(root) = self.url().directory() else {
            return Ok(());
        };
        let dir = root.join(folder);
        let found = tokio::task::spawn_blocking(move || first_hidden(&dir, MAX_DEPTH)).await;
        let found = found.map_err(io::Error::other).flatten();
        match found {
            Ok(None) => Ok(()),
            Ok(Some((path, why))) => {
                let path = path.strip_prefix(&root).unwrap_or(&path).to_owned();
                let detail = format!("{:?} {why}", path.display().to_string());
                Err(Error::invalid(STAGE, self.name_of(folder), detail)
                    .with_hint("rename or remove it, or wait if it is being uploaded"))
            }
            Err(error) => {
                let kind = match error.kind() {
                    io::ErrorKind::PermissionDenied => ErrorKind::Forbidden,
                    _ => ErrorKind::Io,
                };
                let detail = "the directory cannot be looked through";
                Err(Error::new(kind, STAGE, self.name_of(folder), detail).with_source(error))
            }
        }
    }
}

fn first_hidden(dir: &Path, depth: usize) -> io::Result<Option<(PathBuf, &'static str)>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        // Follows links, as the listing does.
        let kind = match fs::metadata(&path) {
            Ok(metadata) => metadata.file_type(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Gone meanwhile, or a link to nothing.
                if fs::symlink_metadata(&path).is_ok() {
                    return Ok(Some((path, "is a link to nothing")));
                }
                continue;
            }
            Err(error) => return Err(error),
        };
        if kind.is_dir() {
            if let Some(found) = depth
                .checked_sub(1)
                .map(|depth| first_hidden(&path, depth))
                .transpose()?
                .flatten()
            {
                return Ok(Some(found));
            }
        } else if !kind.is_file() {
            return Ok(Some((path, "is neither a file nor a folder")));
        } else if is_reserved(&path) {
            return Ok(Some((
                path,
                "has a name that is kept for unfinished uploads",
            )));
        }
    }
    Ok(None)
}

/// Whether the name ends with `#` and digits.
fn is_reserved(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let number = name.and_then(|name| name.split_once('#'));
    number
        .is_some_and(|(_, number)| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Selector, StoreOptions, StoreUrl};

    #[tokio::test]
    async fn nothing_is_left_out_without_a_word() {
        for (name, why) in [
            ("sub/w#1", "unfinished uploads"),
            ("sub/link", "link to nothing"),
            ("sub/socket", "neither a file nor a folder"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let version = dir.path().join("m/1");
            fs::create_dir_all(version.join("sub")).unwrap();
            fs::write(version.join("w"), "1").unwrap();
            fs::write(version.join("_SUCCESS"), "").unwrap();
            let url = StoreUrl::from_dir(dir.path(), "m").unwrap();
            let store = ModelStore::open(&url, &StoreOptions::default()).unwrap();
            store.resolve(&Selector::Latest).await.unwrap();
            let path = version.join(name);
            match name {
                "sub/link" => std::os::unix::fs::symlink("/nowhere/at-all", &path).unwrap(),
                "sub/socket" => drop(std::os::unix::net::UnixListener::bind(&path).unwrap()),
                _ => fs::write(&path, "1").unwrap(),
            }
            let error = store.resolve(&Selector::Latest).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            let text = error.to_string();
            assert!(text.contains(why) && text.contains(name), "{text}");
        }
    }
}
