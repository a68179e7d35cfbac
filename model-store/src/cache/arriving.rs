//! A file that can be read while it is still arriving, so that what is made of it needs no second
//! pass over the store.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use tokio::sync::watch;

use crate::error::BoxError;
use crate::read::ByteStream;

/// Bytes read at a time.
const PIECE: u64 = 1 << 20;

/// Where the bytes are that may be read.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// There are none yet.
    Nowhere,
    /// In an open file that is growing.
    Open(Arc<File>, u64),
    /// All of them, in a file that is whole.
    Whole(PathBuf),
}

/// A file that is arriving; see [`Fetching::file`](super::Fetching::file).
#[derive(Clone, Debug)]
pub struct Arriving {
    size: u64,
    place: watch::Receiver<Place>,
}

impl Arriving {
    /// A file of `size` bytes, and the end that says where they are.
    pub(super) fn new(size: u64) -> (watch::Sender<Place>, Self) {
        let (sender, place) = watch::channel(Place::Nowhere);
        (sender, Self { size, place })
    }

    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The bytes from offset `from` on, as they arrive; an error when the fetch ends before they
    /// do. The last byte comes after the SHA-256 of all of them was compared with the lock's.
    ///
    /// The stream waits for the fetch: something else has to drive it. Readers never hold it up.
    pub fn open(&self, from: u64) -> ByteStream {
        let start = (self.clone(), from, None);
        stream::try_unfold(start, |(mut this, at, file)| async move {
            if at >= this.size {
                return Ok(None);
            }
            let (place, there) = this.there(at).await?;
            let (file, piece) = read(file, place, at, PIECE.min(there - at)).await?;
            let next = at + piece.len() as u64;
            Ok(Some((piece, (this, next, Some(file)))))
        })
        .boxed()
    }

    /// Waits until there is more than `at`; says where, and how much.
    async fn there(&mut self, at: u64) -> Result<(Place, u64), BoxError> {
        let size = self.size;
        let count = move |place: &Place| match place {
            Place::Nowhere => 0,
            Place::Open(_, count) => *count,
            Place::Whole(_) => size,
        };
        let place = self.place.wait_for(|place| count(place) > at).await;
        let place = place.map_err(|_| "the file did not arrive in full")?;
        Ok((place.clone(), count(&place)))
    }
}

/// Reads `count` bytes from `file`, which is opened at `place` if it is not yet.
async fn read(
    file: Option<Arc<File>>,
    place: Place,
    at: u64,
    count: u64,
) -> io::Result<(Arc<File>, Bytes)> {
    let read = move || {
        let file = match (file, place) {
            (Some(file), _) | (None, Place::Open(file, _)) => file,
            (None, Place::Whole(path)) => Arc::new(File::open(path)?),
            (None, Place::Nowhere) => return Err(io::ErrorKind::NotFound.into()),
        };
        let mut piece = vec![0; usize::try_from(count).unwrap_or(0)];
        file.read_exact_at(&mut piece, at)?;
        Ok((file, piece.into()))
    };
    let done = tokio::task::spawn_blocking(read).await;
    done.map_err(io::Error::other)?
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
    async fn readers_see_every_byte_while_it_is_written_and_while_it_moves() {
        let folder = tempfile::tempdir().unwrap();
        let data: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let path = folder.path().join("f");
        let file = Arc::new(File::create_new(&path).unwrap());
        let readable = Arc::new(File::open(&path).unwrap());
        let (sender, arriving) = Arriving::new(data.len() as u64);
        let write = async {
            let mut at = 0;
            for chunk in data[..2_999_999].chunks(70_001) {
                file.write_all_at(chunk, at).unwrap();
                at += chunk.len() as u64;
                sender.send_replace(Place::Open(Arc::clone(&readable), at));
                tokio::task::yield_now().await;
            }
            file.write_all_at(&data[2_999_999..], at).unwrap();
            let moved = folder.path().join("g");
            std::fs::rename(&path, &moved).unwrap();
            sender.send_replace(Place::Whole(moved));
        };
        let ((), whole, tail) =
            tokio::join!(write, collect(&arriving, 0), collect(&arriving, 2_999_990));
        assert!(whole.unwrap() == data);
        assert_eq!(tail.unwrap(), data[2_999_990..]);
        drop(sender);
        let after = collect(&arriving, 0).await.unwrap();
        assert!(after == data, "and afterwards");
    }

    #[tokio::test]
    async fn a_fetch_that_gives_up_fails_its_readers() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::create_new(folder.path().join("f")).unwrap();
        file.write_all_at(b"12345", 0).unwrap();
        let file = Arc::new(File::open(folder.path().join("f")).unwrap());
        let (sender, arriving) = Arriving::new(10);
        sender.send_replace(Place::Open(file, 5));
        drop(sender);
        let error = collect(&arriving, 0).await.unwrap_err();
        assert!(error.to_string().contains("did not arrive"), "{error}");
        let (unused, empty) = Arriving::new(0);
        drop(unused);
        assert!(collect(&empty, 0).await.unwrap().is_empty());
    }
}
