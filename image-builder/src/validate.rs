//! Checking an image by recomputing everything that can be recomputed.

#[cfg(test)]
mod damage;
#[cfg(test)]
mod flips;
mod schema;
mod stored;
mod unique;

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use oci_spec::image::{Descriptor, Digest};

use crate::bridge::{self, StreamReader};
use crate::codec::Codec;
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::hash::Hasher;
use crate::image::Image;
use crate::layer::Layer;
use crate::tar_read::Reader;

pub(crate) use self::stored::store;

/// What validation found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// The layers that were read, from bottom to top.
    pub layers: Vec<LayerReport>,
    /// What is wrong; empty for a valid image.
    pub problems: Vec<Problem>,
}

/// What a layer really is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LayerReport {
    /// The digest of the stored bytes.
    pub digest: Digest,
    /// Their number.
    pub size: u64,
    /// The digest of the uncompressed archive.
    pub diff_id: Digest,
    /// The number of its bytes.
    pub uncompressed_size: u64,
    /// The number of its entries.
    pub entries: u64,
}

/// One thing that is wrong with an image.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// What is wrong, by meaning.
    pub kind: ProblemKind,
    /// The digest of the layer, manifest or index; else `index`, `manifest` or `config`.
    pub object: String,
    /// What was expected and found.
    pub detail: String,
}

/// What is wrong, by meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProblemKind {
    /// The stored bytes have another digest than their descriptor says.
    Digest,
    /// There are fewer or more stored bytes than the descriptor says.
    Size,
    /// The uncompressed archive has another digest than the config says.
    DiffId,
    /// The archive cannot be decompressed or read.
    Malformed,
    /// One path occurs twice in a layer.
    DuplicatePath,
    /// The history claims another number of layers than there are.
    History,
    /// An index, a manifest or a config breaks a rule of image-spec.
    Schema,
    /// An index states another platform than the image's config.
    Platform,
    /// A blob is not there.
    Missing,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_valid(&self) -> bool {
        self.problems.is_empty()
    }

    /// The report if nothing is wrong.
    ///
    /// # Errors
    /// The first problem: `DigestMismatch` for a wrong digest or size, else `Invalid`.
    pub fn into_result(self) -> Result<Self> {
        let Some(problem) = self.problems.first() else {
            return Ok(self);
        };
        let kind = match problem.kind {
            ProblemKind::Digest | ProblemKind::Size | ProblemKind::DiffId => {
                ErrorKind::DigestMismatch
            }
            ProblemKind::Missing => ErrorKind::NotFound,
            _ => ErrorKind::Invalid,
        };
        let object = problem.object.clone();
        Err(Error::new(
            kind,
            "validate image",
            object,
            problem.detail.clone(),
        ))
    }

    /// Takes the error of reading `object` for what is wrong with it, if it is damage.
    fn damage(&mut self, object: &str, error: Error) -> Result<()> {
        let kind = match error.kind() {
            ErrorKind::NotFound => ProblemKind::Missing,
            ErrorKind::DigestMismatch => ProblemKind::Digest,
            ErrorKind::Changed => ProblemKind::Size,
            ErrorKind::Invalid | ErrorKind::Unsupported => ProblemKind::Malformed,
            _ => return Err(error),
        };
        self.problem(kind, object, error.to_string());
        Ok(())
    }

    fn schema(&mut self, object: &str, found: Vec<String>) {
        for detail in found {
            self.problem(ProblemKind::Schema, object, detail);
        }
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.layers.extend(other.layers);
        self.problems.extend(other.problems);
    }

    fn problem(&mut self, kind: ProblemKind, object: impl fmt::Display, detail: String) {
        self.problems.push(Problem {
            kind,
            object: object.to_string(),
            detail,
        });
    }
}

