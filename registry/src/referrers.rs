//! What refers to a manifest: listed by the registry, or kept by clients under a tag
//! (distribution-spec, listing referrers and referrers tag schema).

use std::collections::HashSet;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use oci_spec::image::{Descriptor, Digest, MediaType};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::artifact::{EMPTY_TYPE, plain};
use crate::error::{Error, ErrorKind, Result};
use crate::json;
use crate::manifest;
use crate::pages::Pages;
use crate::repository::{Put, Repository, is_conflict};

const LIST: &str = "list referrers";
const UPDATE: &str = "update referrers tag";
/// Tries to get an entry into a list that others write too.
const UPDATES_MAX: u32 = 10;

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

/// The parts of a manifest that say what it is and refers to.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    artifact_type: Option<String>,
    config: Option<Config>,
    subject: Option<Descriptor>,
    annotations: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    media_type: String,
}

impl Head {
    fn kind(&self) -> Option<&str> {
        let config = self.config.as_ref().map(|config| &*config.media_type);
        self.artifact_type.as_deref().or(config)
    }
}

/// Whether a manifest refers to another.
pub(crate) fn has_subject(manifest: &[u8]) -> bool {
    serde_json::from_slice(manifest).is_ok_and(|head: Head| head.subject.is_some())
}

/// # Referrers
impl Repository {
    /// The manifests that refer to `subject`, all of them or those of `artifact_type`, in the
    /// registry's order.
    ///
    /// Asks the registry, page by page; only where that answers 404 the list that clients keep
    /// under the tag `sha256-…` is read. Every other refusal is an error and never "none", since
    /// somebody may be looking for signatures.
    ///
    /// # Errors
    ///
    /// What the registry says, [`ErrorKind::Protocol`] when its list cannot be read.
    pub async fn referrers(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        let (mut listed, filtered) = match self.listed(subject, artifact_type).await? {
            Some(found) => found,
            None => (self.tagged(subject).await?, false),
        };
        let mut seen = HashSet::new();
        listed.retain(|entry| seen.insert(entry.digest().clone()));
        match artifact_type.filter(|_| !filtered) {
            Some(wanted) => self.filter(listed, wanted).await,
            None => Ok(listed),
        }
    }

