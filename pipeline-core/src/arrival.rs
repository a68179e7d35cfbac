//! A file that can be read while it is still arriving, so that what is made of it needs no second
//! pass over the store or the disk.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::watch;

use crate::error::BoxError;

/// Bytes read at a time.
const PIECE: u64 = 1 << 20;

/// Where a file that is being written stands.
#[derive(Clone, Debug)]
pub(crate) struct Arriving {
    path: Arc<PathBuf>,
    size: u64,
    done: watch::Receiver<u64>,
}

/// The writing end of an [`Arriving`] file.
#[derive(Debug)]
pub(crate) struct Arrival {
    file: Option<File>,
    at: u64,
    done: watch::Sender<u64>,
}

/// A file of `size` bytes that will be written at `path`, and its readers.
pub(crate) fn expect(path: &Path, size: u64) -> (Announced, Arriving) {
    let (sender, receiver) = watch::channel(0);
    let arriving = Arriving {
        path: Arc::new(path.to_owned()),
        size,
        done: receiver,
    };
    let announced = Announced {
        path: path.to_owned(),
        done: sender,
    };
    (announced, arriving)
}

/// A file whose writing has not begun; it takes no file descriptor yet.
#[derive(Debug)]
pub(crate) struct Announced {
    path: PathBuf,
    done: watch::Sender<u64>,
}

impl Announced {
    /// Creates the file, which must not exist, and the folders above it.
    pub(crate) fn create(self) -> io::Result<Arrival> {
        if let Some(parent) = self.path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        Ok(Arrival {
            file: Some(File::create_new(&self.path)?),
            at: 0,
            done: self.done,
        })
    }
}

impl Arrival {
    /// Writes the next bytes, then lets the readers have them.
    pub(crate) async fn write(&mut self, chunk: Bytes) -> io::Result<()> {
        let count = chunk.len() as u64;
        let Some(mut file) = self.file.take() else {
            return Err(io::Error::other("an earlier write of the file failed"));
        };
        let written = tokio::task::spawn_blocking(move || file.write_all(&chunk).map(|()| file));
        self.file = Some(written.await.map_err(io::Error::other)??);
        self.at += count;
        self.done.send_replace(self.at);
        Ok(())
    }
}

impl Arriving {
    /// The bytes from offset `from` on, as they arrive; an error when the writer gives up.
    pub(crate) fn open(&self, from: u64) -> BoxStream<'static, Result<Bytes, BoxError>> {
        let start = (self.clone(), from, None);
        stream::try_unfold(start, |(mut this, at, file)| async move {
            if at >= this.size {
                return Ok(None);
            }
            let there = this.there(at).await?;
            let file = match file {
                Some(file) => file,
                None => Arc::new(File::open(this.path.as_ref())?),
            };
            let piece = read(Arc::clone(&file), at, PIECE.min(there - at)).await?;
            let next = at + piece.len() as u64;
            Ok(Some((piece, (this, next, Some(file)))))
        })
        .boxed()
    }

    /// Waits until there is more than `at`; says how much.
    async fn there(&mut self, at: u64) -> Result<u64, BoxError> {
        let there = self.done.wait_for(|done| *done > at).await;
        there
            .map(|there| *there)
            .map_err(|_| "the file did not arrive in full".into())
    }
}

async fn read(file: Arc<File>, at: u64, count: u64) -> io::Result<Bytes> {
    let read = move || {
        let mut piece = vec![0; usize::try_from(count).unwrap_or(0)];
        file.read_exact_at(&mut piece, at).map(|()| piece.into())
    };
    tokio::task::spawn_blocking(read)
        .await
        .map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::TryStreamExt as _;

    async fn collect(arriving: &Arriving, from: u64) -> Result<Vec<u8>, BoxError> {
        let pieces: Vec<Bytes> = arriving.open(from).try_collect().await?;
        Ok(pieces.concat())
    }

    #[tokio::test]
    async fn readers_see_every_byte_while_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let data: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let (announced, arriving) = expect(&folder.path().join("a/b"), data.len() as u64);
        let write = async {
            let mut arrival = announced.create().unwrap();
            for chunk in data.chunks(70_001) {
                arrival.write(Bytes::copy_from_slice(chunk)).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let ((), whole, tail) =
            tokio::join!(write, collect(&arriving, 0), collect(&arriving, 2_999_990));
        assert!(whole.unwrap() == data);
        assert_eq!(tail.unwrap(), data[2_999_990..]);
        assert!(
            collect(&arriving, 0).await.unwrap() == data,
            "and afterwards"
        );
    }

    #[tokio::test]
    async fn a_writer_that_gives_up_fails_its_readers() {
        let folder = tempfile::tempdir().unwrap();
        let (announced, arriving) = expect(&folder.path().join("f"), 10);
        let mut arrival = announced.create().unwrap();
        arrival.write(Bytes::from_static(b"12345")).await.unwrap();
        drop(arrival);
        let error = collect(&arriving, 0).await.unwrap_err();
        assert!(error.to_string().contains("did not arrive"), "{error}");
        let (unused, empty) = expect(&folder.path().join("empty"), 0);
        drop(unused);
        assert!(collect(&empty, 0).await.unwrap().is_empty());
    }
}
