//! Validating everything that an index leads to.

use std::collections::HashSet;

use futures::TryStreamExt;
use oci_spec::image::Descriptor;
use serde_json::Value;

use super::{ProblemKind, Report, schema, validate};
use crate::codec::{Codec, oci_layer_type};
use crate::error::{Error, ErrorKind, Result};
use crate::hash::Hasher;
use crate::manifest::{DOCKER_CONFIG, OCI_CONFIG, is_index};
use crate::platform::Platform;
use crate::store::Store;

/// How deep indexes may lie in each other, and how many manifests are looked at in all.
const MAX_DEPTH: usize = 3;
const MAX_MANIFESTS: usize = 10_000;

/// A descriptor of an index that is still to be followed.
struct Ahead {
    entry: Value,
    depth: usize,
}

/// Validates an index, given by its bytes, and everything it leads to.
///
/// # Errors
/// What is not damage: a file that cannot be read, or a kind of image this crate does not know.
pub(crate) async fn store(store: &Store, index: &[u8]) -> Result<Report> {
    let mut report = Report::default();
    report.schema("index", schema::index(index));
    let mut ahead = entries(index, 1);
    let mut seen = HashSet::new();
    while let Some(Ahead { entry, depth }) = ahead.pop() {
        // What is no descriptor was reported with its index.
        let Ok(descriptor) = serde_json::from_value::<Descriptor>(entry.clone()) else {
            continue;
        };
        let object = descriptor.digest().to_string();
        if depth > MAX_DEPTH || seen.len() > MAX_MANIFESTS {
            let detail = "it lies too deep, or behind too many others".to_owned();
            report.problem(ProblemKind::Malformed, object, detail);
            continue;
        }
        let bytes = match store.json(&descriptor).await {
            Ok(bytes) => bytes,
            Err(error) => {
                report.damage(&object, error)?;
                continue;
            }
        };
        let media_type = descriptor.media_type().as_ref();
        let json: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if json["mediaType"]
            .as_str()
            .is_some_and(|own| own != media_type)
        {
            let detail = format!("it is announced as {media_type}, and states another type");
            report.problem(ProblemKind::Schema, &object, detail);
        }
        // One image under two names is read once, but each of its descriptors is looked at.
        let is_new = seen.insert(object.clone());
        if is_index(media_type) {
            if is_new {
                report.schema(&object, schema::index(&bytes));
                ahead.extend(entries(&bytes, depth + 1));
            }
        } else {
            let layers = if is_new { Layers::Read } else { Layers::Skip };
            manifest(store, (&descriptor, &json), layers, &mut report).await?;
            platform(&entry, store, &json, &mut report).await;
        }
    }
    Ok(report)
}

#[derive(PartialEq)]
enum Layers {
    Read,
    Skip,
}

fn entries(index: &[u8], depth: usize) -> Vec<Ahead> {
    let json: Value = serde_json::from_slice(index).unwrap_or_default();
    let entries = json.get("manifests").and_then(Value::as_array).cloned();
    let entries = entries.unwrap_or_default().into_iter().rev();
    entries.map(|entry| Ahead { entry, depth }).collect()
}

/// Validates the image or the artifact of a manifest.
async fn manifest(
    store: &Store,
    (descriptor, json): (&Descriptor, &Value),
    layers: Layers,
    report: &mut Report,
) -> Result<()> {
    if layers == Layers::Skip {
        return Ok(());
    }
    let object = descriptor.digest().to_string();
    // A converted image no longer shows what was wrong with its own manifest.
    let bytes = store.json(descriptor).await?;
    let found = schema::manifest(&bytes);
    let is_sound = found.is_empty();
    report.schema(&object, found);
    let mut blobs: Vec<Descriptor> = Vec::new();
    for blob in json["layers"].as_array().into_iter().flatten() {
        blobs.extend(serde_json::from_value::<Descriptor>(blob.clone()).ok());
    }
    let config = &json["config"];
    // An attestation has the config of an image, and statements for layers.
    let is_layer = |blob: &Descriptor| Codec::of(&oci_layer_type(blob.media_type())).is_ok();
    if is_image(config) && blobs.iter().all(is_layer) {
        for blob in &blobs {
            stored_size(store, blob, report).await?;
        }
        match store.image(descriptor).await {
            Ok(image) => report.merge(validate(&image).await?),
            // What breaks a rule was reported as such.
            Err(error) if error.kind() == ErrorKind::Invalid && !is_sound => {}
            Err(error) => report.damage(&object, error)?,
        }
        return Ok(());
    }
    blobs.extend(serde_json::from_value::<Descriptor>(config.clone()).ok());
    for blob in &blobs {
        whole_blob(store, blob, report).await?;
    }
    Ok(())
}

fn is_image(config: &Value) -> bool {
    let media_type = config["mediaType"].as_str().unwrap_or_default();
    [OCI_CONFIG, DOCKER_CONFIG].contains(&media_type)
}

/// Compares the platform that an entry of an index states with that of the image's config.
async fn platform(entry: &Value, store: &Store, manifest: &Value, report: &mut Report) {
    let config = &manifest["config"];
    let (Some(stated), true) = (entry.get("platform"), is_image(config)) else {
        return;
    };
    let Ok(descriptor) = serde_json::from_value::<Descriptor>(config.clone()) else {
        return;
    };
    let Ok(bytes) = store.json(&descriptor).await else {
        return;
    };
    let config: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let (stated, own) = (Platform::from_json(stated), Platform::from_json(&config));
    let differ = match (&stated, &own) {
        (Some(stated), Some(own)) => stated.normalised() != own.normalised(),
        _ => false,
    };
    if let (Some(stated), Some(own), true) = (stated, own, differ) {
        let is_attestation = stated.os() == "unknown";
        if !is_attestation {
            let detail = format!("the index states platform {stated}, the config {own}");
            report.problem(ProblemKind::Platform, descriptor.digest(), detail);
        }
    }
}

/// A layer's file must not be longer than its descriptor says: nobody would read the rest.
async fn stored_size(store: &Store, blob: &Descriptor, report: &mut Report) -> Result<()> {
    match store.stored_len(blob).await {
        Ok(len) if len > blob.size() => {
            let detail = format!("stated are {} bytes, stored are {len}", blob.size());
            report.problem(ProblemKind::Size, blob.digest(), detail);
            Ok(())
        }
        // A missing or a short one is noticed when it is read.
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => report.damage(blob.digest().as_ref(), error),
    }
}

/// Recomputes the digest of a blob that is no layer of a file system.
async fn whole_blob(store: &Store, blob: &Descriptor, report: &mut Report) -> Result<()> {
    let object = blob.digest().to_string();
    stored_size(store, blob, report).await?;
    let (mut hasher, mut bytes) = (Hasher::default(), store.open(blob, 0));
    loop {
        match bytes.try_next().await {
            Ok(Some(chunk)) => hasher.update(&chunk),
            Ok(None) => break,
            Err(error) => {
                let error = Error::from_stream("validate image", object.clone(), error);
                return report.damage(&object, error);
            }
        }
    }
    let len = hasher.seen();
    if len < blob.size() {
        let detail = format!("stated are {} bytes, stored are {len}", blob.size());
        report.problem(ProblemKind::Size, &object, detail);
    } else if hasher.finish() != *blob.digest() {
        let detail = "the stored bytes have another digest".to_owned();
        report.problem(ProblemKind::Digest, &object, detail);
    }
    Ok(())
}
