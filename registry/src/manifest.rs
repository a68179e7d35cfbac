//! Manifests as bytes: the type they claim, the platform an index offers.

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use oci_spec::image::{Descriptor, MediaType, Platform};
use serde::Deserialize;

use crate::error::{Error, ErrorKind, Result};

/// The largest manifest handled, in bytes (distribution-spec, pushing manifests).
pub(crate) const SIZE_MAX: usize = 4 << 20;

/// The manifest types asked for: single images and indexes, of OCI and of docker.
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, \
     application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, \
     application/vnd.docker.distribution.manifest.list.v2+json";

/// A manifest to push, with its config: exactly the bytes that are digested.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The media type of the manifest.
    pub media_type: String,
    /// The manifest.
    pub bytes: Bytes,
    /// The config blob the manifest names.
    pub config: Bytes,
    /// The media type of the config.
    pub config_media_type: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    media_type: Option<String>,
}

/// The media type of a manifest: what its body claims, which the header must not contradict
/// (image-spec, `mediaType`; a body read as two types would have two meanings).
pub(crate) fn media_type(headers: &HeaderMap, body: &[u8], object: &str) -> Result<MediaType> {
    let bad = |detail: &str| Error::new(ErrorKind::Protocol, "pull manifest", object, detail);
    let head: Head = serde_json::from_slice(body).map_err(|_| bad("is not a JSON object"))?;
    let header = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .map(|text| text.split(';').next().unwrap_or(text).trim().to_owned())
        .filter(|text| text.starts_with("application/vnd."));
    match (head.media_type, header) {
        (Some(body), Some(header)) if body != header => Err(bad(
            "its body and the registry's header claim different media types",
        )),
        (Some(found), _) | (None, Some(found)) => Ok(MediaType::from(found.as_str())),
        (None, None) => Err(bad("has no media type")),
    }
}

/// Whether `media_type` is an index or a docker manifest list.
pub fn is_index(media_type: &MediaType) -> bool {
    matches!(
        media_type.to_string().as_str(),
        "application/vnd.oci.image.index.v1+json"
            | "application/vnd.docker.distribution.manifest.list.v2+json"
    )
}

/// Whether `media_type` is the manifest of one image, or of an artifact.
pub(crate) fn is_image(media_type: &MediaType) -> bool {
    matches!(
        media_type.to_string().as_str(),
        "application/vnd.oci.image.manifest.v1+json"
            | "application/vnd.docker.distribution.manifest.v2+json"
    )
}

/// Whether `text` has the form of a media type (RFC 6838 4.2).
pub(crate) fn is_media_type(text: &str) -> bool {
    let part = |part: &str| {
        let mut bytes = part.bytes();
        part.len() <= 127
            && bytes
                .next()
                .is_some_and(|byte| byte.is_ascii_alphanumeric())
            && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte))
    };
    text.split_once('/')
        .is_some_and(|(kind, subtype)| part(kind) && part(subtype))
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

/// Chooses the image for `platform` from the bytes of an index: the first entry with the same
/// operating system and architecture, and the same variant where `platform` names one.
/// Attestations, which indexes list as `unknown/unknown`, are never chosen.
///
/// # Errors
///
/// [`ErrorKind::Protocol`] for bytes that are not an index, [`ErrorKind::NotFound`] when the
/// index has no such image.
pub fn choose(index: &[u8], platform: &Platform) -> Result<Descriptor> {
    let wanted = format!("{}/{}", platform.os(), platform.architecture());
    let error = |kind, detail: &str| Error::new(kind, "choose platform", &wanted, detail);
    let index: Index = serde_json::from_slice(index).map_err(|source| {
        error(ErrorKind::Protocol, "the index is malformed").with_source(source)
    })?;
    let fits = |descriptor: &&Descriptor| {
        descriptor.platform().as_ref().is_some_and(|offered| {
            offered.os() == platform.os()
                && offered.architecture() == platform.architecture()
                && (platform.variant().is_none() || offered.variant() == platform.variant())
        })
    };
    index.manifests.iter().find(fits).cloned().ok_or_else(|| {
        let offers: Vec<String> = index
            .manifests
            .iter()
            .filter_map(|descriptor| descriptor.platform().as_ref())
            .map(|offered| format!("{}/{}", offered.os(), offered.architecture()))
            .take(20)
            .collect();
        error(ErrorKind::NotFound, "the index has no image for it")
            .with_hint(format!("it offers: {}", offers.join(", ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::image::{Arch, Os, PlatformBuilder};

    fn platform(arch: Arch) -> Platform {
        PlatformBuilder::default()
            .os(Os::Linux)
            .architecture(arch)
            .build()
            .unwrap()
    }

    fn index() -> Vec<u8> {
        let entry = |hex: &str, os: &str, arch: &str| {
            serde_json::json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": format!("sha256:{}", hex.repeat(64)), "size": 2,
                "platform": {"os": os, "architecture": arch},
            })
        };
        serde_json::to_vec(&serde_json::json!({
            "schemaVersion": 2,
            "manifests": [entry("a", "unknown", "unknown"), entry("b", "linux", "arm64"), entry("c", "linux", "amd64")],
        }))
        .unwrap()
    }

    #[test]
    fn the_platform_decides() {
        let found = choose(&index(), &platform(Arch::Amd64)).unwrap();
        assert!(found.digest().as_ref().ends_with("ccc"));
        let error = choose(&index(), &platform(Arch::s390x)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.hint().unwrap().contains("linux/arm64"));
        assert_eq!(
            choose(b"[]", &platform(Arch::Amd64)).unwrap_err().kind(),
            ErrorKind::Protocol
        );
    }

    #[test]
    fn media_types_have_two_parts() {
        assert!(is_media_type(
            "application/vnd.dev.sigstore.bundle.v0.3+json"
        ));
        for bad in ["", "a", "a/", "/b", "a/b/c", "a/b c", "a/b\n", "\u{e9}/b"] {
            assert!(!is_media_type(bad), "{bad:?}");
        }
    }

    #[test]
    fn contradicting_types_are_refused() {
        let mut headers = HeaderMap::new();
        let body = br#"{"mediaType":"application/vnd.oci.image.index.v1+json"}"#;
        assert!(is_index(&media_type(&headers, body, "r").unwrap()));
        headers.insert(
            CONTENT_TYPE,
            "application/vnd.oci.image.manifest.v1+json; q=1"
                .parse()
                .unwrap(),
        );
        assert!(media_type(&headers, body, "r").is_err());
        assert_eq!(
            media_type(&headers, b"{}", "r").unwrap(),
            MediaType::ImageManifest
        );
        assert!(media_type(&HeaderMap::new(), b"{}", "r").is_err());
    }
}
