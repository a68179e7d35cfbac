//! Byte streams: how content crosses the border of this crate, and the checks put around it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

use crate::content::Stamp;
use crate::error::{BoxError, Error, ErrorKind, Result};

/// Content as it crosses a crate border: chunks in order, ending after the announced length.
pub type ByteStream = BoxStream<'static, Result<Bytes, BoxError>>;

/// Opens content at an offset, any number of times.
pub(crate) type Open = Arc<dyn Fn(u64) -> ByteStream + Send + Sync>;

/// The largest chunk this crate reads from a file at once.
const CHUNK: usize = 512 * 1024;
/// Chunks of a file that are read ahead.
const AHEAD: usize = 4;

const UNCHANGED: &str = "do not change the source while the image is built, then build again";

/// A stream that fails at once.
pub(crate) fn failed(error: Error) -> ByteStream {
    stream::once(async move { Err(error.into()) }).boxed()
}

/// The bytes of `bytes` after `from`.
pub(crate) fn of_bytes(bytes: &Bytes, from: u64) -> ByteStream {
    let from = usize::try_from(from).unwrap_or(usize::MAX).min(bytes.len());
    let rest = bytes.slice(from..);
    if rest.is_empty() {
        return stream::empty().boxed();
    }
    stream::iter([Ok(rest)]).boxed()
}

/// A range of a file: `len` bytes at `offset`. The stream ends early if the file does; the
/// caller puts [`exact`] around it.
pub(crate) fn of_file(path: PathBuf, offset: u64, len: u64) -> ByteStream {
    stream::once(async move {
        let file = open(&path, None).await?;
        Ok::<_, BoxError>(read_ahead(file, path, offset, len))
    })
    .try_flatten()
    .boxed()
}

/// The bytes of a file from `offset` to its end, if it is as `stamp` says: before the first byte
/// and after the last.
pub(crate) fn of_unchanged_file(path: PathBuf, offset: u64, stamp: Stamp) -> ByteStream {
    stream::once(async move {
        let file = open(&path, Some(stamp)).await?;
        let again = Arc::clone(&file);
        let end = {
            let path = path.clone();
            stream::once(async move { check_stamp(&again, &path, stamp) })
        };
        let end = end.filter_map(|checked| async move { checked.err().map(Err) });
        Ok::<_, BoxError>(read_ahead(file, path, offset, stamp.left(offset)).chain(end))
    })
    .try_flatten()
    .boxed()
}

async fn open(path: &Path, stamp: Option<Stamp>) -> Result<Arc<File>, BoxError> {
    let path = path.to_owned();
    let open = move || {
        let file = File::open(&path).map_err(|e| unreadable(&path, e))?;
        if let Some(stamp) = stamp {
            check_stamp(&file, &path, stamp)?;
        }
        Ok(Arc::new(file))
    };
    tokio::task::spawn_blocking(open).await?
}

fn check_stamp(file: &File, path: &Path, stamp: Stamp) -> Result<(), BoxError> {
    let meta = file.metadata().map_err(|e| unreadable(path, e))?;
    if Stamp::of(&meta) == stamp {
        return Ok(());
    }
    let object = path.display().to_string();
    let detail = "the file changed after it had been found";
    Err(
        Error::new(ErrorKind::Changed, "read content", object, detail)
            .with_hint(UNCHANGED)
            .into(),
    )
}

