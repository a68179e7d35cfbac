//! Compressing a layer into a spool file, with bytes that follow from the input and the options.

use std::io::{self, BufWriter, Read, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread;

use oci_spec::image::{Digest, MediaType};
use tempfile::NamedTempFile;

use crate::error::{Error, Result};
use crate::gzip;
use crate::hash::{Hasher, sha256_hex};

/// How a layer is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// As it is: right for weights, which hardly compress.
    None,
    /// Gzip, which every tool reads.
    Gzip,
    /// Zstandard: smaller and several times faster, but newer than some tools.
    Zstd,
    /// What a [`Probe`](crate::Probe) of the layer says: plain, or compressed where that saves at
    /// least [`Probe::THRESHOLD`](crate::Probe::THRESHOLD) percent; plain below
    /// [`Probe::SMALLEST`](crate::Probe::SMALLEST) bytes.
    #[default]
    Auto,
}

/// How [`Layer::compressed`](crate::Layer::compressed) works; made from a [`Compression`], too.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct CompressOptions {
    /// How the layer is stored.
    pub compression: Compression,
    /// How many threads compress; all processors if `None`. The bytes do not depend on it, the
    /// memory does: some 4 MiB for each thread with gzip, some 16 MiB with zstd.
    pub threads: Option<NonZeroUsize>,
    /// The zstd level, 1 (fast) to 19 (small).
    pub zstd_level: i32,
    /// `Auto` compresses with gzip instead of zstd, for tools that do not read zstd.
    pub auto_gzip: bool,
}

impl Default for CompressOptions {
    fn default() -> Self {
        Self {
            compression: Compression::Auto,
            threads: None,
            zstd_level: 3,
            auto_gzip: false,
        }
    }
}

impl From<Compression> for CompressOptions {
    fn from(compression: Compression) -> Self {
        Self {
            compression,
            ..Self::default()
        }
    }
}

impl CompressOptions {
    fn threads(&self) -> NonZeroUsize {
        let all = || thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        self.threads.unwrap_or_else(all)
    }
}

/// A compressor that has been chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packer {
    Gzip,
    Zstd,
}

impl Packer {
    pub(crate) fn media_type(self) -> MediaType {
        match self {
            Self::Gzip => MediaType::ImageLayerGzip,
            Self::Zstd => MediaType::ImageLayerZstd,
        }
    }
}

/// A compressed layer in its file.
pub(crate) struct Spooled {
    pub(crate) path: PathBuf,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) diff_id: Digest,
}

/// Compresses the `len` bytes of `reader` into a file in `spool` that is named by the hex digest
/// of the result.
pub(crate) fn spool(
    reader: impl Read,
    len: u64,
    spool: &Path,
    (packer, options): (Packer, &CompressOptions),
) -> Result<Spooled> {
    let failed = |what: &'static str| {
        move |source: io::Error| Error::io("compress layer", spool, what, source)
    };
    std::fs::create_dir_all(spool).map_err(failed("cannot create the spool directory"))?;
    let file = NamedTempFile::new_in(spool).map_err(failed("cannot create a spool file"))?;
    let mut source = Hashing::new(reader);
    let mut sink = Hashing::new(BufWriter::with_capacity(FEED, file));
    match packer {
        Packer::Gzip => gzip::compress(&mut source, &mut sink, options.threads()),
        Packer::Zstd => zstd(&mut source, &mut sink, len, options),
    }
    .map_err(failed("cannot compress it into the spool file"))?;
    let (size, digest) = (sink.hasher.seen(), sink.hasher.finish());
    let file = sink
        .inner
        .into_inner()
        .map_err(|e| failed("cannot write the spool file")(e.into_error()))?;
    let path = spool.join(sha256_hex(&digest)?);
    file.persist(&path)
        .map_err(|e| failed("cannot name the spool file")(e.error))?;
    let diff_id = source.hasher.finish();
    Ok(Spooled {
        path,
        digest,
        size,
        diff_id,
    })
}

/// The compressor is always fed blocks of this size, so that how the source was chunked cannot
/// show in the output.
const FEED: usize = 64 * 1024;

/// Writes one zstd frame that states its content's length and ends in a checksum. The library
/// cuts the work by the level's parameters, so that one thread writes what many would.
fn zstd(
    source: &mut impl Read,
    sink: &mut impl Write,
    len: u64,
    options: &CompressOptions,
) -> io::Result<()> {
    let workers = u32::try_from(options.threads().get()).unwrap_or(1);
    let mut encoder = zstd::stream::write::Encoder::new(sink, options.zstd_level.clamp(1, 19))?;
    encoder.include_checksum(true)?;
    encoder.include_contentsize(true)?;
    encoder.set_pledged_src_size(Some(len))?;
    // Never 0, which is another code path with other bytes.
    encoder.multithread(workers.clamp(1, MAX_WORKERS))?;
    let mut block = Vec::with_capacity(FEED);
    loop {
        block.clear();
        source.by_ref().take(FEED as u64).read_to_end(&mut block)?;
        if block.is_empty() {
            break;
        }
        encoder.write_all(&block)?;
    }
    encoder.finish().map(|_| ())
}

/// The most threads the library is asked for; it refuses more than 256.
const MAX_WORKERS: u32 = 64;

/// A reader or writer that digests what passes.
struct Hashing<T> {
    inner: T,
    hasher: Hasher,
}