/// Reads every layer of an image and compares what its manifest and config say about them:
/// digest, size, diff id, paths that occur twice, and the number of history entries. Manifest and
/// config are checked against the rules of image-spec.
///
/// That manifest and config fit together was checked when the image was opened.
///
/// # Errors
/// `Invalid` if a layer is not known yet, `Unsupported` for a layer of another kind than a file
/// system, and what the layers' sources report. Damage is no error but a [`Problem`].
pub async fn validate(image: &Image) -> Result<Report> {
    let sealed = image.seal()?;
    let mut report = Report::default();
    report.schema("manifest", schema::manifest(&sealed.manifest));
    report.schema("config", schema::config(&sealed.config));
    let config = Config::parse(&sealed.config, sealed.layers.len())?;
    let claimed = config.history_layers();
    if config.has_history() && claimed != sealed.layers.len() {
        let detail = format!(
            "its history has {claimed} layers of {}",
            sealed.layers.len()
        );
        report.problem(ProblemKind::History, "config", detail);
    }
    for layer in &sealed.layers {
        if let (Some(descriptor), Some(diff_id)) = (layer.descriptor(), layer.diff_id()) {
            check(layer, &descriptor, &diff_id, &mut report).await?;
        }
    }
    Ok(report)
}

async fn check(
    layer: &Layer,
    stated: &Descriptor,
    diff_id: &Digest,
    report: &mut Report,
) -> Result<()> {
    let codec = Codec::of(stated.media_type())?;
    let object = stated.digest();
    let read = bridge::with_reader(layer.open(0), object.as_ref(), move |reader| {
        read(codec, reader)
    });
    let found = match read.await {
        Ok(found) => found,
        // The stream around every layer notices when its length is not the stated one.
        Err(error) => return report.damage(object.as_ref(), error),
    };
    if found.layer.digest != *object {
        let detail = format!("the stored bytes have digest {}", found.layer.digest);
        report.problem(ProblemKind::Digest, object, detail);
    }
    if let Some(why) = found.malformed {
        report.problem(ProblemKind::Malformed, object, why);
    } else if found.layer.diff_id != *diff_id {
        let found = &found.layer.diff_id;
        let detail = format!("the config states diff id {diff_id}, found is {found}");
        report.problem(ProblemKind::DiffId, object, detail);
    }
    for path in found.duplicates {
        let detail = format!("`{path}` occurs twice");
        report.problem(ProblemKind::DuplicatePath, object, detail);
    }
    report.layers.push(found.layer);
    Ok(())
}

struct Found {
    layer: LayerReport,
    malformed: Option<String>,
    duplicates: Vec<String>,
}

/// The most duplicate paths reported of one layer.
const MAX_DUPLICATES: usize = 20;

/// The most paths of one layer that are remembered, so that a hostile one cannot fill the memory.
const MAX_PATHS: usize = 10_000_000;

fn read(codec: Codec, reader: StreamReader) -> Result<Found> {
    let stored = Hashed::new(reader);
    let mut diff = Hashed::new(codec.reader(stored.clone()));
    let mut archive = Reader::new(diff.clone());
    // A keyed hash stands for each path: two paths of one layer share one in a million layers of
    // a million files, and nobody can make them, since the key is drawn anew.
    let key = RandomState::new();
    let (mut paths, mut duplicates, mut entries) = (HashSet::new(), Vec::new(), 0);
    let mut walk = || -> io::Result<()> {
        while let Some(member) = archive.next()? {
            entries += 1;
            let path = member.path.trim_start_matches("./").trim_end_matches('/');
            if paths.len() == MAX_PATHS {
                return Err(io::Error::other("it has more than ten million paths"));
            }
            if !paths.insert(key.hash_one(path)) && duplicates.len() < MAX_DUPLICATES {
                duplicates.push(path.to_owned());
            }
        }
        Ok(())
    };
    let walked = walk().and_then(|()| diff.drain());
    stored.clone().drain().map_err(|e| {
        let detail = "cannot read the stored bytes";
        Error::new(ErrorKind::Io, "validate image", "layer", detail).with_source(e)
    })?;
    let ((digest, size), (diff_id, uncompressed_size)) = (stored.found(), diff.found());
    Ok(Found {
        layer: LayerReport {
            digest,
            size,
            diff_id,
            uncompressed_size,
            entries,
        },
        malformed: walked.err().map(|error| error.to_string()),
        duplicates,
    })
}

/// A reader that hashes what passes, shared so that it can be drained after a decoder gave up.
struct Hashed<R>(Arc<Mutex<(R, Hasher)>>);

