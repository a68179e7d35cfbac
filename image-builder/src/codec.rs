//! Layer compression: the media types this crate knows, reading them, and deterministic gzip.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use flate2::{Compression, GzBuilder};
use oci_spec::image::{Digest, MediaType};
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use tempfile::NamedTempFile;

use crate::bridge::StreamReader;
use crate::error::{Error, ErrorKind, Result};
use crate::hash::{Hasher, sha256_hex};

/// How a layer's tar archive is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    Plain,
    Gzip,
    Zstd,
}

impl Codec {
    /// The codec of a layer media type.
    pub(crate) fn of(media_type: &MediaType) -> Result<Self> {
        match media_type {
            MediaType::ImageLayer | MediaType::ImageLayerNonDistributable => Ok(Self::Plain),
            MediaType::ImageLayerGzip | MediaType::ImageLayerNonDistributableGzip => Ok(Self::Gzip),
            MediaType::ImageLayerZstd | MediaType::ImageLayerNonDistributableZstd => Ok(Self::Zstd),
            other => {
                let detail = "it is not the media type of a file system layer";
                Err(Error::new(
                    ErrorKind::Unsupported,
                    "read layer",
                    other.to_string(),
                    detail,
                )
                .with_hint("use an image whose layers are tar, tar+gzip or tar+zstd"))
            }
        }
    }

    /// The uncompressed archive behind `inner`, over all gzip members or zstd frames.
    pub(crate) fn reader(self, inner: impl Read + Send + 'static) -> Box<dyn Read + Send> {
        match self {
            Self::Plain => Box::new(inner),
            Self::Gzip => Box::new(MultiGzDecoder::new(inner)),
            Self::Zstd => Box::new(ZstdReader {
                source: inner,
                decoder: FrameDecoder::new(),
                in_frame: false,
            }),
        }
    }
}

/// The OCI media type of a layer that Docker's or OCI's type names (image-spec,
/// media-types.md, "Compatibility Matrix"); the bytes are the same.
pub(crate) fn oci_layer_type(media_type: &MediaType) -> MediaType {
    match media_type.as_ref() {
        "application/vnd.docker.image.rootfs.diff.tar" => MediaType::ImageLayer,
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => MediaType::ImageLayerGzip,
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => MediaType::ImageLayerZstd,
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => {
            MediaType::ImageLayerNonDistributableGzip
        }
        _ => media_type.clone(),
    }
}

/// Reads consecutive zstd frames; skippable ones, which zstd:chunked adds, are passed over.
struct ZstdReader<R> {
    source: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: Read> Read for ZstdReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.in_frame {
                while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                    self.decoder
                        .decode_blocks(&mut self.source, BlockDecodingStrategy::UptoBlocks(1))
                        .map_err(io::Error::other)?;
                }
                let count = self.decoder.read(buffer)?;
                if count > 0 {
                    return Ok(count);
                }
                self.in_frame = false;
            }
            if !self.next_frame()? {
                return Ok(0);
            }
        }
    }
}

impl<R: Read> ZstdReader<R> {
    /// Opens the next frame, or skips one; false at the end of the input.
    fn next_frame(&mut self) -> io::Result<bool> {
        let mut first = [0; 1];
        if self.source.read(&mut first)? == 0 {
            return Ok(false);
        }
        let header = io::Cursor::new(first).chain(&mut self.source);
        match self.decoder.init(header) {
            Ok(()) => self.in_frame = true,
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length,
                ..
            })) => {
                io::copy(
                    &mut self.source.by_ref().take(length.into()),
                    &mut io::sink(),
                )?;
            }
            Err(error) => return Err(io::Error::other(error)),
        }
        Ok(true)
    }
}

/// A gzip file made by [`gzip`].
pub(crate) struct Gzipped {
    pub(crate) path: PathBuf,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) diff_id: Digest,
}

/// The compressor is always fed blocks of this size, so that how the source was chunked cannot
/// show in the output.
const FEED: usize = 64 * 1024;

/// Compresses `reader` into `spool`, in a file named by the hex digest of the result.
///
/// The bytes follow from the input alone: no name, no time, level 6, and one pinned backend.
pub(crate) fn gzip(mut reader: StreamReader, spool: &Path) -> Result<Gzipped> {
    let failed = |what: &'static str| {
        move |source: io::Error| Error::io("compress layer", spool, what, source)
    };
    std::fs::create_dir_all(spool).map_err(failed("cannot create the spool directory"))?;
    let file = NamedTempFile::new_in(spool).map_err(failed("cannot create a spool file"))?;
    let sink = HashingWriter {
        inner: io::BufWriter::with_capacity(FEED, file),
        hasher: Hasher::default(),
    };
    let mut encoder = GzBuilder::new().mtime(0).write(sink, Compression::new(6));
    let mut diff = Hasher::default();
    let mut block = Vec::with_capacity(FEED);
    loop {
        block.clear();
        let mut limited = reader.by_ref().take(FEED as u64);
        limited
            .read_to_end(&mut block)
            .map_err(failed("cannot read the layer"))?;
        if block.is_empty() {
            break;
        }
        diff.update(&block);
        encoder
            .write_all(&block)
            .map_err(failed("cannot write the spool file"))?;
    }
    let sink = encoder
        .finish()
        .map_err(failed("cannot write the spool file"))?;
    let (size, digest) = (sink.hasher.seen(), sink.hasher.finish());
    let file = sink
        .inner
        .into_inner()
        .map_err(|e| failed("cannot write the spool file")(e.into_error()))?;
    let path = spool.join(sha256_hex(&digest)?);
    file.persist(&path)
        .map_err(|e| failed("cannot name the spool file")(e.error))?;
    let diff_id = diff.finish();
    Ok(Gzipped {
        path,
        digest,
        size,
        diff_id,
    })
}

struct HashingWriter<W> {
    inner: W,
    hasher: Hasher,
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