impl<T> Hashing<T> {
    fn new(inner: T) -> Self {
        Self {
            inner,
            hasher: Hasher::default(),
        }
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Layer;
    use crate::error::ErrorKind;
    use crate::stream::{collect, of_bytes};
    use bytes::Bytes;
    use futures::StreamExt;

    fn material() -> Bytes {
        let data = (0..1_100_000_u32).flat_map(|n| (n / 7).to_le_bytes());
        Bytes::from(data.collect::<Vec<u8>>())
    }

    /// A layer whose source gives chunks of this size.
    fn chunked(data: &Bytes, size: usize) -> Layer {
        let data = data.clone();
        let len = data.len() as u64;
        let open = move |from| {
            let mut rest = data.slice(usize::try_from(from).unwrap()..);
            let parts = std::iter::from_fn(move || {
                let part = rest.split_to(size.min(rest.len()));
                (!part.is_empty()).then_some(Ok(part))
            });
            futures::stream::iter(parts).boxed()
        };
        Layer::stream("/w", len, open).unwrap()
    }

    fn options(compression: Compression, threads: usize) -> CompressOptions {
        CompressOptions {
            threads: NonZeroUsize::new(threads),
            ..compression.into()
        }
    }

    #[tokio::test]
    async fn neither_chunks_nor_threads_show_and_the_layer_reads_back() {
        let data = material();
        let plain = chunked(&data, 700_001);
        let archive = collect(plain.open(0), u64::MAX, "x").await.unwrap();
        for compression in [Compression::Gzip, Compression::Zstd] {
            let spool = tempfile::tempdir().unwrap();
            let mut last = None;
            for (size, threads) in [(1_000, 1), (65_536, 2), (700_001, 4), (5_000_000, 3)] {
                let layer = chunked(&data, size)
                    .compressed(spool.path(), options(compression, threads))
                    .await
                    .unwrap();
                last = Some(layer);
            }
            // Files are named by digest, so one file means one digest.
            assert_eq!(std::fs::read_dir(spool.path()).unwrap().count(), 1);
            let layer = last.unwrap();
            let stored = collect(layer.open(0), u64::MAX, "x").await.unwrap();
            let rest = collect(layer.open(7), u64::MAX, "x").await.unwrap();
            assert_eq!(stored.slice(7..), rest);
            let codec = crate::codec::Codec::of(&layer.media_type()).unwrap();
            let mut unpacked = Vec::new();
            let mut reader = codec.reader(io::Cursor::new(stored));
            reader.read_to_end(&mut unpacked).unwrap();
            assert_eq!(unpacked, archive);
        }
    }

    #[tokio::test]
    async fn a_zstd_frame_states_its_length_and_has_a_checksum() {
        let spool = tempfile::tempdir().unwrap();
        let plain = chunked(&material(), 1 << 16);
        let layer = plain.clone().compressed(spool.path(), Compression::Zstd);
        let layer = layer.await.unwrap();
        let mut stored = collect(layer.open(0), u64::MAX, "x")
            .await
            .unwrap()
            .to_vec();
        // RFC 8878, section 3.1.1.1.1: size flag of at least 4 bytes, checksum flag.
        assert_eq!(stored[..4], [0x28, 0xb5, 0x2f, 0xfd]);
        assert!(stored[4] >> 6 >= 2 && stored[4] & 4 != 0);
        let (whole, len) = (plain.len(), stored.len());
        let found = zstd::bulk::decompress(&stored, usize::try_from(whole).unwrap());
        assert_eq!(found.unwrap().len() as u64, whole);
        stored[len - 1] ^= 1;
        assert!(zstd::bulk::decompress(&stored, usize::try_from(whole).unwrap()).is_err());
    }

    #[tokio::test]
    async fn auto_packs_what_shrinks_and_only_that() {
        let spool = tempfile::tempdir().unwrap();
        let text = chunked(&material(), 1 << 16);
        let auto = |layer: Layer, gzip| {
            let how = CompressOptions {
                auto_gzip: gzip,
                ..CompressOptions::default()
            };
            layer.compressed(spool.path(), how)
        };
        let zstd = auto(text.clone(), false).await.unwrap();
        assert_eq!(zstd.media_type(), MediaType::ImageLayerZstd);
        let gzip = auto(text.clone(), true).await.unwrap();
        assert_eq!(gzip.media_type(), MediaType::ImageLayerGzip);
        let mut state = 1_u64;
        let noise = std::iter::repeat_with(|| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as u32
        });
        let noise: Vec<u8> = noise.take(70_000).flat_map(u32::to_le_bytes).collect();
        let plain = auto(chunked(&noise.into(), 1 << 16), false).await.unwrap();
        assert_eq!(plain.media_type(), MediaType::ImageLayer);
        let small = chunked(&Bytes::from(vec![0; 200_000]), 1 << 16);
        let small = auto(small, false).await.unwrap();
        assert_eq!(small.media_type(), MediaType::ImageLayer);
        let none = gzip.clone().compressed(spool.path(), Compression::None);
        assert_eq!(none.await.unwrap().descriptor(), gzip.descriptor());
        let error = auto(gzip, false).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }

    #[tokio::test]
    async fn a_source_that_fails_leaves_no_spool_file() {
        let spool = tempfile::tempdir().unwrap();
        for compression in [Compression::Gzip, Compression::Zstd] {
            let data = Bytes::from(vec![0; 100]);
            let short = Layer::stream("/w", 9_000_000, move |from| of_bytes(&data, from));
            let error = short.unwrap().compressed(spool.path(), compression).await;
            assert_eq!(error.unwrap_err().kind(), ErrorKind::Changed);
        }
        assert_eq!(std::fs::read_dir(spool.path()).unwrap().count(), 0);
    }
}
