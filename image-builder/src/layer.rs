//! One layer of an image: a replayable byte source of known length, and what is known about it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use oci_spec::image::{Descriptor, Digest, MediaType};

use crate::archive::Archive;
use crate::bridge;
use crate::codec::{Codec, oci_layer_type};
use crate::compress::{self, CompressOptions, Compression, Packer};
use crate::content::Content;
use crate::error::{Error, ErrorKind, Result};
use crate::hash::Hasher;
use crate::probe::{self, Probe};
use crate::source_dir::TreeOptions;
use crate::stream::{ByteStream, Open, exact, of_file};
use crate::tree::Tree;

/// A layer: bytes that can be read from any offset as often as needed, whose length is known
/// before the first of them.
///
/// A new layer does not know its digest; it is found while the bytes are moved (see
/// [`Layer::with_digest`]), or by [`Layer::measure`]. Cloning is cheap.
#[derive(Clone)]
pub struct Layer {
    open: Open,
    len: u64,
    media_type: MediaType,
    digest: Option<Digest>,
    diff_id: Option<Digest>,
    urls: Option<Vec<String>>,
    annotations: BTreeMap<String, String>,
    created_by: String,
}

impl Layer {
    /// A file tree as an uncompressed, deterministic tar archive: the same tree gives the same
    /// bytes on every host.
    ///
    /// # Errors
    /// None today; kept fallible for limits of the archive format.
    pub fn tree(tree: Tree) -> Result<Self> {
        let archive = Arc::new(Archive::new(tree));
        let created_by = format!("modelship: {} entries", archive.count());
        let len = archive.len();
        let open = move |from| archive.open(from);
        Ok(Self::new(
            Arc::new(open),
            len,
            MediaType::ImageLayer,
            created_by,
        ))
    }

    /// The directory `dir` below `at`: [`Tree::from_dir`] with default options as a layer.
    ///
    /// # Errors
    /// As [`Tree::from_dir`].
    pub fn directory(at: &str, dir: &Path) -> Result<Self> {
        let tree = Tree::from_dir(at, dir, &TreeOptions::default())?;
        Ok(Self::tree(tree)?.with_history(&format!("modelship: directory {at}")))
    }

    /// One file of mode `0644` at the absolute path `at` of the image, such as a model's
    /// weights: `len` bytes that `open(from)` gives from offset `from` to the end.
    ///
    /// # Errors
    /// `Invalid` for a path that is not absolute or leaves the root.
    pub fn stream(
        at: &str,
        len: u64,
        open: impl Fn(u64) -> ByteStream + Send + Sync + 'static,
    ) -> Result<Self> {
        if !at.starts_with('/') {
            return Err(Error::new(
                ErrorKind::Invalid,
                "build layer",
                at,
                "the path is relative",
            )
            .with_hint("give the file's absolute path in the image"));
        }
        let mut tree = Tree::new();
        tree.insert_file(at, 0o644, Content::stream(len, open))?;
        Ok(Self::tree(tree)?.with_history(&format!("modelship: file {at}")))
    }

