//! Things to push: byte sources and a small image made by hand.

use std::sync::Mutex;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt as _};
use modelship_registry::{
    Blob, BoxError, Credentials, Descriptor, Digest, Event, Manifest, RegistryOptions, Repository,
};
use sha2::{Digest as _, Sha256};

pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// Bytes that are all different from their neighbours, so that a lost one is noticed.
pub(crate) fn noise(len: usize, seed: u32) -> Bytes {
    let mut state = seed | 1;
    let mut out = Vec::with_capacity(len);
    while out.len() < len {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out.into()
}

pub(crate) fn digest(bytes: &[u8]) -> Digest {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
        .parse()
        .unwrap()
}

/// A blob of `data` that declares `size` bytes, of unknown digest, in pieces of 64 KiB.
pub(crate) fn source(data: &Bytes, size: usize) -> Blob {
    let data = data.clone();
    Blob::new(LAYER, size as u64, move |from| {
        let rest = data.slice(usize::try_from(from).unwrap().min(data.len())..);
        stream::unfold(rest, |mut rest| async move {
            (!rest.is_empty()).then(|| {
                let piece = rest.split_to(rest.len().min(64 << 10));
                (Ok(piece), rest)
            })
        })
        .boxed()
    })
}

/// A tar archive of one file, written out by hand (POSIX ustar).
pub(crate) fn tar(path: &str, content: &[u8]) -> Bytes {
    let mut header = [0u8; 512];
    let mut put =
        |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, path);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{:011o}\0", content.len()));
    put(136, "00000000001\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut out = header.to_vec();
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(512) + 1024, 0);
    out.into()
}

/// Seals an image of uncompressed layers.
pub(crate) fn seal(layers: &[Descriptor]) -> Result<Manifest, BoxError> {
    let diff_ids: Vec<String> = layers
        .iter()
        .map(|layer| layer.digest().to_string())
        .collect();
    let config = serde_json::to_vec(&serde_json::json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/hello"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }))?;
    let manifest = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": digest(&config), "size": config.len()},
        "layers": layers,
    }))?;
    Ok(Manifest {
        media_type: MANIFEST.to_owned(),
        bytes: manifest.into(),
        config: config.into(),
        config_media_type: CONFIG.to_owned(),
    })
}

/// Options with short pauses between tries.
pub(crate) fn options() -> RegistryOptions {
    let mut options = RegistryOptions::default();
    options.retry_base = Duration::from_millis(1);
    options
}

pub(crate) fn repository(host: &str, credentials: Credentials) -> Repository {
    Repository::new(&format!("{host}/team/app"), credentials, options()).unwrap()
}

/// Collects the events of a push.
#[derive(Default)]
pub(crate) struct Events(Mutex<Vec<Event>>);

impl Events {
    pub(crate) fn sink(&self) -> impl Fn(Event) + Send + Sync {
        |event| self.0.lock().unwrap().push(event)
    }

    pub(crate) fn all(&self) -> Vec<Event> {
        self.0.lock().unwrap().clone()
    }

    /// Bytes handed to connections for committed blobs.
    pub(crate) fn sent(&self) -> u64 {
        let sent = |event: &Event| {
            if let Event::Uploaded { sent, .. } = event {
                *sent
            } else {
                0
            }
        };
        self.all().iter().map(sent).sum()
    }

    pub(crate) fn retries(&self) -> usize {
        self.all()
            .iter()
            .filter(|event| matches!(event, Event::Retrying { .. }))
            .count()
    }
}