/// Reads `len` bytes from `offset` on, some of them before they are asked for: what becomes of
/// the bytes need not wait for the file. The stream ends early where the file does.
fn read_ahead(file: Arc<File>, path: PathBuf, offset: u64, len: u64) -> ByteStream {
    let read = move |start: u64| {
        let (file, path) = (Arc::clone(&file), path.clone());
        let want = usize::try_from(len - start).map_or(CHUNK, |left| left.min(CHUNK));
        let task = tokio::task::spawn_blocking(move || read_full(&file, offset + start, want));
        async move {
            let bytes = task.await?.map_err(|e| unreadable(&path, e))?;
            Ok::<_, BoxError>((bytes.len() < want, bytes))
        }
    };
    let pieces = stream::iter((0..len).step_by(CHUNK))
        .map(read)
        .buffered(AHEAD);
    let until_end = pieces.scan(false, |ended, piece| {
        let next = match piece {
            _ if *ended => None,
            Ok((last, bytes)) => {
                *ended = last;
                (!bytes.is_empty()).then_some(Ok(bytes))
            }
            Err(error) => {
                *ended = true;
                Some(Err(error))
            }
        };
        std::future::ready(next)
    });
    until_end.boxed()
}

/// Reads `want` bytes at `offset`, fewer only at the end of the file.
fn read_full(file: &File, offset: u64, want: usize) -> io::Result<Bytes> {
    let mut buffer = vec![0; want];
    let mut filled = 0;
    while filled < want {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buffer.truncate(filled);
    Ok(buffer.into())
}

fn unreadable(path: &Path, source: std::io::Error) -> BoxError {
    Error::io("read content", path, "cannot read the file", source).into()
}

/// Fails when `inner` gives fewer or more than `len` bytes: a short source inside a tar archive
/// would otherwise shift every header after it.
pub(crate) fn exact(inner: ByteStream, len: u64, object: String) -> ByteStream {
    stream::try_unfold(
        (inner, len, object),
        |(mut inner, left, object)| async move {
            match inner.next().await {
                Some(Err(error)) => Err(error),
                Some(Ok(chunk)) => match left.checked_sub(chunk.len() as u64) {
                    Some(left) => Ok(Some((chunk, (inner, left, object)))),
                    None => Err(wrong_length(&object, "more bytes than it had announced")),
                },
                None if left > 0 => Err(wrong_length(
                    &object,
                    &format!("{left} bytes fewer than it had announced"),
                )),
                None => Ok(None),
            }
        },
    )
    .boxed()
}

fn wrong_length(object: &str, what: &str) -> BoxError {
    Error::new(
        ErrorKind::Changed,
        "read content",
        object,
        format!("the source gave {what}"),
    )
    .with_hint(UNCHANGED)
    .into()
}

/// Collects a stream that must not exceed `limit` bytes.
pub(crate) async fn collect(mut stream: ByteStream, limit: u64, object: &str) -> Result<Bytes> {
    let mut all = BytesMut::new();
    while let Some(chunk) = stream
        .try_next()
        .await
        .map_err(|e| Error::from_stream("read content", object, e))?
    {
        if (all.len() + chunk.len()) as u64 > limit {
            let detail = format!("it is larger than {limit} bytes");
            return Err(Error::new(
                ErrorKind::Invalid,
                "read content",
                object,
                detail,
            ));
        }
        all.extend_from_slice(&chunk);
    }
    Ok(all.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(parts: &[&'static [u8]]) -> ByteStream {
        let parts: Vec<_> = parts
            .iter()
            .map(|part| Ok(Bytes::from_static(part)))
            .collect();
        stream::iter(parts).boxed()
    }

    #[tokio::test]
    async fn exact_passes_the_announced_length_only() {
        let good = exact(chunks(&[b"ab", b"c"]), 3, "x".into());
        assert_eq!(&collect(good, 10, "x").await.unwrap()[..], b"abc");
        for len in [2, 4] {
            let bad = exact(chunks(&[b"ab", b"c"]), len, "x".into());
            let error = collect(bad, 10, "x").await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Changed);
        }
    }

    #[tokio::test]
    async fn a_file_is_read_from_an_offset() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, b"0123456789").unwrap();
        let got = collect(of_file(path, 3, 4), 10, "f").await.unwrap();
        assert_eq!(&got[..], b"3456");
    }

    #[tokio::test]
    async fn collect_is_bounded() {
        let error = collect(chunks(&[b"abc"]), 2, "x").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}
