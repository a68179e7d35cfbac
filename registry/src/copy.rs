//! Copying images between repositories, byte for byte.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use oci_spec::image::{Descriptor, Digest};
use serde::Deserialize;

use crate::blob::{Blob, Event, Progress};
use crate::error::{Error, ErrorKind, Result};
use crate::manifest;
use crate::pinned::PinnedReference;
use crate::referrers;
use crate::repository::Repository;
use crate::upload;

const STAGE: &str = "copy image";
/// Indexes within indexes, and referrers of referrers.
const DEPTH_MAX: usize = 8;
const MANIFESTS_MAX: usize = 10_000;

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Image {
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

/// # Copying
impl Repository {
    /// Copies an image, an index with all its images, or an artifact from `source`: a tag or a
    /// digest there. Manifests keep their bytes and so their digests; no tag is set here.
    ///
    /// A manifest that is here already costs one HEAD; a blob that is here costs one HEAD;
    /// one that another repository of this registry has is mounted; the rest is streamed through
    /// without touching a disk. What an index names goes first. Layers that may not be
    /// distributed (image-spec, non-distributable layers) stay where their URLs say.
    ///
    /// # Errors
    ///
    /// As for [`manifest`](Self::manifest) and [`push_blob`](Self::push_blob);
    /// [`ErrorKind::Unsupported`] for manifests of unknown kinds or nested too deeply.
    pub async fn copy_from(
        &self,
        source: &Self,
        reference: &str,
        progress: Progress<'_>,
    ) -> Result<PinnedReference> {
        self.copy(source, reference, false, progress).await
    }

    /// As [`copy_from`](Self::copy_from), with everything that refers to the manifests copied,
    /// such as signatures, and what refers to those.
    ///
    /// # Errors
    ///
    /// As for [`copy_from`](Self::copy_from) and [`referrers`](Self::referrers).
    pub async fn copy_with_referrers_from(
        &self,
        source: &Self,
        reference: &str,
        progress: Progress<'_>,
    ) -> Result<PinnedReference> {
        self.copy(source, reference, true, progress).await
    }

    async fn copy(
        &self,
        source: &Self,
        reference: &str,
        referrers: bool,
        progress: Progress<'_>,
    ) -> Result<PinnedReference> {
        let (bytes, descriptor) = source.manifest(reference).await?;
        let mut copy = Copy {
            source,
            target: self,
            referrers,
            progress,
            seen: HashSet::new(),
            blobs: AtomicUsize::new(0),
        };
        copy.manifest(bytes, &descriptor, 0).await?;
        Ok(self.pin(descriptor.digest().clone()))
    }
}

struct Copy<'a> {
    source: &'a Repository,
    target: &'a Repository,
    referrers: bool,
    progress: Progress<'a>,
    seen: HashSet<Digest>,
    blobs: AtomicUsize,
}

