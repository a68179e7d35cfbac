//! Archives of `docker save` without an OCI layout in them, and Docker's tags.

use std::collections::HashMap;
use std::str::FromStr;
use std::sync::Arc;

use futures::TryStreamExt;
use oci_spec::image::{Descriptor, Digest, MediaType};
use serde::Deserialize;
use serde_json::json;

use super::table::{Table, codec_of};
use super::{DOCKER, invalid};
use crate::config::{Config, canonical};
use crate::error::{Error, ErrorKind, Result};
use crate::hash::{Hasher, digest};
use crate::image::{Image, descriptor, to_json};
use crate::manifest::OCI_MANIFEST;
use crate::platform::Platform;
use crate::store::Place;
use crate::stream::{failed, of_file};

const STAGE: &str = "read archive";

/// An entry of `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Opens the image of this tag, or of this config digest, Docker's image id.
pub(super) async fn open(
    table: &Table,
    reference: &str,
    wanted: Option<&Platform>,
) -> Result<Image> {
    let saved = list(table).await?;
    let is_it = |saved: &&Saved| {
        let tags = saved.repo_tags.iter().flatten();
        tags.into_iter().any(|tag| tag == reference)
            || id(&saved.config).is_some_and(|id| reference == format!("sha256:{id}"))
    };
    let Some(found) = saved.iter().find(is_it) else {
        let tags: Vec<&str> = tags_of(&saved).collect();
        let detail = "no image has this tag";
        return Err(Error::new(ErrorKind::NotFound, STAGE, reference, detail)
            .with_hint(format!("the archive has {}", tags.join(", "))));
    };
    let image = read(table, found).await?;
    match (wanted, image.platform()) {
        (Some(wanted), Some(platform)) if !wanted.runs(&platform) => {
            let detail = format!("the image is for {platform}, not for {wanted}");
            Err(Error::new(ErrorKind::NotFound, STAGE, reference, detail))
        }
        _ => Ok(image),
    }
}

/// All images of the archive.
pub(super) async fn open_all(table: &Table) -> Result<Vec<Image>> {
    let mut images = Vec::new();
    for saved in list(table).await? {
        images.push(read(table, &saved).await?);
    }
    Ok(images)
}

/// The tags of the archive's images.
pub(super) async fn tags(table: &Table) -> Result<Vec<String>> {
    let saved = list(table).await?;
    Ok(tags_of(&saved).map(str::to_owned).collect())
}

fn tags_of(saved: &[Saved]) -> impl Iterator<Item = &str> {
    let tags = saved
        .iter()
        .flat_map(|saved| saved.repo_tags.iter().flatten());
    tags.map(String::as_str)
}

async fn list(table: &Table) -> Result<Vec<Saved>> {
    let bytes = table.small(DOCKER).await?;
    serde_json::from_slice(&bytes)
        .map_err(|e| invalid(table.object(), "its `manifest.json` is not Docker's").with_source(e))
}

/// The hex digest that the name of a config states: `HEX.json` or `blobs/sha256/HEX`.
fn id(config: &str) -> Option<&str> {
    let name = config.rsplit('/').next()?;
    let hex = name.strip_suffix(".json").unwrap_or(name);
    let is_hex = hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit());
    is_hex.then_some(hex)
}

/// Makes the manifest that the archive does not have, from the config and the layers.
async fn read(table: &Table, saved: &Saved) -> Result<Image> {
    let config = table.small(&saved.config).await?;
    let found = digest(&config);
    if id(&saved.config).is_some_and(|id| id != found.digest()) {
        let detail = format!("`{}` has the digest {found}", saved.config);
        return Err(Error::new(
            ErrorKind::DigestMismatch,
            STAGE,
            table.object(),
            detail,
        ));
    }
    let parsed = Config::parse(&config, saved.layers.len())?;
    let mut places = HashMap::new();
    let mut layers = Vec::with_capacity(saved.layers.len());
    for (name, diff_id) in saved.layers.iter().zip(parsed.diff_ids()) {
        let diff_id: Digest = diff_id.parse().map_err(|e| {
            invalid(table.object(), "a diff id of its config is no digest").with_source(e)
        })?;
        let place = table.find(name)?;
        let layer = describe(&place, diff_id).await?;
        layers.push(to_json(&layer)?);
        places.insert(layer.digest().clone(), place);
    }
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": to_json(&descriptor(MediaType::ImageConfig, &config))?,
        "layers": layers,
    });
    let places = Arc::new(places);
    Image::from_parts(
        &canonical(manifest),
        &config,
        move |layer, from| match places.get(layer.digest()) {
            Some(place) => {
                let left = layer.size().saturating_sub(from);
                of_file(place.path.clone(), place.offset.saturating_add(from), left)
            }
            None => failed(invalid(
                layer.digest().to_string(),
                "it is no layer of the archive",
            )),
        },
    )
}