impl<R> Clone for Hashed<R> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<R: Read> Hashed<R> {
    fn new(inner: R) -> Self {
        Self(Arc::new(Mutex::new((inner, Hasher::default()))))
    }

    fn drain(&mut self) -> io::Result<()> {
        io::copy(self, &mut io::sink()).map(|_| ())
    }

    fn found(&self) -> (Digest, u64) {
        let hasher = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .1
            .clone();
        let seen = hasher.seen();
        (hasher.finish(), seen)
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = shared.0.read(buffer)?;
        shared.1.update(&buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::digest;
    use crate::layout;
    use crate::platform::Platform;
    use crate::stream::{collect, of_bytes};
    use crate::tree::Tree;
    use bytes::Bytes;
    use oci_spec::image::MediaType;

    fn plain() -> Layer {
        let mut tree = Tree::new();
        tree.insert_bytes("a/b", 0o644, "content").unwrap();
        Layer::tree(tree).unwrap()
    }

    fn image(layer: Layer) -> Image {
        Image::scratch(&Platform::linux("amd64").unwrap()).with_layer(layer)
    }

    async fn bytes(layer: &Layer) -> Vec<u8> {
        collect(layer.open(0), 1 << 20, "x").await.unwrap().to_vec()
    }

    /// A layer that claims `digest` and `diff_id` for `bytes`.
    fn claim(bytes: Vec<u8>, len: u64, media_type: MediaType, ids: [Digest; 2]) -> Layer {
        let bytes = Bytes::from(bytes);
        let [stored, diff_id] = ids;
        let descriptor = Descriptor::new(media_type, len, stored);
        Layer::known(descriptor, diff_id, move |from| of_bytes(&bytes, from))
    }

    async fn kinds(layer: Layer) -> Vec<ProblemKind> {
        let report = validate(&image(layer)).await.unwrap();
        let is_valid = report.is_valid();
        let kinds: Vec<_> = report.problems.iter().map(|problem| problem.kind).collect();
        assert_eq!(report.into_result().is_ok(), is_valid);
        kinds
    }

    #[tokio::test]
    async fn good_images_are_valid_in_memory_and_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let gzip = plain().gzip(&dir.path().join("spool")).await.unwrap();
        let image = image(plain().measure().await.unwrap()).with_layer(gzip);
        let report = validate(&image).await.unwrap();
        assert!(report.is_valid(), "{:?}", report.problems);
        assert_eq!(report.layers[0].entries, 2);
        assert_eq!(report.layers[1].uncompressed_size, report.layers[0].size);
        let layout_dir = dir.path().join("layout");
        layout::write(&layout_dir, &image, "x", &|_| ())
            .await
            .unwrap();
        assert!(layout::validate(&layout_dir).await.unwrap().is_valid());
    }

    #[tokio::test]
    async fn each_lie_is_named() {
        let good = bytes(&plain()).await;
        let len = good.len() as u64;
        let (id, other) = (digest(&good), digest(b"other"));
        let tar = MediaType::ImageLayer;
        let cases = [
            (
                claim(good.clone(), len, tar.clone(), [other.clone(), id.clone()]),
                ProblemKind::Digest,
            ),
            (
                claim(good.clone(), len + 1, tar.clone(), [id.clone(), id.clone()]),
                ProblemKind::Size,
            ),
            (
                claim(good.clone(), len, tar.clone(), [id.clone(), other]),
                ProblemKind::DiffId,
            ),
            (
                claim(
                    good.clone(),
                    len,
                    MediaType::ImageLayerGzip,
                    [id.clone(), id.clone()],
                ),
                ProblemKind::Malformed,
            ),
        ];
        for (layer, kind) in cases {
            assert_eq!(kinds(layer).await, [kind]);
        }
        let mut twice = good[..good.len() - 1024].to_vec();
        twice.extend(&good);
        let (len, id) = (twice.len() as u64, digest(&twice));
        let duplicate = ProblemKind::DuplicatePath;
        let layer = claim(twice, len, tar, [id.clone(), id]);
        assert_eq!(kinds(layer).await, [duplicate, duplicate]);
    }
}
