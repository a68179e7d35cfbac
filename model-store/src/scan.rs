//! The local side of publishing: which files a directory has, and their bytes part by part.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::blocking::blocking;
use crate::error::{Error, ErrorKind, Result};
use crate::model::check_paths;

const STAGE: &str = "read local model";

/// A file below the published directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LocalFile {
    /// The path inside the version.
    pub(crate) path: String,
    /// Where it is here.
    pub(crate) local: PathBuf,
}

/// Lists the files below `dir`, sorted by path.
///
/// Symbolic links to files are followed, because caches of model hubs are made of them; anything
/// else that is neither file nor directory is refused rather than left out.
pub(crate) async fn scan(dir: &Path) -> Result<Vec<LocalFile>> {
    let root = dir.to_owned();
    let object = dir.display().to_string();
    let files = blocking((STAGE, &object), move || {
        let mut files = Vec::new();
        walk(&root, "", &mut files)?;
        Ok(files)
    });
    let mut files = files.await?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    check_paths(files.iter().map(|file| file.path.as_str()))
        .map_err(|why| Error::invalid(STAGE, object, why))?;
    Ok(files)
}

fn walk(dir: &Path, prefix: &str, files: &mut Vec<LocalFile>) -> Result<()> {
    let failed = |path: &Path, error| io_error(&path.display().to_string(), error);
    for entry in fs::read_dir(dir).map_err(|error| failed(dir, error))? {
        let entry = entry.map_err(|error| failed(dir, error))?;
        let local = entry.path();
        let refuse = |why: &str| Error::invalid(STAGE, local.display().to_string(), why);
        let name = entry
            .file_name()
            .into_string()
            .map_err(|_| refuse("the name is not utf-8"))?;
        let path = if prefix.is_empty() {
            name
        } else {
            format!("{prefix}/{name}")
        };
        let own_type = entry.file_type().map_err(|error| failed(&local, error))?;
        if own_type.is_dir() {
            walk(&local, &path, files)?;
        } else if fs::metadata(&local)
            .map_err(|error| failed(&local, error))?
            .is_file()
        {
            files.push(LocalFile { path, local });
        } else {
            return Err(refuse("it is neither a file nor a link to one"));
        }
    }
    Ok(())
}

/// A local file being read from start to end, hashed on the way.
pub(crate) struct LocalReader {
    file: File,
    hasher: Sha256,
    size: u64,
    object: String,
}

impl LocalReader {
    pub(crate) async fn open(local: &Path) -> Result<Self> {
        let (path, object) = (local.to_owned(), local.display().to_string());
        let name = object.clone();
        let file = blocking((STAGE, &object), move || {
            File::open(path).map_err(|error| io_error(&name, error))
        })
        .await?;
        Ok(Self {
            file,
            hasher: Sha256::new(),
            size: 0,
            object,
        })
    }

    /// The next `part` bytes, fewer at the end of the file, none after it.
    pub(crate) async fn next(self, part: u64) -> Result<(Self, Bytes)> {
        let object = self.object.clone();
        let mut reader = self;
        blocking((STAGE, &object), move || {
            let mut buffer = Vec::new();
            let read = (&mut reader.file).take(part).read_to_end(&mut buffer);
            read.map_err(|error| io_error(&reader.object, error))?;
            reader.hasher.update(&buffer);
            reader.size += buffer.len() as u64;
            Ok((reader, Bytes::from(buffer)))
        })
        .await
    }

    /// The size and SHA-256 of what was read.
    pub(crate) fn finish(self) -> (u64, String) {
        (self.size, hex::encode(self.hasher.finalize()))
    }
}

fn io_error(object: &str, error: std::io::Error) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::NotFound => ErrorKind::NotFound,
        std::io::ErrorKind::PermissionDenied => ErrorKind::Forbidden,
        _ => ErrorKind::Io,
    };
    Error::new(kind, STAGE, object, "it cannot be read").with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lists_sorted_follows_file_links_and_refuses_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("b")).unwrap();
        fs::write(dir.path().join("b/x"), "1").unwrap();
        fs::write(dir.path().join("a"), "").unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("c")).unwrap();
        let paths: Vec<_> = scan(dir.path())
            .await
            .unwrap()
            .into_iter()
            .map(|file| file.path)
            .collect();
        assert_eq!(paths, ["a", "b/x", "c"]);
        std::os::unix::fs::symlink("b", dir.path().join("d")).unwrap();
        let error = scan(dir.path()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("/d"));
    }

    #[tokio::test]
    async fn missing_and_empty_directories_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            scan(&dir.path().join("x")).await.unwrap_err().kind(),
            ErrorKind::NotFound
        );
        assert!(
            scan(dir.path())
                .await
                .unwrap_err()
                .to_string()
                .contains("no files")
        );
    }
}
