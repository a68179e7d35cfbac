//! Blobs by digest, wherever they lie: in files of their own or inside an archive.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use oci_spec::image::{Descriptor, Digest};
use serde_json::Value;

use crate::error::{Error, ErrorKind, Result};
use crate::hash::{digest, verify};
use crate::image::Image;
use crate::layout::index::IndexFile;
use crate::manifest::{MAX_JSON, Manifest, is_index};
use crate::platform::Platform;
use crate::stream::{ByteStream, collect, failed, of_file};

const STAGE: &str = "read image";

/// How deep an index may lie in another. One level is common (an attested image in the index of
/// a layout), more than two are not.
const MAX_DEPTH: usize = 2;

/// The most entries of nested indexes that are looked at for one image.
const MAX_ENTRIES: usize = 1000;

/// Where a blob lies: a range of a file, all of its rest if the length is not known ahead.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) path: PathBuf,
    pub(crate) offset: u64,
    pub(crate) len: Option<u64>,
}

/// Finds the place of a blob.
type Locate = Arc<dyn Fn(&Digest) -> Result<Place> + Send + Sync>;

/// Blobs by digest.
#[derive(Clone)]
pub(crate) struct Store {
    locate: Locate,
}

/// An image that an index offers.
struct Offer {
    platform: Option<Platform>,
    descriptor: Descriptor,
}

impl Store {
    pub(crate) fn new(locate: impl Fn(&Digest) -> Result<Place> + Send + Sync + 'static) -> Self {
        Self {
            locate: Arc::new(locate),
        }
    }

    /// The stored bytes of a blob from offset `from` on, at most as many as its descriptor says.
    pub(crate) fn open(&self, descriptor: &Descriptor, from: u64) -> ByteStream {
        match (self.locate)(descriptor.digest()) {
            Ok(place) => {
                let stored = place.len.unwrap_or(u64::MAX).min(descriptor.size());
                of_file(
                    place.path,
                    place.offset.saturating_add(from),
                    stored.saturating_sub(from),
                )
            }
            Err(error) => failed(error),
        }
    }

    /// How many bytes are stored of a blob.
    pub(crate) async fn stored_len(&self, descriptor: &Descriptor) -> Result<u64> {
        let place = (self.locate)(descriptor.digest())?;
        if let Some(len) = place.len {
            return Ok(len);
        }
        let read = tokio::fs::metadata(&place.path).await;
        let meta = read.map_err(|e| Error::io(STAGE, &place.path, "the blob is missing", e))?;
        Ok(meta.len())
    }

    /// A small blob, checked against its descriptor.
    pub(crate) async fn json(&self, descriptor: &Descriptor) -> Result<Bytes> {
        let object = descriptor.digest().to_string();
        if descriptor.size() > MAX_JSON {
            let detail = "it is larger than 4 MiB";
            return Err(Error::new(ErrorKind::Invalid, STAGE, object, detail));
        }
        let place = (self.locate)(descriptor.digest())?;
        let len = place.len.unwrap_or(MAX_JSON + 1).min(MAX_JSON + 1);
        let bytes = collect(of_file(place.path, place.offset, len), MAX_JSON, &object).await?;
        let stated = (descriptor.digest(), descriptor.size());
        verify(&object, stated, (&digest(&bytes), bytes.len() as u64))?;
        Ok(bytes)
    }

    /// The image of a manifest.
    pub(crate) async fn image(&self, descriptor: &Descriptor) -> Result<Image> {
        let manifest = self.json(descriptor).await?;
        let parsed = Manifest::parse(&manifest)?;
        let config = self.json(&parsed.config).await?;
        for layer in &parsed.layers {
            (self.locate)(layer.digest())?;
        }
        let store = self.clone();
        Image::from_parts(&manifest, &config, move |descriptor, from| {
            store.open(descriptor, from)
        })
    }

    /// The descriptor that an index has for `reference`: one of its own, or, for a digest, one
    /// of the images of the indexes in it.
    pub(crate) async fn resolve(&self, index: &IndexFile, reference: &str) -> Result<Descriptor> {
        let missing = match index.find(reference) {
            Ok(found) => return Ok(found),
            Err(missing) => missing,
        };
        if reference.parse::<Digest>().is_err() {
            return Err(missing);
        }
        let nested = index
            .descriptors()
            .filter(|d| is_index(d.media_type().as_ref()));
        for top in nested.take(MAX_ENTRIES) {
            // An index that cannot be read does not have what is looked for.
            let offers = self.offers(&top).await.unwrap_or_default();
            let mut descriptors = offers.into_iter().map(|offer| offer.descriptor);
            if let Some(found) = descriptors.find(|d| d.digest().as_ref() == reference) {
                return Ok(found);
            }
        }
        Err(missing)
    }

