//! The layer media types this crate knows, and reading them.

use std::io::{self, Read};

use flate2::read::MultiGzDecoder;
use oci_spec::image::MediaType;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use crate::error::{Error, ErrorKind, Result};

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

#[cfg(test)]
mod tests {
    use super::*;
    use ruzstd::encoding::{CompressionLevel, compress_to_vec};

    #[test]
    fn consecutive_and_skippable_zstd_frames_are_one_archive() {
        let mut stored = compress_to_vec(&b"hello "[..], CompressionLevel::Fastest);
        stored.extend(0x184D_2A50_u32.to_le_bytes());
        stored.extend(3_u32.to_le_bytes());
        stored.extend(b"toc");
        stored.extend(compress_to_vec(&b"world"[..], CompressionLevel::Fastest));
        let mut text = String::new();
        let mut reader = Codec::Zstd.reader(io::Cursor::new(stored.clone()));
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello world");
        stored.truncate(stored.len() - 3);
        let mut reader = Codec::Zstd.reader(io::Cursor::new(stored));
        assert!(reader.read_to_string(&mut text).is_err());
    }

    #[test]
    fn docker_types_have_oci_names_and_others_stay() {
        let docker = "application/vnd.docker.image.rootfs.diff.tar.gzip".into();
        assert_eq!(oci_layer_type(&docker), MediaType::ImageLayerGzip);
        let other = MediaType::from("application/x-other");
        assert_eq!(oci_layer_type(&other), other);
        assert_eq!(
            Codec::of(&other).unwrap_err().kind(),
            ErrorKind::Unsupported
        );
    }
}
