//! The `index.json` of a layout (image-spec, image-layout.md, "index.json file").

use std::path::{Path, PathBuf};

use oci_spec::image::Descriptor;
use serde_json::{Value, json};

use super::blobs;
use crate::config::canonical;
use crate::error::{Error, ErrorKind, Result};
use crate::image::to_json;
use crate::manifest::{MAX_JSON, OCI_INDEX};
use crate::platform::Platform;

const STAGE: &str = "read layout";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// The index, as JSON that keeps what others put into it.
pub(crate) struct IndexFile {
    json: Value,
}

/// Refuses names that no tool could select.
pub(crate) fn check_name(name: &str) -> Result<()> {
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

/// The bytes of the index.
pub(crate) fn read_bytes(dir: &Path) -> Result<Vec<u8>> {
    let path = file(dir);
    let io = |e| {
        Error::io(STAGE, &path, "cannot read the index", e)
            .with_hint("name the directory of an OCI image layout")
    };
    if std::fs::metadata(&path).map_err(io)?.len() > MAX_JSON {
        let object = path.display().to_string();
        let detail = "the index is larger than 4 MiB";
        return Err(Error::new(ErrorKind::Invalid, STAGE, object, detail));
    }
    std::fs::read(&path).map_err(io)
}

impl IndexFile {
    /// An index without entries.
    pub(crate) fn empty() -> Self {
        let json = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [] });
        Self { json }
    }

    /// The bytes as they are written.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        canonical(self.json.clone())
    }

    /// Reads the index; an empty one if there is none yet.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        match Self::read_existing(dir) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::empty()),
            read => read,
        }
    }

    /// Reads the index.
    pub(super) fn read_existing(dir: &Path) -> Result<Self> {
        Self::parse(&read_bytes(dir)?, &file(dir).display().to_string())
    }

    /// Reads the index from its bytes; `object` names it in errors.
    pub(crate) fn parse(bytes: &[u8], object: &str) -> Result<Self> {
        let invalid = |detail: &str| Error::new(ErrorKind::Invalid, STAGE, object, detail);
        let json: Value = serde_json::from_slice(bytes)
            .map_err(|e| invalid("the index is not JSON").with_source(e))?;
        let is_index = json.get("schemaVersion") == Some(&json!(2))
            && json.get("manifests").is_some_and(Value::is_array);
        if !is_index {
            return Err(invalid("it is not an image index of schema version 2"));
        }
        Ok(Self { json })
    }

    /// The entries, as JSON.
    pub(crate) fn entries(&self) -> &[Value] {
        let entries = self.json.get("manifests").and_then(Value::as_array);
        entries.map(Vec::as_slice).unwrap_or_default()
    }

    /// The named entries.
    pub(crate) fn named(&self) -> impl Iterator<Item = (String, Descriptor)> {
        self.entries()
            .iter()
            .filter_map(|entry| Some((name_of(entry)?.to_owned(), parse(entry)?)))
    }

    /// The descriptors of all entries.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = Descriptor> {
        self.entries().iter().filter_map(parse)
    }

    /// The entry of this name or digest.
    pub(crate) fn find(&self, reference: &str) -> Result<Descriptor> {
        let is_it = |entry: &&Value| {
            name_of(entry) == Some(reference)
                || annotation(entry, CONTAINERD_NAME) == Some(reference)
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
    pub(crate) fn set(
        &mut self,
        name: &str,
        manifest: &Descriptor,
        platform: Option<&Platform>,
    ) -> Result<()> {
        let mut entry = to_json(manifest)?;
        entry["annotations"] = json!({ REF_NAME: name });
        if let Some(platform) = platform {
            entry["platform"] = platform.to_json();
        }
        if let Some(Value::Array(entries)) = self.json.get_mut("manifests") {
            entries.retain(|old| name_of(old) != Some(name));
            entries.push(entry);
        }
        Ok(())
    }

    /// Gives the entry of this name a full reference too, which containerd and Docker name the
    /// image by when they load an archive.
    pub(crate) fn set_full_name(&mut self, name: &str, full: &str) {
        if let Some(Value::Array(entries)) = self.json.get_mut("manifests") {
            for entry in entries
                .iter_mut()
                .filter(|entry| name_of(entry) == Some(name))
            {
                entry["annotations"][CONTAINERD_NAME] = full.into();
            }
        }
    }

    /// Puts the index in place.
    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        blobs::replace(&file(dir), &self.bytes())
    }
}

fn name_of(entry: &Value) -> Option<&str> {
    annotation(entry, REF_NAME)
}

fn annotation<'a>(entry: &'a Value, key: &str) -> Option<&'a str> {
    entry.get("annotations")?.get(key)?.as_str()
}

fn parse(entry: &Value) -> Option<Descriptor> {
    serde_json::from_value(entry.clone()).ok()
}
