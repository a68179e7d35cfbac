//! A tree as an uncompressed tar archive that can be read from any offset.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, StreamExt, TryStreamExt};

use crate::frame::{END, header, padding};
use crate::stream::{ByteStream, of_bytes};
use crate::tree::{Node, NodeKind, Tree};

/// Chunks smaller than this are joined, so that a layer of small files is not sent in crumbs.
const JOIN: usize = 64 * 1024;

/// The entries of an archive and where each of them starts.
pub(crate) struct Archive {
    entries: Vec<(String, Node)>,
    starts: Vec<u64>,
    len: u64,
    mtime: u64,
}

impl Archive {
    /// Lays out the archive of `tree`; no content is read.
    pub(crate) fn new(tree: Tree) -> Self {
        let mtime = tree.mtime();
        let entries = tree.into_archive_order();
        let mut starts = Vec::with_capacity(entries.len());
        let mut at = 0;
        for (path, node) in &entries {
            starts.push(at);
            let len = content_len(node);
            at += header(path, node, mtime).len() as u64 + len + padding(len);
        }
        Self {
            entries,
            starts,
            len: at + END,
            mtime,
        }
    }

    /// The length of the archive in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The number of entries.
    pub(crate) fn count(&self) -> usize {
        self.entries.len()
    }

    /// The archive's bytes from offset `from` on. Contents before it are not opened.
    pub(crate) fn open(self: &Arc<Self>, from: u64) -> ByteStream {
        let first = self.starts.partition_point(|&start| start <= from).max(1) - 1;
        let archive = Arc::clone(self);
        let entries = stream::iter(first..self.entries.len())
            .flat_map(move |at| archive.entry(at, from.saturating_sub(archive.starts[at])));
        let past_entries = from.saturating_sub(self.len - END);
        join(entries.chain(zeros(END, past_entries)).boxed())
    }

    /// One entry's header, content and padding after its first `skip` bytes.
    fn entry(&self, at: usize, skip: u64) -> ByteStream {
        let (path, node) = &self.entries[at];
        let header = header(path, node, self.mtime);
        let in_content = skip.saturating_sub(header.len() as u64);
        let head = of_bytes(&header, skip);
        let NodeKind::File(content) = &node.kind else {
            return head;
        };
        let pad = zeros(
            padding(content.len()),
            in_content.saturating_sub(content.len()),
        );
        if in_content >= content.len() {
            return head.chain(pad).boxed();
        }
        head.chain(content.open(in_content)).chain(pad).boxed()
    }
}

fn content_len(node: &Node) -> u64 {
    match &node.kind {
        NodeKind::File(content) => content.len(),
        _ => 0,
    }
}

/// `len` zero bytes (at most [`END`]) after the first `skip`.
fn zeros(len: u64, skip: u64) -> ByteStream {
    const ZEROS: &[u8] = &[0; 1024];
    let len = usize::try_from(len).unwrap_or(0).min(ZEROS.len());
    of_bytes(&Bytes::from_static(&ZEROS[..len]), skip)
}

