//! Many blobs: looked for together, the large ones first, each content once.

use std::cmp::Reverse;
use std::collections::HashMap;

use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, stream};
use oci_spec::image::{Descriptor, Digest};
use tokio::sync::watch;

use super::{Upload, report_exists};
use crate::blob::{Blob, Progress};
use crate::error::Result;
use crate::transport::Transport;

/// Blobs looked for at the same time.
const LOOKS: usize = 16;

/// Pushes `blobs`, the first of which events call `number`; the descriptors come in their order.
/// After a failure the other uploads end their sessions before this returns.
pub(crate) async fn push_all(
    transport: &Transport,
    blobs: &[Blob],
    number: usize,
    progress: Progress<'_>,
) -> Result<Vec<Descriptor>> {
    let (stopper, stop) = watch::channel(false);
    let uploads: Vec<Upload<'_>> = blobs
        .iter()
        .enumerate()
        .map(|(index, blob)| Upload::new(transport, blob, number + index, progress, stop.clone()))
        .collect();
    for upload in &uploads {
        upload.check_size()?;
    }
    let firsts = firsts(blobs);
    let once = (0..blobs.len()).filter(|index| firsts[*index] == *index);
    let looks: Vec<BoxFuture<'_, Result<(usize, bool)>>> = once
        .map(|index| {
            let upload = &uploads[index];
            async move { Ok((index, upload.is_there().await?)) }.boxed()
        })
        .collect();
    let mut looks = stream::iter(looks).buffer_unordered(LOOKS);
    let mut missing = Vec::new();
    while let Some(looked) = looks.next().await {
        let (index, there) = looked?;
        if !there {
            missing.push(index);
        }
    }
    missing.sort_unstable_by_key(|index| (Reverse(blobs[*index].size()), *index));
    let mut found = send(&uploads, missing, &stopper).await?;
    let mut descriptors = Vec::with_capacity(blobs.len());
    for (index, upload) in uploads.iter().enumerate() {
        if let (true, Some(digest)) = (firsts[index] != index, blobs[index].digest()) {
            report_exists(&blobs[index], digest, number + index, progress);
        }
        descriptors.push(match found.remove(&index) {
            Some(descriptor) => descriptor,
            None => upload.descriptor()?,
        });
    }
    Ok(descriptors)
}

/// For each blob the first one of the same digest: itself, mostly.
fn firsts(blobs: &[Blob]) -> Vec<usize> {
    let mut seen: HashMap<&Digest, usize> = HashMap::new();
    blobs
        .iter()
        .enumerate()
        .map(|(index, blob)| match blob.digest() {
            Some(digest) => *seen.entry(digest).or_insert(index),
            None => index,
        })
        .collect()
}

async fn send(
    uploads: &[Upload<'_>],
    order: Vec<usize>,
    stopper: &watch::Sender<bool>,
) -> Result<HashMap<usize, Descriptor>> {
    let Some(first) = uploads.first() else {
        return Ok(HashMap::new());
    };
    let parallel = first.transport.net.options.parallel_uploads.max(1);
    let sends: Vec<BoxFuture<'_, (usize, Result<Descriptor>)>> = order
        .into_iter()
        .map(|index| {
            let upload = &uploads[index];
            async move {
                let sent = if *upload.stop.borrow() {
                    Err(upload.stop_error())
                } else {
                    upload.send().await
                };
                (index, sent)
            }
            .boxed()
        })
        .collect();
    let mut sends = stream::iter(sends).buffer_unordered(parallel);
    let (mut found, mut failed) = (HashMap::new(), None);
    while let Some((index, sent)) = sends.next().await {
        match sent {
            Ok(descriptor) => {
                found.insert(index, descriptor);
            }
            Err(error) => {
                stopper.send_replace(true);
                failed.get_or_insert(error);
            }
        }
    }
    failed.map_or(Ok(found), Err)
}
