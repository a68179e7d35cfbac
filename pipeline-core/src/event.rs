//! What a run tells while it works: stages, bytes and facts, for a person or a log.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The stages of the road, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Stage {
    /// Reading the configuration.
    Configure,
    /// Looking at the source, the model, the base and what is live, without moving bulk bytes.
    Observe,
    /// Deciding what to do: a pure function of what was observed.
    Plan,
    /// Publishing a model version into the store.
    Publish,
    /// Fetching the locked model version.
    Fetch,
    /// Verifying who signed the fetched model, and looking into its files.
    Admit,
    /// Assembling or pulling the base image.
    Base,
    /// Running the app's own tests.
    Test,
    /// Assembling the image.
    Assemble,
    /// Running the image and asking it for a prediction.
    Smoke,
    /// Pushing the image, or writing it as an OCI layout.
    Push,
    /// Rolling the release out, or writing its manifests.
    Rollout,
    /// Asking the release through its public address.
    Verify,
    /// Writing the release record.
    Record,
    /// Returning to an earlier release.
    Rollback,
    /// Waiting for the next commit, model version or schedule.
    Watch,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Configure => "configure",
            Self::Observe => "observe",
            Self::Plan => "plan",
            Self::Publish => "publish",
            Self::Fetch => "fetch",
            Self::Admit => "admit",
            Self::Base => "base",
            Self::Test => "test",
            Self::Assemble => "assemble",
            Self::Smoke => "smoke",
            Self::Push => "push",
            Self::Rollout => "rollout",
            Self::Verify => "verify",
            Self::Record => "record",
            Self::Rollback => "rollback",
            Self::Watch => "watch",
        })
    }
}

/// One thing that happened in a run.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A stage began, working on `what`.
    Started {
        /// The stage.
        stage: Stage,
        /// What it works on.
        what: String,
    },
    /// A stage moved on; `total` is absent where it is not known.
    Progress {
        /// The stage.
        stage: Stage,
        /// What is moving.
        what: String,
        /// Bytes done.
        done: u64,
        /// Bytes in all.
        total: Option<u64>,
    },
    /// A fact worth a line of its own.
    Note {
        /// The stage.
        stage: Stage,
        /// The fact.
        text: String,
    },
    /// A stage ended well.
    Finished {
        /// The stage.
        stage: Stage,
        /// What came out, in a few words.
        outcome: String,
        /// How long it took.
        elapsed: Duration,
    },
}

/// Where a run's events go: shared by the tasks of the run, called from any thread, never blocking.
pub type Progress = Arc<dyn Fn(Event) + Send + Sync>;

/// A progress sink that drops every event.
pub fn silent() -> Progress {
    Arc::new(|_| {})
}

/// A stage in progress: tells its start, and its end with the time between.
pub(crate) struct StageTimer {
    stage: Stage,
    progress: Progress,
    started: tokio::time::Instant,
}

impl StageTimer {
    /// Tells that `stage` begins with `what`.
    pub(crate) fn start(progress: &Progress, stage: Stage, what: impl Into<String>) -> Self {
        progress(Event::Started {
            stage,
            what: what.into(),
        });
        Self {
            stage,
            progress: Arc::clone(progress),
            started: tokio::time::Instant::now(),
        }
    }

    /// Tells a fact of this stage.
    pub(crate) fn note(&self, text: impl Into<String>) {
        (self.progress)(Event::Note {
            stage: self.stage,
            text: text.into(),
        });
    }

    /// Tells bytes moved.
    pub(crate) fn bytes(&self, what: &str, done: u64, total: Option<u64>) {
        (self.progress)(Event::Progress {
            stage: self.stage,
            what: what.to_owned(),
            done,
            total,
        });
    }

    /// Tells the end and returns what goes into the summary.
    pub(crate) fn finish(self, outcome: impl Into<String>) -> StageTime {
        let elapsed = self.started.elapsed();
        let outcome = outcome.into();
        (self.progress)(Event::Finished {
            stage: self.stage,
            outcome: outcome.clone(),
            elapsed,
        });
        StageTime {
            stage: self.stage,
            outcome,
            seconds: elapsed.as_secs_f64(),
        }
    }
}

/// How long a stage took and what came out of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StageTime {
    /// The stage.
    pub stage: Stage,
    /// What came out, in a few words.
    pub outcome: String,
    /// Seconds from start to end.
    pub seconds: f64,
}