/// Joins small chunks to at least [`JOIN`] bytes; large chunks pass without a copy.
fn join(inner: ByteStream) -> ByteStream {
    stream::try_unfold((inner, None::<Bytes>), |(mut inner, held)| async move {
        if let Some(large) = held {
            return Ok(Some((large, (inner, None))));
        }
        let mut small = BytesMut::new();
        while small.len() < JOIN {
            match inner.try_next().await? {
                Some(chunk) if chunk.len() >= JOIN && small.is_empty() => {
                    return Ok(Some((chunk, (inner, None))));
                }
                Some(chunk) if chunk.len() >= JOIN => {
                    return Ok(Some((small.freeze(), (inner, Some(chunk)))));
                }
                Some(chunk) => small.extend_from_slice(&chunk),
                None if small.is_empty() => return Ok(None),
                None => break,
            }
        }
        Ok(Some((small.freeze(), (inner, None))))
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Content;
    use crate::stream::collect;
    use crate::testing::{arb_tree, read_back, written};
    use proptest::prelude::*;

    async fn all(archive: &Arc<Archive>, from: u64) -> Bytes {
        collect(archive.open(from), u64::MAX, "archive")
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn every_offset_gives_the_suffix() {
        let mut tree = Tree::new();
        tree.insert_bytes("a/empty", 0o644, "").unwrap();
        tree.insert_bytes("a/full", 0o644, vec![7; 512]).unwrap();
        tree.insert_bytes(&"n".repeat(120), 0o755, "odd").unwrap();
        let archive = Arc::new(Archive::new(tree));
        let whole = all(&archive, 0).await;
        assert_eq!(whole.len() as u64, archive.len());
        for from in (0..=archive.len()).step_by(61).chain([archive.len()]) {
            let at = usize::try_from(from).unwrap();
            assert_eq!(all(&archive, from).await, whole[at..], "from {from}");
        }
    }

    #[tokio::test]
    async fn a_short_source_is_an_error_not_a_broken_archive() {
        let content = Content::stream(10, |_| of_bytes(&Bytes::from_static(b"short"), 0));
        let mut tree = Tree::new();
        tree.insert_file("f", 0o644, content).unwrap();
        let archive = Arc::new(Archive::new(tree));
        let error = collect(archive.open(0), u64::MAX, "x").await.unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Changed);
    }

    /// The bytes of an archive from `from` on, `len` of them.
    async fn part(archive: &Arc<Archive>, from: u64, len: usize) -> Bytes {
        let mut bytes = BytesMut::new();
        let mut stream = archive.open(from);
        while bytes.len() < len {
            bytes.extend_from_slice(&stream.try_next().await.unwrap().unwrap());
        }
        bytes.split_to(len).freeze()
    }

    #[tokio::test]
    async fn a_file_of_more_than_eight_gibibytes_is_found_again_by_its_header() {
        const LEN: u64 = (9 << 30) + 1;
        const ZEROS: &[u8] = &[0; 1 << 16];
        let zeros = |from| {
            let chunks = stream::unfold(LEN - from, |left| async move {
                let count = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS.len());
                let left = left - count as u64;
                (count > 0).then(|| (Ok(Bytes::from_static(&ZEROS[..count])), left))
            });
            chunks.boxed()
        };
        let mut tree = Tree::new();
        tree.insert_file("m/big", 0o644, Content::stream(LEN, zeros))
            .unwrap();
        tree.insert_bytes("m/small", 0o644, "after it").unwrap();
        let archive = Arc::new(Archive::new(tree));
        // The directory, a PAX header with its record, and the header of the file itself.
        assert_eq!(archive.len(), 4 * 512 + LEN + padding(LEN) + 2 * 512 + END);
        let head = part(&archive, 0, 5 * 512).await;
        let mut reader = crate::tar_read::Reader::new(&head[..]);
        assert_eq!(reader.next().unwrap().unwrap().path, "m/");
        let big = reader.next().unwrap().unwrap();
        assert_eq!((big.path.as_str(), big.size), ("m/big", LEN));
        // From the last bytes of the large file on: nothing before them is read.
        let tail = archive.len() - END - 2 * 512;
        let rest = all(&archive, tail - padding(LEN) - 1).await;
        assert!(rest[..512].iter().all(|&byte| byte == 0));
        let seen = read_back(&rest[512..]);
        assert_eq!(seen["m/small"].3, b"after it");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn an_independent_reader_sees_the_tree(
            tree in arb_tree(), cut in 0.0..1.0_f64,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let archive = Arc::new(Archive::new(tree.clone()));
            let whole = runtime.block_on(all(&archive, 0));
            prop_assert_eq!(whole.len() as u64, archive.len());
            prop_assert_eq!(read_back(&whole), written(&tree));
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss,
                clippy::cast_precision_loss, reason = "a rough place in a small archive")]
            let from = (cut * whole.len() as f64) as u64;
            let suffix = runtime.block_on(all(&archive, from));
            prop_assert_eq!(suffix, whole.slice(usize::try_from(from).unwrap()..));
        }
    }
}