    /// The registry's own list and whether it is filtered; `None` where it keeps none.
    async fn listed(
        &self,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Option<(Vec<Descriptor>, bool)>> {
        let mut url = self.transport.endpoint.referrers(subject);
        if let Some(wanted) = artifact_type {
            url.query_pairs_mut().append_pair("artifactType", wanted);
        }
        let scope = self.scope(false);
        let mut pages = Pages::new(&self.transport, LIST, &scope, url);
        let (mut found, mut filtered, mut first) = (Vec::new(), true, true);
        loop {
            let page = match pages.next().await {
                Ok(Some(page)) => page,
                Ok(None) => return Ok(Some((found, filtered))),
                Err(error) if first && error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
            first = false;
            let applied = page.headers.get("oci-filters-applied");
            filtered &= applied
                .and_then(|value| value.to_str().ok())
                .is_some_and(|text| text.split(',').any(|part| part.trim() == "artifactType"));
            let index: Index = serde_json::from_slice(&page.body).map_err(|error| {
                pages
                    .error("the answer is not a list of referrers")
                    .with_source(error)
            })?;
            found.extend(index.manifests);
        }
    }

    /// The list under the tag; empty when there is no such tag.
    async fn tagged(&self, subject: &Digest) -> Result<Vec<Descriptor>> {
        let tag = tag_of(subject);
        let bytes = match self.manifest(&tag).await {
            Ok((bytes, descriptor)) if manifest::is_index(descriptor.media_type()) => bytes,
            Ok(_) => return Err(self.misused(LIST, &tag)),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let index: Index = serde_json::from_slice(&bytes)
            .map_err(|error| self.misused(LIST, &tag).with_source(error))?;
        Ok(index.manifests)
    }

    /// Those of `wanted` type. An entry is looked up when it does not say its type, as those of
    /// Azure Container Registry, or gives that of an empty config, as those of
    /// go-containerregistry.
    async fn filter(&self, listed: Vec<Descriptor>, wanted: &str) -> Result<Vec<Descriptor>> {
        let mut kept = Vec::new();
        for mut entry in listed {
            let said = entry.artifact_type().as_ref().map(MediaType::to_string);
            let kind = if let Some(said) = said.filter(|said| said != EMPTY_TYPE) {
                Some(said)
            } else {
                let (bytes, _) = self.manifest(entry.digest().as_ref()).await?;
                let head = self.head(&bytes, entry.digest())?;
                head.kind().map(str::to_owned)
            };
            if kind.as_deref() == Some(wanted) {
                entry.set_artifact_type(Some(wanted.into()));
                kept.push(entry);
            }
        }
        Ok(kept)
    }

    fn head(&self, bytes: &[u8], digest: &Digest) -> Result<Head> {
        serde_json::from_slice(bytes).map_err(|error| {
            let object = self.object(digest.as_ref());
            Error::new(ErrorKind::Protocol, LIST, object, "is not a manifest").with_source(error)
        })
    }

    fn misused(&self, stage: &'static str, tag: &str) -> Error {
        let detail = "is not a list of referrers";
        Error::new(ErrorKind::Protocol, stage, self.object(tag), detail)
            .with_hint("this tag is kept for lists of referrers; remove what is under it")
    }

    /// Stores a manifest by its digest; if it has a subject, sees to it that it is listed.
    /// Says whether it had to be sent.
    pub(crate) async fn put_referring(
        &self,
        bytes: &Bytes,
        descriptor: &Descriptor,
    ) -> Result<bool> {
        let digest = descriptor.digest();
        let head = self.head(bytes, digest)?;
        let media_type = descriptor.media_type().to_string();
        let Some(subject) = head.subject.as_ref().map(Descriptor::digest) else {
            return self
                .put_manifest(digest.as_ref(), digest, &media_type, bytes)
                .await;
        };
        // It is sent even where it is there, since only the answer tells who keeps the list.
        let put = Put {
            stage: UPDATE,
            place: digest.as_ref(),
            media_type: &media_type,
            headers: HeaderMap::new(),
        };
        let response = self.put(put, bytes).await?;
        if is_conflict(response.status()) {
            let object = self.object(digest.as_ref());
            return Err(self.transport.unexpected(response, UPDATE, object).await);
        }
        let kept_by = response.headers().get("oci-subject");
        if kept_by.is_none_or(|value| value.as_bytes() != subject.as_ref().as_bytes()) {
            self.add_to_tag(subject, &entry(descriptor, &head)).await?;
        }
        Ok(true)
    }

    /// Adds `entry` to the list under the tag of `subject`, and keeps what others put there.
    ///
    /// Few registries make such a write conditional (`If-Match`), so the list is read again and
    /// amended again until the entry is in it.
    async fn add_to_tag(&self, subject: &Digest, entry: &Value) -> Result<()> {
        // Clones of one repository take turns; against others there is only reading again.
        let _turn = self.listing.lock().await;
        let tag = tag_of(subject);
        let media_type = MediaType::ImageIndex.to_string();
        for attempt in 0..UPDATES_MAX {
            if attempt > 0 {
                tokio::time::sleep(self.transport.net.options.retry_base).await;
            }
            let (mut index, etag) = self.read_tag(&tag).await?;
            if !amend(&mut index, entry).ok_or_else(|| self.misused(UPDATE, &tag))? {
                return Ok(());
            }
            let bytes = json::sorted(index);
            if bytes.len() > manifest::SIZE_MAX {
                let detail = "the list of referrers would be larger than 4 MiB";
                let object = self.object(&tag);
                return Err(Error::new(ErrorKind::Unsupported, UPDATE, object, detail)
                    .with_hint("delete old artifacts that refer to this image"));
            }
            let mut headers = HeaderMap::new();
            headers.extend(etag.map(|etag| (header::IF_MATCH, etag)));
            let put = Put {
                stage: UPDATE,
                place: &tag,
                media_type: &media_type,
                headers,
            };
            let response = self.put(put, &bytes).await?;
            let conflict = is_conflict(response.status());
            if !conflict && amend(&mut self.read_tag(&tag).await?.0, entry) == Some(false) {
                return Ok(());
            }
        }
        let detail = "others kept overwriting the list of referrers";
        Err(Error::new(
            ErrorKind::Server,
            UPDATE,
            self.object(&tag),
            detail,
        ))
    }

    /// The list under the tag as it is, or an empty one, and its ETag.
    async fn read_tag(&self, tag: &str) -> Result<(Value, Option<HeaderValue>)> {
        match self.fetch(tag).await {
            Ok((bytes, descriptor, headers)) => {
                let index = serde_json::from_slice(&bytes).ok();
                let index = index.filter(|_| manifest::is_index(descriptor.media_type()));
                let etag = headers.get(header::ETAG).cloned();
                Ok((index.ok_or_else(|| self.misused(UPDATE, tag))?, etag))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let media_type = MediaType::ImageIndex.to_string();
                let empty = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": []});
                Ok((empty, None))
            }
            Err(error) => Err(error),
        }
    }
}

/// Adds `entry` unless it is there; says whether it was added, or `None` if this is no list.
fn amend(index: &mut Value, entry: &Value) -> Option<bool> {
    let manifests = index.get_mut("manifests")?.as_array_mut()?;
    let digest = &entry["digest"];
    if manifests.iter().any(|other| &other["digest"] == digest) {
        return Some(false);
    }
    manifests.push(entry.clone());
    Some(true)
}

/// The entry of a list of referrers (distribution-spec, listing referrers).
fn entry(descriptor: &Descriptor, head: &Head) -> Value {
    let mut entry = plain(descriptor);
    if let Some(fields) = entry.as_object_mut() {
        if let Some(kind) = head.kind() {
            fields.insert("artifactType".to_owned(), json!(kind));
        }
        if let Some(annotations) = head.annotations.as_ref().filter(|value| value.is_object()) {
            fields.insert("annotations".to_owned(), annotations.clone());
        }
    }
    entry
}

/// `sha256-…` (distribution-spec, referrers tag schema).
fn tag_of(subject: &Digest) -> String {
    let text: &str = subject.as_ref();
    let (algorithm, encoded) = text.split_once(':').unwrap_or((text, ""));
    let cut = |text: &str, limit: usize| text.chars().take(limit).collect::<String>();
    format!("{}-{}", cut(algorithm, 32), cut(encoded, 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::sha256_of;

    #[test]
    fn the_tag_is_made_of_the_digest() {
        let tag = tag_of(&sha256_of(b""));
        assert!(tag.starts_with("sha256-e3b0c442"), "{tag}");
        assert_eq!(tag.len(), 7 + 64);
        let long: Digest = format!("sha512:{}", "a".repeat(128)).parse().unwrap();
        assert_eq!(tag_of(&long).len(), 7 + 64);
    }

    #[test]
    fn what_others_wrote_is_kept() {
        let mut index = json!({
            "schemaVersion": 2,
            "manifests": [{"digest": "sha256:a", "x": 1}],
            "annotations": {"k": "v"},
        });
        let ours = json!({"digest": "sha256:b"});
        assert_eq!(amend(&mut index, &ours), Some(true));
        assert_eq!(amend(&mut index, &ours), Some(false));
        assert_eq!(index["manifests"][0], json!({"digest": "sha256:a", "x": 1}));
        assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
        assert_eq!(index["annotations"]["k"], "v");
        assert_eq!(amend(&mut json!({"manifests": {}}), &ours), None);
        assert_eq!(amend(&mut json!([]), &ours), None);
    }

    #[test]
    fn the_type_of_an_old_artifact_is_that_of_its_config() {
        let head: Head =
            serde_json::from_str(r#"{"config":{"mediaType":"a/b","size":1}}"#).unwrap();
        assert_eq!(head.kind(), Some("a/b"));
        let head: Head =
            serde_json::from_str(r#"{"artifactType":"c/d","config":{"mediaType":"a/b"}}"#).unwrap();
        assert_eq!(head.kind(), Some("c/d"));
    }
}
