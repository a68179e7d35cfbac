//! Artifacts: anything stored beside images, such as a signature or a bill of materials that
//! refers to one (image-spec, artifacts; distribution-spec, pushing manifests with subject).

use std::collections::BTreeMap;

use bytes::Bytes;
use oci_spec::image::{Descriptor, MediaType};
use serde_json::{Map, Value, json};

use crate::blob::{Blob, Event, Progress, sha256_of};
use crate::error::{Error, ErrorKind, Result};
use crate::json;
use crate::manifest;
use crate::pinned::PinnedReference;
use crate::repository::Repository;
use crate::upload;

pub(crate) const STAGE: &str = "push artifact";
pub(crate) const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
const EMPTY: &[u8] = b"{}";

/// An artifact to push: a type, blobs, annotations, and what it refers to.
///
/// Its manifest is sorted JSON without a date, so the same artifact has the same digest.
#[derive(Clone, Debug)]
pub struct Artifact {
    media_type: String,
    blobs: Vec<Blob>,
    annotations: BTreeMap<String, String>,
    subject: Option<PinnedReference>,
}

impl Artifact {
    /// An artifact of `artifact_type`, a media type such as
    /// `application/vnd.dev.sigstore.bundle.v0.3+json`.
    pub fn new(artifact_type: impl Into<String>) -> Self {
        Self {
            media_type: artifact_type.into(),
            blobs: Vec::new(),
            annotations: BTreeMap::new(),
            subject: None,
        }
    }

    /// Adds a blob; they keep their order. An artifact without blobs gets the empty one.
    #[must_use]
    pub fn with_blob(mut self, blob: Blob) -> Self {
        self.blobs.push(blob);
        self
    }

    /// Adds an annotation to the manifest; it is shown in the list of referrers too.
    #[must_use]
    pub fn with_annotation(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.annotations.insert(key.into(), value.into());
        self
    }

    /// Names the manifest it refers to, in the repository it will be pushed to.
    #[must_use]
    pub fn with_subject(mut self, subject: PinnedReference) -> Self {
        self.subject = Some(subject);
        self
    }

    fn manifest(&self, config: &Descriptor, layers: Vec<Value>, subject: Option<Value>) -> Bytes {
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": MediaType::ImageManifest.to_string(),
            "artifactType": self.media_type,
            "config": plain(config),
            "layers": if layers.is_empty() { vec![plain(config)] } else { layers },
        });
        if let Some(fields) = manifest.as_object_mut() {
            fields.extend(subject.map(|subject| ("subject".to_owned(), subject)));
            if !self.annotations.is_empty() {
                fields.insert("annotations".to_owned(), json!(self.annotations));
            }
        }
        json::sorted(manifest)
    }
}

/// A descriptor of the three fields that every one has.
pub(crate) fn plain(descriptor: &Descriptor) -> Value {
    json!({
        "mediaType": descriptor.media_type().to_string(),
        "digest": descriptor.digest().to_string(),
        "size": descriptor.size(),
    })
}

/// A descriptor with its annotations.
fn annotated(descriptor: &Descriptor) -> Value {
    let mut value = plain(descriptor);
    if let (Some(fields), Some(annotations)) = (value.as_object_mut(), descriptor.annotations()) {
        let sorted: BTreeMap<_, _> = annotations.iter().collect();
        let sorted: Map<String, Value> = sorted
            .into_iter()
            .map(|(key, value)| (key.clone(), json!(value)))
            .collect();
        fields.insert("annotations".to_owned(), Value::Object(sorted));
    }
    value
}

/// # Artifacts
impl Repository {
    /// Pushes an artifact: its blobs, [`parallel_uploads`](crate::RegistryOptions) at a time, an
    /// empty config, and the manifest, by its digest. Where the registry does not keep lists of
    /// referrers itself, the one of the subject is kept under the tag `sha256-…`, which is read,
    /// amended, written and read again until it names this artifact.
    ///
    /// # Errors
    ///
    /// As for [`push_blob`](Self::push_blob); [`ErrorKind::Invalid`] for a bad artifact type or
    /// a subject of another repository, [`ErrorKind::NotFound`] when the subject is not there.
    pub async fn push_artifact(
        &self,
        artifact: &Artifact,
        progress: Progress<'_>,
    ) -> Result<PinnedReference> {
        self.check_artifact(artifact)?;
        let subject = match &artifact.subject {
            Some(subject) => Some(self.manifest(subject.digest().as_ref()).await?.1),
            None => None,
        };
        let layers = upload::push_all(&self.transport, &artifact.blobs, 0, progress).await?;
        let empty = Blob::bytes(EMPTY_TYPE, Bytes::from_static(EMPTY));
        let count = artifact.blobs.len();
        let config = upload::push(&self.transport, &empty, count, progress).await?;
        let layers = layers.iter().map(annotated).collect();
        let bytes = artifact.manifest(&config, layers, subject.as_ref().map(plain));
        let digest = sha256_of(&bytes);
        let descriptor =
            Descriptor::new(MediaType::ImageManifest, bytes.len() as u64, digest.clone());
        let sent = self.put_referring(&bytes, &descriptor).await?;
        progress(Event::Manifest {
            digest: digest.clone(),
            sent,
        });
        Ok(self.pin(digest))
    }

    fn check_artifact(&self, artifact: &Artifact) -> Result<()> {
        let invalid =
            |detail: String| Err(Error::new(ErrorKind::Invalid, STAGE, self.name(), detail));
        if !manifest::is_media_type(&artifact.media_type) {
            return invalid("the artifact type is not a media type".to_owned());
        }
        match &artifact.subject {
            Some(subject) if subject.name() != self.name() => {
                invalid(format!("the subject {subject} is in another repository"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_is_sorted_and_always_the_same() {
        let config = Blob::bytes(EMPTY_TYPE, Bytes::from_static(EMPTY));
        let config = config.descriptor(sha256_of(EMPTY));
        let artifact = Artifact::new("a/b")
            .with_annotation("z", "1")
            .with_annotation("a", "2");
        let mut layer = Descriptor::new("c/d".into(), 1, sha256_of(b"x"));
        let keys = ["k", "j", "i", "h"];
        layer.set_annotations(Some(keys.map(|key| (key.to_owned(), String::new())).into()));
        let bytes = artifact.manifest(&config, vec![annotated(&layer)], Some(plain(&layer)));
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        assert!(
            text.starts_with(r#"{"annotations":{"a":"2","z":"1"},"artifactType":"a/b","config":{"digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","mediaType":"application/vnd.oci.empty.v1+json","size":2},"layers":[{"annotations":{"h":"","i":"","j":"","k":""},"#),
            "{text}"
        );
        let alone = artifact.manifest(&config, Vec::new(), None);
        let value: Value = serde_json::from_slice(&alone).unwrap();
        assert_eq!(value["layers"], json!([plain(&config)]));
        assert_eq!(value.get("subject"), None);
    }
}