/// The descriptor of a stored layer. That of an uncompressed one follows from its diff id; it is
/// checked when the layer is read.
async fn describe(place: &Place, diff_id: Digest) -> Result<Descriptor> {
    let len = place.len.unwrap_or_default();
    let object = diff_id.to_string();
    let bytes = |len| of_file(place.path.clone(), place.offset, len);
    let failed = |e| Error::from_stream(STAGE, object.clone(), e);
    let first: Vec<bytes::Bytes> = bytes(len.min(6)).try_collect().await.map_err(failed)?;
    let media_type = match codec_of(&first.concat()) {
        None => return Ok(Descriptor::new(MediaType::ImageLayer, len, diff_id)),
        Some("gzip") => MediaType::ImageLayerGzip,
        Some("zstd") => MediaType::ImageLayerZstd,
        Some(other) => {
            let detail = format!("the layer is compressed with {other}");
            return Err(Error::new(ErrorKind::Unsupported, STAGE, object, detail));
        }
    };
    let (mut hasher, mut rest) = (Hasher::default(), bytes(len));
    while let Some(chunk) = rest.try_next().await.map_err(failed)? {
        hasher.update(&chunk);
    }
    Ok(Descriptor::new(media_type, len, hasher.finish()))
}

/// A name that Docker takes, `[HOST[:PORT]/]PATH:TAG`.
#[derive(Debug)]
pub(super) struct Tag {
    text: String,
    name: usize,
}

impl Tag {
    /// The name as it was given.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The part after the last colon.
    pub(super) fn tag(&self) -> &str {
        &self.text[self.name + 1..]
    }

    /// The name with Docker's defaults written out, as containerd stores it.
    pub(super) fn full(&self) -> String {
        let (first, is_path) = match self.text[..self.name].split_once('/') {
            Some((first, _)) => (first, true),
            None => ("", false),
        };
        let is_host = first.contains(['.', ':']) || first == "localhost";
        match (is_host, is_path) {
            (true, _) => self.text.clone(),
            (false, true) => format!("docker.io/{}", self.text),
            (false, false) => format!("docker.io/library/{}", self.text),
        }
    }
}

impl FromStr for Tag {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = || {
            let detail = "it is not of the form name:tag";
            Error::new(ErrorKind::Invalid, "write archive", text, detail)
                .with_hint("write for example digits:1.4.2, the name in lower case")
        };
        let (name, tag) = text.rsplit_once(':').ok_or_else(refuse)?;
        let (host, path) = match name.split_once('/') {
            Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path),
            _ => ("localhost", name),
        };
        let is_host = |c: char| c.is_ascii_alphanumeric() || "-.:[]".contains(c);
        let is_lower = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let is_part = |part: &str| {
            part.starts_with(is_lower)
                && part.ends_with(is_lower)
                && part.chars().all(|c| is_lower(c) || "-._".contains(c))
        };
        let is_tag = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        let is_fine = host.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[')
            && host.chars().all(is_host)
            && path.split('/').all(is_part)
            && (1..=128).contains(&tag.len())
            && !tag.starts_with(['-', '.'])
            && tag.chars().all(is_tag);
        if !is_fine {
            return Err(refuse());
        }
        Ok(Self {
            text: text.to_owned(),
            name: name.len(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_told_from_other_names_and_written_out() {
        for (text, full) in [
            ("digits:1.4.2", "docker.io/library/digits:1.4.2"),
            ("team/digits:1", "docker.io/team/digits:1"),
            ("registry.invalid/digits:1", "registry.invalid/digits:1"),
            ("localhost:5000/a/b_c:x", "localhost:5000/a/b_c:x"),
        ] {
            let tag: Tag = text.parse().unwrap();
            assert_eq!(tag.full(), full);
            assert_eq!(tag.text(), text);
            assert!(text.ends_with(&format!(":{}", tag.tag())));
        }
        for text in [
            "",
            "a",
            ":1",
            "a:",
            "A:1",
            "a b:1",
            "a//b:1",
            "a:.x",
            "../a:1",
            "host.invalid:5000/a",
        ] {
            assert!(text.parse::<Tag>().is_err(), "{text}");
        }
    }
}
