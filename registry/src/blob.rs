//! What is pushed: a replayable byte source of known length, and the events of moving it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use oci_spec::image::{Descriptor, Digest, MediaType};
use sha2::{Digest as _, Sha256};

use crate::error::BoxError;

/// Bytes crossing a crate border: chunks in order, of any size, ending with the source.
pub type ByteStream = BoxStream<'static, Result<Bytes, BoxError>>;

/// Opens a byte source at an offset in bytes; called again to replay or to resume.
pub type OpenFn = Arc<dyn Fn(u64) -> ByteStream + Send + Sync>;

/// The sink for [`Event`]s of a push.
pub type Progress<'a> = &'a (dyn Fn(Event) + Send + Sync);

/// A blob to push: its type, its exact length, and how to read it from any offset.
///
/// The digest may be unknown; it is then found while the bytes move, in one pass.
#[derive(Clone)]
pub struct Blob {
    media_type: String,
    size: u64,
    digest: Option<Digest>,
    annotations: BTreeMap<String, String>,
    mount_from: Option<String>,
    identity: Option<String>,
    window: u64,
    open: OpenFn,
}

/// What a source is taken to hold unless it says so.
const WINDOW: u64 = 1 << 20;

impl Blob {
    /// A blob of exactly `size` bytes, read by `open(offset)`.
    pub fn new(
        media_type: impl Into<String>,
        size: u64,
        open: impl Fn(u64) -> ByteStream + Send + Sync + 'static,
    ) -> Self {
        Self {
            media_type: media_type.into(),
            size,
            digest: None,
            annotations: BTreeMap::new(),
            mount_from: None,
            identity: None,
            window: WINDOW,
            open: Arc::new(open),
        }
    }

    /// A small blob held in memory, with its digest computed.
    pub fn bytes(media_type: impl Into<String>, bytes: Bytes) -> Self {
        let digest = sha256_of(&bytes);
        let size = bytes.len() as u64;
        Self::new(media_type, size, move |from| {
            let from = usize::try_from(from).unwrap_or(usize::MAX).min(bytes.len());
            let rest = bytes.slice(from..);
            stream::iter((!rest.is_empty()).then_some(Ok(rest))).boxed()
        })
        .with_digest(digest)
    }

    /// States the digest, so that a blob the registry has already is not sent again.
    #[must_use]
    pub fn with_digest(mut self, digest: Digest) -> Self {
        self.digest = Some(digest);
        self
    }

    /// Adds an annotation to the descriptor made for this blob (image-spec, annotations).
    #[must_use]
    pub fn with_annotation(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.annotations.insert(key.into(), value.into());
        self
    }

    /// Names a repository of the same registry to mount the blob from (needs the digest).
    #[must_use]
    pub fn with_mount_from(mut self, repository: impl Into<String>) -> Self {
        self.mount_from = Some(repository.into());
        self
    }

    /// Names the exact bytes of the source where the digest does not: the address of the object,
    /// its version or `ETag`, and the form it is sent in. Two blobs of the same identity must be
    /// equal byte for byte. It lets a later process go on with an upload of unknown digest
    /// ([`RegistryOptions::journal`](crate::RegistryOptions::journal)).
    #[must_use]
    pub fn with_identity(mut self, identity: impl Into<String>) -> Self {
        self.identity = Some(identity.into());
        self
    }

    /// States how many bytes the source holds in memory while it is read, which counts against
    /// [`RegistryOptions::upload_window`](crate::RegistryOptions::upload_window). 1 MiB unless
    /// stated.
    #[must_use]
    pub fn with_window(mut self, bytes: u64) -> Self {
        self.window = bytes;
        self
    }

    /// The media type.
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// The length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The digest, when it is known before the push.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Opens the bytes at `from`.
    pub fn open(&self, from: u64) -> ByteStream {
        (self.open)(from)
    }

    pub(crate) fn mount_from(&self) -> Option<&str> {
        self.mount_from.as_deref()
    }

    /// What names the bytes of the source across processes.
    pub(crate) fn identity(&self) -> Option<&str> {
        let digest = || self.digest.as_ref().map(AsRef::as_ref);
        self.identity.as_deref().or_else(digest)
    }

