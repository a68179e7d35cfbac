//! What was found in models that nobody states digests of, kept so that an unchanged one costs no
//! byte the next time: a release key names content, and a lock of a plain folder only names tags.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use modelship_model_store::ModelVersion;

use crate::Stage;
use crate::cache;
use crate::error::Result;

/// As many seals are kept.
const KEPT: usize = 20;

/// The seals of one app's road, each in a file named by the lock that it seals.
#[derive(Clone, Debug)]
pub(crate) struct Seals {
    folder: PathBuf,
}

impl Seals {
    pub(crate) fn new(state: &Path) -> Self {
        Self {
            folder: state.join("seals"),
        }
    }

    fn path(&self, model: &ModelVersion) -> PathBuf {
        let name = model.tree_digest().trim_start_matches("sha256:");
        self.folder.join(format!("{name}.json"))
    }

    /// `model` with the digests that were found before, if all of its objects are still the same.
    pub(crate) fn find(&self, model: &ModelVersion) -> Option<ModelVersion> {
        let sealed: ModelVersion = cache::read_json(&self.path(model))?;
        model.sealed_as(&sealed)
    }

    /// Keeps what was found in `model`, and forgets the oldest of many.
    pub(crate) fn keep(&self, model: &ModelVersion, sealed: &ModelVersion) -> Result<()> {
        cache::write_json(Stage::Fetch, &self.path(model), sealed)?;
        let mut seals = self.list();
        seals.sort();
        for (_, path) in seals.iter().rev().skip(KEPT) {
            // One too many is still a right one.
            let _ = std::fs::remove_file(path);
        }
        Ok(())
    }

    fn list(&self) -> Vec<(SystemTime, PathBuf)> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten();
        let seal = |entry: std::io::Result<std::fs::DirEntry>| {
            let entry = entry.ok()?;
            Some((entry.metadata().ok()?.modified().ok()?, entry.path()))
        };
        entries.filter_map(seal).collect()
    }
}
