//! The record of a release: enough to explain a pod, or to go back to it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::admission::Admission;
use crate::event::StageTime;
use crate::inputs::{Inputs, ReleaseKey};
use crate::smoke::SmokeVerdict;

/// What was released: code, model and image, what the tests said, and where it runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Release {
    /// The app's name.
    pub app: String,
    /// The release's identity.
    pub key: ReleaseKey,
    /// What it was made of.
    pub inputs: Inputs,
    /// The address the model came from, without credentials.
    pub model_url: String,
    /// Where the code came from.
    pub source: String,
    /// The image, pinned to its digest.
    pub image: String,
    /// The image's layers, bottom to top. Empty where an image built by an earlier run is reused.
    pub layers: Vec<LayerRecord>,
    /// What the smoke test said of exactly this image; absent where an earlier run ran it.
    pub verdict: Option<SmokeVerdict>,
    /// Who signed the model and what was warned of; absent where an earlier run looked.
    #[serde(default)]
    pub admission: Option<Admission>,
    /// Where it runs: a cluster's namespace, or the directory of its manifests.
    pub target: String,
    /// The address users reach it at, where there is one.
    pub address: Option<String>,
    /// The digest of how it runs: replicas, exposure, limits.
    pub shape: String,
    /// Who or what started the run.
    pub trigger: String,
    /// When the run began.
    pub started: DateTime<Utc>,
    /// How long each stage took.
    pub stages: Vec<StageTime>,
}

/// One layer of a released image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LayerRecord {
    /// What it holds: `base`, `model` or `code`.
    pub role: String,
    /// The digest of the stored blob.
    pub digest: String,
    /// Bytes of the stored blob.
    pub size: u64,
    /// Bytes that had to be moved for it; 0 where the target had it.
    pub moved: u64,
}

impl Release {
    /// The release's identity.
    pub const fn key(&self) -> &ReleaseKey {
        &self.key
    }
}

impl std::fmt::Display for Release {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} {}: code {}, model {} {}, image {}",
            self.app,
            self.key.short(),
            &self
                .inputs
                .revision
                .get(..12)
                .unwrap_or(&self.inputs.revision),
            self.inputs.model_name,
            self.inputs.model_version,
            self.image
        )?;
        if f.alternate() {
            write!(
                f,
                "\n  model   {}\n  source  {}\n  target  {}",
                self.model_url, self.source, self.target
            )?;
            if let Some(admission) = &self.admission {
                write!(f, "\n  checked {admission}")?;
            }
            if let Some(address) = &self.address {
                write!(f, "\n  address {address}")?;
            }
        }
        Ok(())
    }
}