    pub(crate) fn window(&self) -> u64 {
        self.window
    }

    pub(crate) fn opener(&self) -> OpenFn {
        Arc::clone(&self.open)
    }

    /// The descriptor, when the digest is known before the push.
    pub(crate) fn known_descriptor(&self) -> Option<Descriptor> {
        Some(self.descriptor(self.digest.clone()?))
    }

    pub(crate) fn descriptor(&self, digest: Digest) -> Descriptor {
        let mut descriptor =
            Descriptor::new(MediaType::from(self.media_type.as_str()), self.size, digest);
        if !self.annotations.is_empty() {
            descriptor.set_annotations(Some(self.annotations.clone().into_iter().collect()));
        }
        descriptor
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blob")
            .field("media_type", &self.media_type)
            .field("size", &self.size)
            .field("digest", &self.digest)
            .field("annotations", &self.annotations)
            .field("mount_from", &self.mount_from)
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}

/// What happened during a push. `blob` is the position in the list given to
/// [`push_image`](crate::Repository::push_image), the config coming after the last layer;
/// it is 0 for a single blob.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The registry had the blob; no byte of it was sent.
    Exists {
        /// Position of the blob.
        blob: usize,
        /// Its digest.
        digest: Digest,
        /// Its length in bytes.
        size: u64,
    },
    /// The registry linked the blob from another repository; no byte of it was sent.
    Mounted {
        /// Position of the blob.
        blob: usize,
        /// Its digest.
        digest: Digest,
        /// Its length in bytes.
        size: u64,
        /// The repository it came from.
        from: String,
    },
    /// Bytes are moving.
    Uploading {
        /// Position of the blob.
        blob: usize,
        /// Bytes of the blob handed to the connection; goes back when a try is replayed.
        done: u64,
        /// The length of the blob in bytes.
        total: u64,
    },
    /// A try failed in a way that may pass, and another begins.
    Retrying {
        /// Position of the blob.
        blob: usize,
        /// The number of the try that failed, from 1.
        attempt: u32,
        /// Why it failed.
        reason: String,
    },
    /// An upload goes on where an earlier request, or an earlier process, left it.
    Resumed {
        /// Position of the blob.
        blob: usize,
        /// The bytes the registry has already.
        offset: u64,
    },
    /// The registry does not take the bytes as they were sent; they are sent another way.
    Downgraded {
        /// Position of the blob.
        blob: usize,
        /// The new way, in words, such as `chunks of 4194304 bytes`.
        to: String,
        /// Why.
        reason: String,
    },
    /// The registry committed the blob.
    Uploaded {
        /// Position of the blob.
        blob: usize,
        /// Its digest.
        digest: Digest,
        /// Its length in bytes.
        size: u64,
        /// Bytes handed to connections over all tries.
        sent: u64,
    },
    /// The manifest is in the registry, under its digest.
    Manifest {
        /// Its digest.
        digest: Digest,
        /// Whether it had to be sent.
        sent: bool,
    },
}

/// The SHA-256 digest of `bytes`.
pub(crate) fn sha256_of(bytes: &[u8]) -> Digest {
    finish(Sha256::new_with_prefix(bytes))
}

/// Turns a finished hash state into a digest.
pub(crate) fn finish(hash: Sha256) -> Digest {
    let text = format!("sha256:{}", hex::encode(hash.finalize()));
    Digest::try_from(text).expect("64 lower-case hex digits after sha256: are a valid digest")
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::TryStreamExt as _;

    #[tokio::test]
    async fn bytes_open_at_any_offset() {
        let blob = Blob::bytes("text/plain", Bytes::from_static(b"hello"));
        let read = async |from| blob.open(from).try_concat_all().await;
        assert_eq!(read(0).await, b"hello");
        assert_eq!(read(3).await, b"lo");
        assert_eq!(read(9).await, b"");
        assert_eq!(
            blob.digest().unwrap().as_ref(),
            "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
        );
    }

    trait ConcatAll {
        async fn try_concat_all(self) -> Vec<u8>;
    }
    impl ConcatAll for ByteStream {
        async fn try_concat_all(self) -> Vec<u8> {
            let parts: Vec<Bytes> = self.try_collect().await.unwrap();
            parts.concat()
        }
    }
}
