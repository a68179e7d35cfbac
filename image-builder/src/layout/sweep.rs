//! Removing the blobs of a layout that nothing refers to.

use std::collections::HashSet;
use std::path::Path;

use oci_spec::image::Digest;
use serde_json::Value;

use super::blobs::{Blobs, UNFINISHED};
use super::index::IndexFile;
use crate::error::{Error, Result};
use crate::hash::sha256_hex;
use crate::manifest::MAX_JSON;

/// Removes unreferenced blobs and what killed writers left. The caller holds the layout's lock.
///
/// If anything the index refers to cannot be understood, nothing is removed.
pub(super) fn sweep(dir: &Path, index: &IndexFile) -> Result<()> {
    let blobs = Blobs::new(dir);
    let Some(used) = reachable(&blobs, index) else {
        return Ok(());
    };
    let folder = dir.join("blobs").join("sha256");
    let io = |e| Error::io("sweep layout", &folder, "cannot remove unused blobs", e);
    for entry in std::fs::read_dir(&folder).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let is_blob = name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
        let is_unused = is_blob && !used.contains(name);
        if is_unused || name.starts_with(UNFINISHED) {
            std::fs::remove_file(entry.path()).map_err(io)?;
        }
    }
    Ok(())
}

/// The hex digests of all blobs the index leads to; `None` if one of them is not understood.
fn reachable(blobs: &Blobs, index: &IndexFile) -> Option<HashSet<String>> {
    let mut used = HashSet::new();
    let mut ahead: Vec<Value> = index.entries().to_vec();
    while let Some(descriptor) = ahead.pop() {
        let digest: Digest = descriptor.get("digest")?.as_str()?.parse().ok()?;
        let is_new = used.insert(sha256_hex(&digest).ok()?.to_owned());
        let media_type = descriptor.get("mediaType")?.as_str()?;
        let leads_on = ["manifest", "index"]
            .iter()
            .any(|part| media_type.contains(part));
        if !is_new || !leads_on {
            continue;
        }
        let path = blobs.path(&digest).ok()?;
        if std::fs::metadata(&path).ok()?.len() > MAX_JSON {
            return None;
        }
        let json: Value = serde_json::from_slice(&std::fs::read(&path).ok()?).ok()?;
        for field in ["config", "subject"] {
            ahead.extend(json.get(field).cloned());
        }
        for field in ["layers", "manifests", "blobs"] {
            ahead.extend(
                json.get(field)
                    .and_then(Value::as_array)
                    .cloned()
                    .unwrap_or_default(),
            );
        }
    }
    Some(used)
}
