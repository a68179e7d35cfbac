//! What a release comes to, what runs, and what happens meanwhile.

use std::collections::BTreeMap;
use std::fmt;

use crate::cause::Cause;
use crate::evidence::Evidence;
use crate::record::Release;
use crate::rollout::Progress;

/// How a release ended. Every way but an [`Error`](crate::Error) leaves the cluster in a known
/// state that the history records.
#[derive(Clone, Debug, PartialEq)]
#[must_use = "a release may have been rolled back"]
#[non_exhaustive]
pub enum Outcome {
    /// Every replica runs the image and is served to users.
    #[non_exhaustive]
    Available {
        /// The release's number in the history.
        release: u64,
        /// The Deployment's revision number.
        revision: Option<u64>,
        /// The image, by digest.
        image: String,
    },
    /// The cluster already holds exactly this release; nothing was written.
    #[non_exhaustive]
    Unchanged {
        /// The number of the release that runs.
        release: u64,
        /// The image, by digest.
        image: String,
    },
    /// It failed, and users are served as before.
    #[non_exhaustive]
    RolledBack {
        /// The number of the failed release.
        release: u64,
        /// Why it failed.
        cause: Cause,
        /// What was seen.
        evidence: Evidence,
        /// The release that was restored. `None`: it was the first, and is scaled to zero with
        /// its objects kept.
        to: Option<u64>,
    },
    /// It failed, and the release before it could not be restored.
    #[non_exhaustive]
    RollbackFailed {
        /// The number of the failed release.
        release: u64,
        /// Why it failed.
        cause: Cause,
        /// What was seen.
        evidence: Evidence,
        /// The release that was to be restored.
        to: Option<u64>,
        /// Why that failed.
        reason: String,
    },
}

/// What runs.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct AppStatus {
    /// The image the Deployment asks for.
    pub image: String,
    /// The Deployment's revision number.
    pub revision: Option<u64>,
    /// How many replicas are there; `ready` counts the pods the Service sends requests to.
    pub replicas: Progress,
    /// Where users reach it, once that is known.
    pub address: Option<Address>,
    /// The Deployment's annotations: where the release comes from.
    pub annotations: BTreeMap<String, String>,
    /// The newest entry of the history.
    pub last: Option<Release>,
}

/// Where an application is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Address {
    /// An IP address or a host name.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// Whether it is known inside the cluster only.
    pub internal: bool,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = &self.host;
        if host.contains(':') {
            write!(f, "http://[{host}]")?;
        } else {
            write!(f, "http://{host}")?;
        }
        if self.port == 80 {
            Ok(())
        } else {
            write!(f, ":{}", self.port)
        }
    }
}

/// What happens during a release.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// An object was applied, such as `service/digits`.
    Applied(String),
    /// How far the rollout is; sent when it changes.
    Progress(Progress),
    /// A sign of trouble; it may pass.
    Suspect(Cause),
    /// The API server is out of reach; the rollout is watched again as soon as it answers.
    OutOfReach(String),
    /// The rollout failed for this cause.
    Failed(Cause),
    /// The release with this number is being restored; `None`: the application is scaled to zero.
    RollingBack(Option<u64>),
}
