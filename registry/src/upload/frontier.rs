//! How far a blob has been hashed: goes forward only, whatever is sent again.

use bytes::Bytes;
use oci_spec::image::Digest;
use sha2::digest::common::hazmat::{SerializableState as _, SerializedState};
use sha2::{Digest as _, Sha256};

use crate::blob::finish;

/// The last bytes before the frontier that are kept, to know the source again by.
const TAIL: usize = 4 << 10;

/// The hash of the first `pos` bytes of a blob.
#[derive(Clone)]
pub(crate) struct Frontier {
    hash: Sha256,
    pos: u64,
    /// What lies right before `pos`.
    tail: Bytes,
    /// Whether the source was seen to end where it was declared to.
    ended: bool,
}

impl Frontier {
    pub(crate) fn new() -> Self {
        Self {
            hash: Sha256::new(),
            pos: 0,
            tail: Bytes::new(),
            ended: false,
        }
    }

    /// What lies right before [`pos`](Self::pos), a few KiB of it; nothing is known of what an
    /// earlier process hashed.
    pub(crate) fn tail(&self) -> Bytes {
        self.tail.clone()
    }

    pub(crate) fn pos(&self) -> u64 {
        self.pos
    }

    /// Takes the piece that lies at `at`. What was hashed before is not hashed again, and a
    /// piece beyond the frontier is left for when it comes in its turn.
    pub(crate) fn feed(&mut self, at: u64, piece: &[u8]) {
        let seen = match self.pos.checked_sub(at).map(usize::try_from) {
            Some(Ok(seen)) if seen < piece.len() => seen,
            _ => return,
        };
        self.hash.update(&piece[seen..]);
        self.pos = at + piece.len() as u64;
        // A copy, since the piece may be a part of something large.
        self.tail = Bytes::copy_from_slice(&piece[piece.len().saturating_sub(TAIL)..]);
    }

    pub(crate) fn end(&mut self) {
        self.ended = true;
    }

    /// The digest of a blob of `size` bytes, once all of it was seen.
    pub(crate) fn digest(&self, size: u64) -> Option<Digest> {
        (self.ended && self.pos == size).then(|| finish(self.hash.clone()))
    }

    /// The state of the hash, to go on with in another process.
    pub(crate) fn state(&self) -> Vec<u8> {
        self.hash.serialize().to_vec()
    }

    /// The frontier at `pos` with the state that [`state`](Self::state) gave.
    pub(crate) fn restore(pos: u64, state: &[u8]) -> Option<Self> {
        let state = SerializedState::<Sha256>::try_from(state).ok()?;
        Some(Self {
            hash: Sha256::deserialize(&state).ok()?,
            pos,
            tail: Bytes::new(),
            ended: false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::sha256_of;

    #[test]
    fn nothing_is_hashed_twice_and_nothing_is_skipped() {
        let mut frontier = Frontier::new();
        frontier.feed(0, b"abc");
        frontier.feed(0, b"ab");
        frontier.feed(5, b"fg");
        assert_eq!(frontier.pos(), 3);
        frontier.feed(1, b"bcde");
        assert_eq!(frontier.digest(5), None, "the source may go on");
        let mut frontier = Frontier::restore(5, &frontier.state()).unwrap();
        frontier.feed(5, b"fg");
        frontier.end();
        assert_eq!(frontier.digest(7), Some(sha256_of(b"abcdefg")));
        assert!(Frontier::restore(5, b"short").is_none());
    }
}