    /// The image that `top` names: of a manifest, that one; of an index, the best for `wanted`,
    /// or its only one.
    pub(crate) async fn choose(
        &self,
        top: &Descriptor,
        wanted: Option<&Platform>,
    ) -> Result<Image> {
        if !is_index(top.media_type().as_ref()) {
            let image = self.image(top).await?;
            return match (wanted, image.platform()) {
                (Some(wanted), Some(found)) if !wanted.runs(&found) => {
                    Err(none_fits(top, wanted, &[found.to_string()]))
                }
                _ => Ok(image),
            };
        }
        let offers = self.offers(top).await?;
        let Some(wanted) = wanted else {
            return match &offers[..] {
                [only] => self.image(&only.descriptor).await,
                _ => Err(ambiguous(top, &offers)),
            };
        };
        let fitting = offers
            .iter()
            .filter_map(|offer| Some((wanted.distance(offer.platform.as_ref()?)?, offer)))
            .min_by_key(|(distance, _)| *distance);
        if let Some((_, offer)) = fitting {
            return self.image(&offer.descriptor).await;
        }
        // Where the index does not say it, the config does.
        for offer in offers.iter().filter(|offer| offer.platform.is_none()) {
            let image = self.image(&offer.descriptor).await?;
            if image.platform().is_some_and(|found| wanted.runs(&found)) {
                return Ok(image);
            }
        }
        Err(none_fits(top, wanted, &names(&offers)))
    }

    /// The images of an index and of the indexes in it, in order.
    async fn offers(&self, top: &Descriptor) -> Result<Vec<Offer>> {
        let (mut offers, mut level) = (Vec::new(), vec![top.clone()]);
        let mut seen = 0;
        for _ in 0..MAX_DEPTH {
            let mut deeper = Vec::new();
            for index in level {
                let entries = entries_of(&self.json(&index).await?, &index)?;
                seen += entries.len();
                if seen > MAX_ENTRIES {
                    return Err(refused(top, "the index has more than 1000 entries"));
                }
                for entry in entries.iter().filter(|entry| is_runnable(entry)) {
                    let read: Result<Descriptor, _> = serde_json::from_value(entry.clone());
                    let descriptor = read.map_err(|e| {
                        refused(&index, "an entry of it is no descriptor").with_source(e)
                    })?;
                    if is_index(descriptor.media_type().as_ref()) {
                        deeper.push(descriptor);
                    } else {
                        let platform = entry.get("platform").and_then(Platform::from_json);
                        offers.push(Offer {
                            platform,
                            descriptor,
                        });
                    }
                }
            }
            level = deeper;
        }
        if level.is_empty() {
            Ok(offers)
        } else {
            Err(refused(top, "indexes lie more than two deep in each other"))
        }
    }
}

/// The entries of an index.
fn entries_of(bytes: &[u8], descriptor: &Descriptor) -> Result<Vec<Value>> {
    let json: Value = serde_json::from_slice(bytes)
        .map_err(|e| refused(descriptor, "the index is not JSON").with_source(e))?;
    let entries = json.get("manifests").and_then(Value::as_array);
    entries
        .cloned()
        .ok_or_else(|| refused(descriptor, "it is not an index"))
}

/// Whether an entry of an index is an image to run: attestations state the platform
/// `unknown/unknown`, and artifacts their type.
fn is_runnable(entry: &Value) -> bool {
    let platform = entry.get("platform");
    let says = |name: &str| platform.and_then(|platform| platform.get(name)?.as_str());
    let annotations = entry.get("annotations");
    let is_attestation = says("os") == Some("unknown")
        || annotations.is_some_and(|all| all.get("vnd.docker.reference.type").is_some());
    !is_attestation && entry.get("artifactType").is_none()
}

fn names(offers: &[Offer]) -> Vec<String> {
    let name = |offer: &Offer| offer.platform.as_ref().map(ToString::to_string);
    offers.iter().filter_map(name).collect()
}

fn refused(descriptor: &Descriptor, why: &str) -> Error {
    let object = descriptor.digest().to_string();
    Error::new(ErrorKind::Unsupported, STAGE, object, why)
        .with_hint("choose an image of it by its digest")
}

fn ambiguous(top: &Descriptor, offers: &[Offer]) -> Error {
    let detail = "it is an index of several images, and no platform is given";
    refused(top, detail).with_hint(format!("name one of {}", names(offers).join(", ")))
}

fn none_fits(top: &Descriptor, wanted: &Platform, found: &[String]) -> Error {
    let object = top.digest().to_string();
    let detail = format!("it has no image for {wanted}");
    Error::new(ErrorKind::NotFound, STAGE, object, detail)
        .with_hint(format!("it has {}", found.join(", ")))
}
