//! Where the bytes of a file in an image come from.

use std::fmt;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::stream::{self, ByteStream, Open};

/// The bytes of one file: a length known ahead, and a way to read them from any offset, as often
/// as needed. Only small files are held in memory.
#[derive(Clone)]
pub struct Content {
    source: Source,
    len: u64,
}

#[derive(Clone)]
enum Source {
    Bytes(Bytes),
    Path {
        path: PathBuf,
        offset: u64,
        /// The content is all of the file, which must be as it was found.
        stamp: Option<Stamp>,
    },
    Stream(Open),
}

/// What tells that a file is the one that was found, and has not been written to since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    inode: u64,
    len: u64,
    modified: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(meta: &Metadata) -> Self {
        Self {
            inode: meta.ino(),
            len: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
        }
    }

    /// The bytes from `offset` to the end, and one more: to ask for it shows whether the file has
    /// grown.
    pub(crate) fn left(self, offset: u64) -> u64 {
        self.len.saturating_sub(offset) + 1
    }
}

impl Content {
    /// The most bytes one file may hold in memory; larger ones are read from a file or a stream.
    pub const MAX_INLINE: usize = 1024 * 1024;

    /// Content held in memory.
    ///
    /// # Errors
    /// `Invalid` if it is longer than [`Content::MAX_INLINE`].
    pub fn bytes(bytes: impl Into<Bytes>) -> Result<Self> {
        let bytes = bytes.into();
        if bytes.len() > Self::MAX_INLINE {
            let detail = format!("{} bytes are too many to hold in memory", bytes.len());
            return Err(
                Error::new(ErrorKind::Invalid, "add content", "inline bytes", detail)
                    .with_hint("write them to a file and use `Content::file`"),
            );
        }
        let len = bytes.len() as u64;
        Ok(Self {
            source: Source::Bytes(bytes),
            len,
        })
    }

    /// A whole file, as it is now: if it is replaced or written to until it has been read, reading
    /// fails.
    ///
    /// # Errors
    /// `NotFound` or `Io` if there is no readable file at `path`, `Invalid` if it is not a
    /// regular file.
    pub fn file(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let meta = std::fs::metadata(&path)
            .map_err(|e| Error::io("add content", &path, "cannot read the file", e))?;
        if !meta.is_file() {
            let object = path.display().to_string();
            let detail = "it is not a regular file";
            return Err(Error::new(
                ErrorKind::Invalid,
                "add content",
                object,
                detail,
            ));
        }
        Ok(Self::whole(path, &meta))
    }

    /// A range of a file: `len` bytes at `offset`, such as a member of an archive kept on disk.
    pub fn range(path: impl Into<PathBuf>, offset: u64, len: u64) -> Self {
        Self {
            source: Source::Path {
                path: path.into(),
                offset,
                stamp: None,
            },
            len,
        }
    }

    /// All of a regular file that was just found to be as `meta` says.
    pub(crate) fn whole(path: impl Into<PathBuf>, meta: &Metadata) -> Self {
        Self {
            source: Source::Path {
                path: path.into(),
                offset: 0,
                stamp: Some(Stamp::of(meta)),
            },
            len: meta.len(),
        }
    }

    /// Content from anywhere: `open(from)` gives the bytes from offset `from` to the end.
    pub fn stream(len: u64, open: impl Fn(u64) -> ByteStream + Send + Sync + 'static) -> Self {
        Self {
            source: Source::Stream(Arc::new(open)),
            len,
        }
    }

    /// The length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the file is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes when they are held in memory.
    pub fn as_bytes(&self) -> Option<&Bytes> {
        match &self.source {
            Source::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The file and offset the bytes are read from, when they come from a file.
    pub fn as_path(&self) -> Option<(&Path, u64)> {
        match &self.source {
            Source::Path { path, offset, .. } => Some((path, *offset)),
            _ => None,
        }
    }

    /// The bytes from offset `from` to the end; an error item if the source has fewer or more
    /// than it announced.
    pub fn open(&self, from: u64) -> ByteStream {
        let left = self.len.saturating_sub(from);
        match &self.source {
            Source::Bytes(bytes) => stream::of_bytes(bytes, from),
            Source::Path {
                path,
                offset,
                stamp,
            } => {
                let inner = match stamp {
                    Some(stamp) => stream::of_unchanged_file(path.clone(), from, *stamp),
                    None => stream::of_file(path.clone(), offset + from, left),
                };
                stream::exact(inner, left, path.display().to_string())
            }
            Source::Stream(open) => stream::exact(open(from), left, "stream".to_owned()),
        }
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Source::Bytes(_) => write!(f, "Content({} bytes inline)", self.len),
            Source::Path { path, offset, .. } => {
                write!(
                    f,
                    "Content({} bytes at {offset} of {})",
                    self.len,
                    path.display()
                )
            }
            Source::Stream(_) => write!(f, "Content({} bytes streamed)", self.len),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_source_reads_from_an_offset() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"hello world").unwrap();
        let whole = Bytes::from_static(b"hello world");
        let sources = [
            Content::bytes(whole.clone()).unwrap(),
            Content::file(&path).unwrap(),
            Content::stream(11, move |from| stream::of_bytes(&whole, from)),
        ];
        for content in sources {
            assert_eq!(content.len(), 11);
            let got = stream::collect(content.open(6), 100, "f").await.unwrap();
            assert_eq!(&got[..], b"world");
        }
    }

    #[test]
    fn large_inline_bytes_are_refused() {
        let error = Content::bytes(vec![0; Content::MAX_INLINE + 1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.hint().is_some());
    }

    #[tokio::test]
    async fn a_file_that_changes_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"hello world").unwrap();
        let content = Content::file(&path).unwrap();
        for other in ["hello", "hello world and more", "hallo world"] {
            std::fs::write(&path, other).unwrap();
            let error = stream::collect(content.open(0), 100, "f")
                .await
                .unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Changed);
        }
    }
}
