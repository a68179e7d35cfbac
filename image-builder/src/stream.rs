//! Byte streams: how content crosses the border of this crate, and the checks put around it.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use crate::content::Stamp;
use crate::error::{BoxError, Error, ErrorKind, Result};

/// Content as it crosses a crate border: chunks in order, ending after the announced length.
pub type ByteStream = BoxStream<'static, Result<Bytes, BoxError>>;

/// Opens content at an offset, any number of times.
pub(crate) type Open = Arc<dyn Fn(u64) -> ByteStream + Send + Sync>;

/// The largest chunk this crate reads from a file at once.
const CHUNK: usize = 256 * 1024;

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
        let mut file = File::open(&path).await.map_err(|e| unreadable(&path, e))?;
        file.seek(SeekFrom::Start(offset))
            .await
            .map_err(|e| unreadable(&path, e))?;
        Ok::<_, BoxError>(read_chunks(file, path, len))
    })
    .try_flatten()
    .boxed()
}

/// The bytes of a file from `offset` to its end, if it is as `stamp` says: before the first byte
/// and after the last.
pub(crate) fn of_unchanged_file(path: PathBuf, offset: u64, stamp: Stamp) -> ByteStream {
    stream::once(async move {
        let mut file = File::open(&path).await.map_err(|e| unreadable(&path, e))?;
        check_stamp(&file, &path, stamp).await?;
        file.seek(SeekFrom::Start(offset))
            .await
            .map_err(|e| unreadable(&path, e))?;
        let again = file.try_clone().await.map_err(|e| unreadable(&path, e))?;
        let end = {
            let path = path.clone();
            stream::once(async move { check_stamp(&again, &path, stamp).await })
        };
        let end = end.filter_map(|checked| async move { checked.err().map(Err) });
        Ok::<_, BoxError>(read_chunks(file, path, u64::MAX).chain(end))
    })
    .try_flatten()
    .boxed()
}

async fn check_stamp(file: &File, path: &Path, stamp: Stamp) -> Result<(), BoxError> {
    let meta = file.metadata().await.map_err(|e| unreadable(path, e))?;
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

fn read_chunks(file: File, path: PathBuf, len: u64) -> ByteStream {
    stream::try_unfold((file, path, len), |(mut file, path, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let want = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let mut buffer = BytesMut::with_capacity(want);
        // `read_buf` may fill beyond `want` only if the allocation is larger than asked for.
        let read = (&mut file)
            .take(want as u64)
            .read_buf(&mut buffer)
            .await
            .map_err(|e| unreadable(&path, e))?;
        if read == 0 {
            return Ok(None);
        }
        Ok(Some((buffer.freeze(), (file, path, left - read as u64))))
    })
    .boxed()
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
