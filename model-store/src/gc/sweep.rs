//! Marks, looks again, and removes.

use futures::{StreamExt, TryStreamExt, stream};

use crate::error::{Error, ErrorKind, Result};
use crate::gc::plan::Evidence;
use crate::gc::{GcItem, GcOptions, GcReport, STAGE};
use crate::pointer::mark_path;
use crate::resolve::manifest_path;
use crate::store::ModelStore;
use crate::survey::is_document;

/// Removals in flight.
const REMOVALS: usize = 16;
/// Rounds of removing what a publisher, not yet aware of the mark, still wrote.
const ROUNDS: usize = 8;

impl ModelStore {
    /// Removes what is garbage, as [`gc_plan`](Self::gc_plan) would say now, and finishes what an
    /// interrupted collection began.
    ///
    /// A version that someone begins to name, hold or publish at the same moment either stays, or
    /// that someone gets a `Conflict`. Dropping the future stops the work; what was begun is
    /// finished by the next collection that runs after the grace period, and refuses to be named
    /// until then.
    ///
    /// # Errors
    /// As [`gc_plan`](Self::gc_plan).
    pub async fn gc(&self, options: &GcOptions) -> Result<GcReport> {
        let evidence = self.evidence().await?;
        let candidates = evidence.garbage(options);
        let mut marked = Vec::new();
        for item in candidates {
            if self.mark(&item, &evidence).await? {
                marked.push(item);
            }
        }
        // Whoever names one of them from here on sees its mark.
        let locks = self.locks(options).await?;
        let now = self.evidence().await?;
        let mut report = GcReport::default();
        for item in marked {
            let kept = self.keepers(&locks, &item.version).await?;
            if kept.is_none() && now.confirms(&item, options) {
                self.sweep(&item.version).await?;
                report.removed.push(item);
            } else {
                self.remove(STAGE, &mark_path(&item.version)).await?;
                report.kept.extend(kept);
            }
        }
        self.forget_marks(options, &now, &report).await?;
        Ok(report)
    }

    /// Marks a version for removal; an old mark is taken over. Tells whether it is ours.
    async fn mark(&self, item: &GcItem, evidence: &Evidence) -> Result<bool> {
        let path = mark_path(&item.version);
        let bytes = serde_json::to_vec_pretty(item).map_err(|error| {
            Error::invalid(STAGE, self.name_of(&path), "the mark cannot be written")
                .with_source(error)
        })?;
        let created = self.create(STAGE, &path, bytes).await?;
        Ok(created || evidence.marked.contains_key(&item.version))
    }

    /// Removes a version that is marked and not locked.
    async fn sweep(&self, version: &str) -> Result<()> {
        for _ in 0..ROUNDS {
            self.remove(STAGE, &manifest_path(version)).await?;
            let objects = self.found(STAGE, version).await?;
            if objects.is_empty() {
                self.remove_folders(version).await?;
                return self.remove(STAGE, &mark_path(version)).await;
            }
            // A publisher that resumes looks for its claim: it is the last to go.
            let (documents, files): (Vec<_>, Vec<_>) = objects
                .into_iter()
                .partition(|path| is_document(version, path));
            for paths in [files, documents] {
                stream::iter(paths)
                    .map(|path| async move { self.remove(STAGE, &path).await })
                    .buffer_unordered(REMOVALS)
                    .try_collect::<()>()
                    .await?;
            }
        }
        let object = self.name_of(&format!("versions/{version}"));
        let detail = "someone keeps writing to it while it is being removed";
        Err(Error::new(ErrorKind::Conflict, STAGE, object, detail)
            .with_hint("stop that publisher, then collect garbage again"))
    }

    /// Takes old marks away from versions that are not garbage any more, or all gone.
    async fn forget_marks(
        &self,
        options: &GcOptions,
        evidence: &Evidence,
        report: &GcReport,
    ) -> Result<()> {
        let garbage = evidence.garbage(options);
        let settled = |version: &str| {
            let removed = report.removed.iter().any(|item| item.version == version);
            let kept = report.kept.iter().any(|kept| kept.version == version);
            removed || kept || garbage.iter().any(|item| item.version == version)
        };
        for (version, at) in &evidence.marked {
            if options.is_older(Some(*at), options.grace) && !settled(version) {
                self.remove(STAGE, &mark_path(version)).await?;
            }
        }
        Ok(())
    }

    /// In a directory, the empty folders of a version would look like a version.
    async fn remove_folders(&self, version: &str) -> Result<()> {
        let Some(dir) = self.url().directory() else {
            return Ok(());
        };
        let folder = dir.join("versions").join(version);
        let object = folder.display().to_string();
        let removed = tokio::task::spawn_blocking(move || remove_empty(&folder)).await;
        removed.map_err(|error| {
            Error::new(ErrorKind::Io, STAGE, object, "the removing task ended").with_source(error)
        })
    }
}

/// Removes a folder and those in it, as far as they are empty; what is not empty stays.
fn remove_empty(folder: &std::path::Path) {
    if let Ok(entries) = std::fs::read_dir(folder) {
        for entry in entries.flatten() {
            // Links are no folders: nothing outside is reached.
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove_empty(&entry.path());
            }
        }
    }
    // A folder that is not empty refuses, and a publisher that needs one makes it again.
    let _ = std::fs::remove_dir(folder);
}