impl Copy<'_> {
    /// Copies what a manifest names, the manifest, then what refers to it.
    fn manifest<'s>(
        &'s mut self,
        bytes: Bytes,
        descriptor: &'s Descriptor,
        depth: usize,
    ) -> BoxFuture<'s, Result<()>> {
        async move {
            let digest = descriptor.digest();
            if !self.seen.insert(digest.clone()) {
                return Ok(());
            }
            if depth > DEPTH_MAX || self.seen.len() > MANIFESTS_MAX {
                return Err(self.error(ErrorKind::Unsupported, digest, "is nested too deeply"));
            }
            let target = self.target;
            let held = target
                .head_manifest(digest.as_ref(), &target.scope(true))
                .await?;
            // One with a subject is sent again, since only the answer tells who lists it.
            if held.as_ref() == Some(digest) && !referrers::has_subject(&bytes) {
                let digest = digest.clone();
                (self.progress)(Event::Manifest {
                    digest,
                    sent: false,
                });
            } else {
                self.parts(&bytes, descriptor, depth).await?;
                let sent = target.put_referring(&bytes, descriptor).await?;
                let digest = digest.clone();
                (self.progress)(Event::Manifest { digest, sent });
            }
            if self.referrers {
                for entry in self.source.referrers(digest, None).await? {
                    self.child(&entry, depth + 1).await?;
                }
            }
            Ok(())
        }
        .boxed()
    }

    async fn parts(&mut self, bytes: &[u8], descriptor: &Descriptor, depth: usize) -> Result<()> {
        let media_type = descriptor.media_type();
        let malformed = |error: serde_json::Error| {
            self.error(ErrorKind::Protocol, descriptor.digest(), "is malformed")
                .with_source(error)
        };
        if manifest::is_index(media_type) {
            let index: Index = serde_json::from_slice(bytes).map_err(malformed)?;
            for entry in index.manifests {
                self.child(&entry, depth + 1).await?;
            }
            return Ok(());
        }
        if !manifest::is_image(media_type) {
            let detail = format!("its type {media_type} is not one that can be copied");
            return Err(self.error(ErrorKind::Unsupported, descriptor.digest(), &detail));
        }
        let image: Image = serde_json::from_slice(bytes).map_err(malformed)?;
        let mut seen = HashSet::new();
        let named = image.layers.into_iter().chain(image.config);
        let blobs: Vec<Descriptor> = named
            .filter(|part| is_distributable(part) && seen.insert(part.digest().clone()))
            .collect();
        self.blobs(&blobs).await
    }

    /// Copies the manifest that an index or a list of referrers names.
    async fn child(&mut self, entry: &Descriptor, depth: usize) -> Result<()> {
        let (bytes, found) = self.source.manifest(entry.digest().as_ref()).await?;
        if found.size() != entry.size() {
            let detail = format!("has {} bytes, {} were said", found.size(), entry.size());
            return Err(self.error(ErrorKind::SizeMismatch, entry.digest(), &detail));
        }
        self.manifest(bytes, &found, depth).await
    }

    async fn blobs(&self, blobs: &[Descriptor]) -> Result<()> {
        let blobs: Vec<Blob> = blobs.iter().map(|part| self.blob(part)).collect();
        let first = self.blobs.fetch_add(blobs.len(), Ordering::Relaxed);
        upload::push_all(&self.target.transport, &blobs, first, self.progress).await?;
        Ok(())
    }

    fn blob(&self, part: &Descriptor) -> Blob {
        let (source, descriptor) = (self.source.clone(), part.clone());
        let blob = Blob::new(part.media_type().to_string(), part.size(), move |from| {
            source.blob(&descriptor, from)
        })
        .with_digest(part.digest().clone());
        let (here, there) = (
            &self.target.transport.endpoint,
            &self.source.transport.endpoint,
        );
        if here.is_beside(there) && here.repository() != there.repository() {
            blob.with_mount_from(there.repository())
        } else {
            blob
        }
    }

    fn error(&self, kind: ErrorKind, digest: &Digest, detail: &str) -> Error {
        Error::new(kind, STAGE, self.source.object(digest.as_ref()), detail)
    }
}

/// Whether a registry may hold the blob (image-spec, non-distributable layers; docker calls them
/// foreign).
fn is_distributable(descriptor: &Descriptor) -> bool {
    let media_type = descriptor.media_type().to_string();
    !media_type.contains(".nondistributable.") && !media_type.contains(".foreign.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::sha256_of;

    #[test]
    fn foreign_layers_are_known_by_their_type() {
        let of = |text: &str| is_distributable(&Descriptor::new(text.into(), 1, sha256_of(b"")));
        assert!(of("application/vnd.oci.image.layer.v1.tar+gzip"));
        assert!(of("application/vnd.docker.image.rootfs.diff.tar.gzip"));
        assert!(!of(
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        ));
        assert!(!of(
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
        ));
    }
}