    /// A layer that already has its digests, such as one of a base image. Docker's media types
    /// become OCI's; annotations and URLs of the descriptor are kept.
    ///
    /// The bytes are trusted to match; [`validate`](crate::validate()) and
    /// [`layout::write`](crate::layout::write) check them.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the layer takes the descriptor's place"
    )]
    pub fn known(
        descriptor: Descriptor,
        diff_id: Digest,
        open: impl Fn(u64) -> ByteStream + Send + Sync + 'static,
    ) -> Self {
        let media_type = oci_layer_type(descriptor.media_type());
        let mut layer = Self::new(
            Arc::new(open),
            descriptor.size(),
            media_type,
            "modelship: layer".to_owned(),
        );
        layer.digest = Some(descriptor.digest().clone());
        layer.diff_id = Some(diff_id);
        layer.urls.clone_from(descriptor.urls());
        layer.annotations = descriptor
            .annotations()
            .clone()
            .unwrap_or_default()
            .into_iter()
            .collect();
        layer
    }

    fn new(open: Open, len: u64, media_type: MediaType, created_by: String) -> Self {
        Self {
            open,
            len,
            media_type,
            digest: None,
            diff_id: None,
            urls: None,
            annotations: BTreeMap::new(),
            created_by,
        }
    }

    /// Compresses the layer with gzip: [`Layer::compressed`] with [`Compression::Gzip`].
    ///
    /// # Errors
    /// As [`Layer::compressed`].
    pub async fn gzip(self, spool: &Path) -> Result<Self> {
        self.compressed(spool, Compression::Gzip).await
    }

    /// Stores the layer as `how` says, a [`Compression`] or [`CompressOptions`]: compressed into
    /// a file in `spool`, named by its digest, or unchanged. The bytes follow from the layer, the
    /// compression and its level; neither the number of threads nor how the source is chunked
    /// shows in them. Memory is bounded. The file belongs to the caller and must stay as long as
    /// the layer is used; it is what the layer is read from again.
    ///
    /// # Errors
    /// `Unsupported` if the layer is compressed already, `Io` if the spool cannot be written,
    /// and what the layer's source reports.
    pub async fn compressed(self, spool: &Path, how: impl Into<CompressOptions>) -> Result<Self> {
        let options = how.into();
        if options.compression == Compression::None {
            return Ok(self);
        }
        if Codec::of(&self.media_type)? != Codec::Plain {
            let detail = "it is compressed already";
            let object = self.created_by.clone();
            return Err(Error::new(
                ErrorKind::Unsupported,
                "compress layer",
                object,
                detail,
            ));
        }
        let packer = match options.compression {
            Compression::None => return Ok(self),
            Compression::Gzip => Packer::Gzip,
            Compression::Auto if !self.is_worth_packing().await? => return Ok(self),
            Compression::Auto if options.auto_gzip => Packer::Gzip,
            Compression::Zstd | Compression::Auto => Packer::Zstd,
        };
        let (spool, len) = (spool.to_owned(), self.len);
        let made = bridge::with_reader(self.open(0), &self.created_by, move |reader| {
            compress::spool(reader, len, &spool, (packer, &options))
        })
        .await?;
        let (path, size) = (made.path, made.size);
        let open = move |from: u64| of_file(path.clone(), from, size.saturating_sub(from));
        Ok(Self {
            open: Arc::new(open),
            len: size,
            media_type: packer.media_type(),
            digest: Some(made.digest),
            diff_id: Some(made.diff_id),
            ..self
        })
    }

    async fn is_worth_packing(&self) -> Result<bool> {
        Ok(self.len >= Probe::SMALLEST && self.probe().await?.is_worth_it())
    }

    /// Looks at up to 1 MiB of the stored bytes to say whether compressing them is worth it.
    ///
    /// # Errors
    /// What the layer's source reports.
    pub async fn probe(&self) -> Result<Probe> {
        probe::probe(self).await
    }

    /// The same layer read from another place that has the same bytes.
    pub(crate) fn with_source(
        mut self,
        open: impl Fn(u64) -> ByteStream + Send + Sync + 'static,
    ) -> Self {
        self.open = Arc::new(open);
        self
    }

    /// The length in bytes as stored.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is not a single byte, which no valid archive is.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The OCI media type of the stored bytes.
    pub fn media_type(&self) -> MediaType {
        self.media_type.clone()
    }

    /// The bytes from offset `from` to the end. A source that has fewer or more bytes than
    /// announced ends in an error item.
    pub fn open(&self, from: u64) -> ByteStream {
        let left = self.len.saturating_sub(from);
        if left == 0 {
            return futures::stream::empty().boxed();
        }
        exact((self.open)(from), left, self.created_by.clone())
    }

    /// The descriptor, when the digest is known.
    pub fn descriptor(&self) -> Option<Descriptor> {
        let digest = self.digest.clone()?;
        let mut descriptor = Descriptor::new(self.media_type.clone(), self.len, digest);
        descriptor.set_urls(self.urls.clone());
        if !self.annotations.is_empty() {
            let annotations = self.annotations.clone().into_iter().collect();
            descriptor.set_annotations(Some(annotations));
        }
        Some(descriptor)
    }

    /// The digest of the uncompressed archive (image-spec, config.md, "Layer DiffID"), when known.
    pub fn diff_id(&self) -> Option<Digest> {
        self.diff_id.clone()
    }

    /// Adds an annotation to the layer's descriptor.
    #[must_use]
    pub fn with_annotation(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.annotations.insert(key.into(), value.into());
        self
    }

    /// The annotations of the layer's descriptor.
    pub fn annotations(&self) -> &BTreeMap<String, String> {
        &self.annotations
    }

    /// Sets what the image's history says this layer was created by.
    #[must_use]
    pub fn with_history(mut self, created_by: &str) -> Self {
        created_by.clone_into(&mut self.created_by);
        self
    }

    /// What the image's history says this layer was created by.
    pub fn history(&self) -> &str {
        &self.created_by
    }

    /// Reads the layer once and returns it with its digests known; at once if they are.
    ///
    /// # Errors
    /// What the layer's source reports, and `Changed` if its length is not as announced.
    pub async fn measure(&self) -> Result<Self> {
        if self.digest.is_some() && self.diff_id.is_some() {
            return Ok(self.clone());
        }
        let mut hasher = Hasher::default();
        let mut bytes = self.open(0);
        while let Some(chunk) = bytes
            .try_next()
            .await
            .map_err(|e| Error::from_stream("measure layer", self.created_by.clone(), e))?
        {
            hasher.update(&chunk);
        }
        self.with_digest(hasher.finish())
    }

    /// The same layer with the digest of its stored bytes, found by whoever moved them. An
    /// uncompressed layer's diff id is the same digest.
    ///
    /// # Errors
    /// `DigestMismatch` if another digest was known, `Invalid` for a compressed layer whose diff
    /// id is not known.
    pub fn with_digest(&self, digest: Digest) -> Result<Self> {
        if let Some(known) = &self.digest
            && *known != digest
        {
            let detail = format!("it has digest {digest}, but {known} was stated");
            let object = self.created_by.clone();
            return Err(Error::new(
                ErrorKind::DigestMismatch,
                "measure layer",
                object,
                detail,
            ));
        }
        let mut layer = self.clone();
        if Codec::of(&self.media_type)? == Codec::Plain {
            layer.diff_id = Some(digest.clone());
        } else if self.diff_id.is_none() {
            let detail = "the diff id of a compressed layer cannot follow from its digest";
            let object = self.created_by.clone();
            return Err(Error::new(
                ErrorKind::Invalid,
                "measure layer",
                object,
                detail,
            ));
        }
        layer.digest = Some(digest);
        Ok(layer)
    }
}

impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Layer")
            .field("media_type", &self.media_type)
            .field("len", &self.len)
            .field("digest", &self.digest)
            .field("diff_id", &self.diff_id)
            .field("created_by", &self.created_by)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::digest;
    use crate::stream::{collect, of_bytes};
    use bytes::Bytes;

    fn sample() -> Tree {
        let mut tree = Tree::new();
        tree.insert_bytes("app/main.py", 0o644, "print('hello')\n")
            .unwrap();
        tree.insert_symlink("app/link", "main.py").unwrap();
        tree.insert_bytes("app/größe", 0o755, vec![1; 512]).unwrap();
        tree.insert_hardlink("app/again", "app/größe").unwrap();
        tree
    }

    async fn bytes(layer: &Layer) -> Bytes {
        collect(layer.open(0), u64::MAX, "layer").await.unwrap()
    }

    #[tokio::test]
    async fn golden_digests_stay() {
        let layer = Layer::tree(sample()).unwrap().measure().await.unwrap();
        let spool = tempfile::tempdir().unwrap();
        let gzip = layer.clone().gzip(spool.path()).await.unwrap();
        let zstd = layer.clone().compressed(spool.path(), Compression::Zstd);
        let zstd = zstd.await.unwrap();
        assert_eq!(gzip.diff_id(), layer.diff_id());
        assert_eq!(zstd.diff_id(), layer.diff_id());
        let digest = |layer: &Layer| layer.descriptor().unwrap().digest().to_string();
        assert_eq!(
            [digest(&layer), digest(&gzip), digest(&zstd)],
            [
                "sha256:6dc0bba4688575d82c99942a38eda3e2f9063d43d334829955970f37698c9371",
                "sha256:559008fa4d192d618c0effc3408908cc9c8d92592f290ee8dc21f89274d1f957",
                "sha256:09abfb1d1fe2ca658028c65e58962d4210308b65fc20dfe4dec70add85ba239c",
            ],
        );
    }

    #[tokio::test]
    async fn a_model_layer_announces_its_exact_length_and_parents() {
        let weights = Bytes::from(vec![3; 1500]);
        let layer = Layer::stream("/models/m/w.bin", 1500, move |from| {
            of_bytes(&weights, from)
        });
        let layer = layer.unwrap();
        let whole = bytes(&layer).await;
        assert_eq!(whole.len() as u64, layer.len());
        let seen = crate::testing::read_back(&whole);
        let names: Vec<_> = seen.keys().map(String::as_str).collect();
        assert_eq!(names, ["models", "models/m", "models/m/w.bin"]);
        assert!(Layer::stream("relative", 0, |_| futures::stream::empty().boxed()).is_err());
    }

    #[tokio::test]
    async fn a_known_digest_cannot_be_changed() {
        let layer = Layer::tree(sample()).unwrap();
        let known = layer.measure().await.unwrap();
        assert_eq!(
            known.descriptor().unwrap().digest(),
            &digest(&bytes(&layer).await)
        );
        let error = known.with_digest(digest(b"other")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DigestMismatch);
    }
}
