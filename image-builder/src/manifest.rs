//! Reading manifests (image-spec, manifest.md), OCI's and Docker's.

use std::collections::BTreeMap;

use oci_spec::image::Descriptor;
use serde::Deserialize;

use crate::error::{Error, ErrorKind, Result};

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// The largest manifest or config read, as registries and clients commonly bound them.
pub(crate) const MAX_JSON: u64 = 4 * 1024 * 1024;

/// Whether a media type is that of an index, OCI's or Docker's.
pub(crate) fn is_index(media_type: &str) -> bool {
    [OCI_INDEX, DOCKER_INDEX].contains(&media_type)
}

/// What this crate needs of a manifest.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
    pub(crate) annotations: BTreeMap<String, String>,
    /// Whether every media type is OCI's, so that the bytes may be used as they are.
    pub(crate) is_oci: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u64,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    annotations: Option<BTreeMap<String, String>>,
}

impl Manifest {
    /// Reads and checks a manifest.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let error = |kind, detail: &str| Error::new(kind, "read image", "manifest", detail);
        let raw: Raw = serde_json::from_slice(bytes)
            .map_err(|e| error(ErrorKind::Invalid, "it is not a manifest").with_source(e))?;
        if raw.schema_version != 2 {
            return Err(error(ErrorKind::Unsupported, "its schema version is not 2")
                .with_hint("convert the image to OCI, or push it again with a current tool"));
        }
        let (Some(config), Some(layers)) = (raw.config, raw.layers) else {
            return Err(
                error(ErrorKind::Unsupported, "it has no config or no layers")
                    .with_hint("an index names several images: choose one by its digest"),
            );
        };
        let media_type = raw.media_type.as_deref().unwrap_or(OCI_MANIFEST);
        let config_type = config.media_type().as_ref();
        let known = [OCI_MANIFEST, DOCKER_MANIFEST].contains(&media_type)
            && [OCI_CONFIG, DOCKER_CONFIG].contains(&config_type);
        if !known {
            let detail = format!("it is not an image but {media_type} with config {config_type}");
            return Err(error(ErrorKind::Unsupported, &detail));
        }
        let is_oci = media_type == OCI_MANIFEST
            && config_type == OCI_CONFIG
            && !layers
                .iter()
                .any(|layer| layer.media_type().as_ref().contains("docker"));
        Ok(Self {
            config,
            layers,
            annotations: raw.annotations.unwrap_or_default(),
            is_oci,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_image_is_named_as_such() {
        let index = br#"{"schemaVersion":2,"manifests":[]}"#;
        let old = br#"{"schemaVersion":1,"fsLayers":[]}"#;
        for bytes in [&index[..], &old[..]] {
            let error = Manifest::parse(bytes).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(error.hint().is_some());
        }
        assert_eq!(
            Manifest::parse(b"x").unwrap_err().kind(),
            ErrorKind::Invalid
        );
    }
}
