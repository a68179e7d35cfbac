//! Compressed layers, kept in the cache by what is in them.

use std::path::{Path, PathBuf};

use modelship_image_builder::{Compression, Content, Descriptor, Digest, Layer};
use serde::{Deserialize, Serialize};

use crate::Stage;
use crate::cache::{self, Cache};
use crate::error::{Error, Result};

/// What is noted of a compressed layer, beside its blob.
#[derive(Serialize, Deserialize)]
pub(crate) struct KnownLayer {
    descriptor: Descriptor,
    diff_id: String,
}

impl KnownLayer {
    /// The note of a layer whose digests are known.
    pub(crate) fn of(layer: &Layer) -> Option<Self> {
        Some(Self {
            descriptor: layer.descriptor()?,
            diff_id: layer.diff_id()?.to_string(),
        })
    }

    /// The layer, if its blob is whole in `folder`.
    pub(crate) fn open(self, folder: &Path) -> Option<Layer> {
        let blob = folder.join(self.descriptor.digest().digest());
        let diff_id: Digest = self.diff_id.parse().ok()?;
        let whole = std::fs::metadata(&blob).is_ok_and(|m| m.len() == self.descriptor.size());
        let content = Content::range(&blob, 0, self.descriptor.size());
        whole.then(|| Layer::known(self.descriptor, diff_id, move |from| content.open(from)))
    }
}

/// A layer as it is stored, and the entry of the cache that it is read from, if it is in one.
pub(crate) struct Packed {
    pub(crate) layer: Layer,
    pub(crate) folder: Option<PathBuf>,
}

/// Stores a layer compressed where a probe says that this pays, and plain where not; its digests
/// are known afterwards. What was compressed once is found again by its diff_id.
pub(crate) async fn pack(cache: &Cache, layer: &Layer) -> Result<Packed> {
    let step = |e| Error::step(Stage::Assemble, layer.history(), e);
    let plain = layer.measure().await.map_err(step)?;
    let id = plain.diff_id();
    let name = id.as_ref().map_or("", |id| id.digest());
    let folder = cache.folder(Stage::Assemble, "packed")?.join(name);
    let note = folder.join("layer.json");
    if let Some(known) = cache::read_json::<KnownLayer>(&note)
        && let Some(found) = known.open(&folder)
    {
        return Ok(Packed {
            layer: found.with_history(layer.history()),
            folder: Some(folder),
        });
    }
    let packed = plain.clone().compressed(&folder, Compression::Auto);
    let packed = packed.await.map_err(step)?;
    if packed.media_type() == plain.media_type() {
        return Ok(Packed {
            layer: plain,
            folder: None,
        });
    }
    if let Some(known) = KnownLayer::of(&packed) {
        cache::write_json(Stage::Assemble, &note, &known)?;
    }
    Ok(Packed {
        layer: packed,
        folder: Some(folder),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use modelship_image_builder::{MediaType, Tree};

    fn layer(folder: &Path, content: &[u8]) -> Layer {
        let file = folder.join("weights");
        std::fs::write(&file, content).unwrap();
        let mut tree = Tree::new();
        tree.insert_file("/m/weights", 0o644, Content::file(file).unwrap())
            .unwrap();
        Layer::tree(tree).unwrap().with_history("model")
    }

    #[tokio::test]
    async fn what_shrinks_is_compressed_once_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(&folder.path().join("cache"));
        let plain = layer(folder.path(), &vec![0; 1_000_000]);
        let first = pack(&cache, &plain).await.unwrap();
        assert_eq!(first.layer.media_type(), MediaType::ImageLayerZstd);
        let again = pack(&cache, &plain).await.unwrap();
        assert_eq!(again.layer.descriptor(), first.layer.descriptor());
        assert_eq!(again.layer.history(), "model");
        let entry = again.folder.unwrap();
        let digest = first.layer.descriptor().unwrap();
        std::fs::write(entry.join(digest.digest().digest()), "cut").unwrap();
        let mended = pack(&cache, &plain).await.unwrap();
        assert_eq!(mended.layer.descriptor(), first.layer.descriptor());
        cache.keep_only(std::slice::from_ref(&entry));
        assert!(entry.is_dir());
        cache.keep_only(&[]);
        assert!(!entry.is_dir());
    }

    #[tokio::test]
    async fn what_is_small_or_does_not_shrink_stays_plain() {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(&folder.path().join("cache"));
        let mut state = 1_u64;
        let noise = std::iter::repeat_with(|| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state.to_le_bytes()[7]
        });
        let noise: Vec<u8> = noise.take(600_000).collect();
        for content in [&noise[..], b"{}"] {
            let packed = pack(&cache, &layer(folder.path(), content)).await.unwrap();
            assert_eq!(packed.layer.media_type(), MediaType::ImageLayer);
            assert!(packed.layer.descriptor().is_some() && packed.folder.is_none());
        }
    }
}
