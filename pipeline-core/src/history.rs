//! The releases of a directory of manifests: kept beside the caches, so that there is a way back.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Stage;
use crate::cache;
use crate::error::{Error, ErrorKind, Result};
use crate::release::Release;

/// As many releases are kept.
const KEPT: usize = 10;

/// A release and the manifests that made it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) release: Release,
    pub(crate) manifests: String,
}

/// The releases of one app, oldest first; the last one is current.
#[derive(Clone, Debug)]
pub(crate) struct History {
    path: PathBuf,
}

impl History {
    pub(crate) fn new(state: &Path, app: &str) -> Self {
        Self {
            path: state.join("releases").join(format!("{app}.json")),
        }
    }

    fn read(&self) -> Result<Vec<Entry>> {
        match std::fs::read(&self.path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(Error::io(Stage::Record, &self.path, e)),
            Ok(text) => serde_json::from_slice(&text).map_err(|e| {
                Error::new(
                    ErrorKind::Invalid,
                    Stage::Record,
                    self.path.display(),
                    e.to_string(),
                )
                .with_hint("the record is damaged; remove it to start a new history")
            }),
        }
    }

    /// The release that is current.
    pub(crate) fn current(&self) -> Result<Option<Entry>> {
        Ok(self.read()?.pop())
    }

    /// Makes `entry` current. A release that is repeated replaces its record.
    pub(crate) fn add(&self, entry: Entry) -> Result<()> {
        let mut all = self.read()?;
        all.retain(|e| {
            e.release.key != entry.release.key || e.release.shape != entry.release.shape
        });
        all.push(entry);
        let surplus = all.len().saturating_sub(KEPT);
        cache::write_json(Stage::Record, &self.path, &all[surplus..].to_vec())
    }

    /// Takes the current release away; the one before it, which is current then.
    pub(crate) fn step_back(&self) -> Result<Entry> {
        let mut all = self.read()?;
        all.pop();
        let Some(previous) = all.last().cloned() else {
            return Err(Error::new(
                ErrorKind::NotFound,
                Stage::Rollback,
                self.path.display(),
                "there is no earlier release",
            )
            .with_hint("a rollback needs two releases; `modelship status` says what runs"));
        };
        cache::write_json(Stage::Record, &self.path, &all)?;
        Ok(previous)
    }
}
