//! The `index.json` of a layout (image-spec, image-layout.md, "index.json file").

use std::path::{Path, PathBuf};

use oci_spec::image::Descriptor;
use serde_json::{Value, json};

use super::blobs;
use crate::config::canonical;
use crate::error::{Error, ErrorKind, Result};
use crate::image::to_json;
use crate::manifest::MAX_JSON;
use crate::platform::Platform;

const STAGE: &str = "read layout";
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The index, as JSON that keeps what others put into it.
pub(super) struct Index {
    json: Value,
}

/// Refuses names that no tool could select.
pub(super) fn check_name(name: &str) -> Result<()> {
    let is_fine = |c: char| c.is_ascii_graphic();
    if name.is_empty() || !name.chars().all(is_fine) || name.starts_with("sha256:") {
        let detail = "it is not a reference name";
        return Err(Error::new(ErrorKind::Invalid, "write layout", name, detail)
            .with_hint("use letters, digits and -._:@/+, such as `1.4.2`"));
    }
    Ok(())
}

fn file(dir: &Path) -> PathBuf {
    dir.join("index.json")
}

impl Index {
    /// Reads the index; an empty one if there is none yet.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        match Self::read_existing(dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self {
                json: json!({
                    "schemaVersion": 2,
                    "mediaType": "application/vnd.oci.image.index.v1+json",
                    "manifests": [],
                }),
            }),
            read => read,
        }
    }

    /// Reads the index.
    pub(super) fn read_existing(dir: &Path) -> Result<Self> {
        let path = file(dir);
        let io = |e| {
            Error::io(STAGE, &path, "cannot read the index", e)
                .with_hint("name the directory of an OCI image layout")
        };
        let invalid = |detail: &str| {
            Error::new(
                ErrorKind::Invalid,
                STAGE,
                path.display().to_string(),
                detail,
            )
        };
        if std::fs::metadata(&path).map_err(io)?.len() > MAX_JSON {
            return Err(invalid("the index is larger than 4 MiB"));
        }
        let bytes = std::fs::read(&path).map_err(io)?;
        let json: Value = serde_json::from_slice(&bytes)
            .map_err(|e| invalid("the index is not JSON").with_source(e))?;
        let is_index = json.get("schemaVersion") == Some(&json!(2))
            && json.get("manifests").is_some_and(Value::is_array);
        if !is_index {
            return Err(invalid("it is not an image index of schema version 2"));
        }
        Ok(Self { json })
    }

    /// The entries, as JSON.
    pub(super) fn entries(&self) -> &[Value] {
        let entries = self.json.get("manifests").and_then(Value::as_array);
        entries.map(Vec::as_slice).unwrap_or_default()
    }

    /// The named entries.
    pub(super) fn named(&self) -> impl Iterator<Item = (String, Descriptor)> {
        self.entries()
            .iter()
            .filter_map(|entry| Some((name_of(entry)?.to_owned(), parse(entry)?)))
    }

    /// The entry of this name or digest.
    pub(super) fn find(&self, reference: &str) -> Result<Descriptor> {
        let is_it = |entry: &&Value| {
            name_of(entry) == Some(reference)
                || entry.get("digest").and_then(Value::as_str) == Some(reference)
        };
        if let Some(found) = self.entries().iter().find(is_it).and_then(parse) {
            return Ok(found);
        }
        let names: Vec<String> = self.named().map(|(name, _)| name).collect();
        let error = Error::new(
            ErrorKind::NotFound,
            STAGE,
            reference,
            "no image has this name",
        );
        Err(error.with_hint(if names.is_empty() {
            "the layout names no image".to_owned()
        } else {
            format!("the layout has {}", names.join(", "))
        }))
    }

    /// Names a manifest, in the place of the one that had the name.
    pub(super) fn set(
        &mut self,
        name: &str,
        manifest: &Descriptor,
        platform: Option<&Platform>,
    ) -> Result<()> {
        let mut entry = to_json(manifest)?;
        entry["annotations"] = json!({ REF_NAME: name });
        if let Some(platform) = platform {
            entry["platform"] = json!({
                "architecture": platform.architecture(),
                "os": platform.os(),
            });
            if let Some(variant) = platform.variant() {
                entry["platform"]["variant"] = variant.into();
            }
        }
        if let Some(Value::Array(entries)) = self.json.get_mut("manifests") {
            entries.retain(|old| name_of(old) != Some(name));
            entries.push(entry);
        }
        Ok(())
    }

    /// Puts the index in place.
    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        blobs::replace(&file(dir), &canonical(self.json.clone()))
    }
}

fn name_of(entry: &Value) -> Option<&str> {
    entry.get("annotations")?.get(REF_NAME)?.as_str()
}

fn parse(entry: &Value) -> Option<Descriptor> {
    serde_json::from_value(entry.clone()).ok()
}
