//! What the commands of `modelship model` do with the model that is open.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use modelship_examples::{edge, progress};
use modelship_model_store::{
    GcOptions, ModelVersion, Note, PointerName, RetractOptions, Selector, VersionDetails,
};
use modelship_pipeline_core::{self as core, Config, Edge, OpenModel, Result, Stage};
use serde_json::json;

use crate::model::{Collect, Which, Why};
use crate::{Arguments, told};

/// A model that is open, and what commands need beside it.
pub(crate) struct Desk<'a> {
    arguments: &'a Arguments,
    edge: Edge,
    model: OpenModel,
}

impl<'a> Desk<'a> {
    pub(crate) async fn open(
        arguments: &'a Arguments,
        which: &Which,
        stage: Stage,
    ) -> Result<Self> {
        let url = match &which.url {
            Some(url) => url.clone(),
            None => Config::load(&arguments.config)?.model.url,
        };
        let edge = edge().await?;
        Ok(Self {
            arguments,
            model: OpenModel::new(&url, &edge, stage)?,
            edge,
        })
    }

    pub(crate) fn note(&self, why: &Why) -> Note {
        let note = core::note(&self.edge);
        match &why.reason {
            Some(reason) => note.because(reason),
            None => note,
        }
    }

    /// The version that a selector means; one that is named exactly is not looked up.
    async fn version(&self, selector: &Selector) -> Result<String> {
        match selector {
            Selector::Version(version) => Ok(version.clone()),
            other => Ok(self.locked(other).await?.version().to_owned()),
        }
    }

    async fn locked(&self, selector: &Selector) -> Result<ModelVersion> {
        self.model.step(self.model.store().resolve(selector).await)
    }

    async fn details(&self, version: &str) -> Result<VersionDetails> {
        self.model.step(self.model.store().show(version).await)
    }

    pub(crate) async fn list(&self) -> Result<()> {
        let versions = self.model.step(self.model.store().list().await)?;
        let json = json!({"versions": versions});
        self.arguments.answer(&told::list(&versions), &json);
        Ok(())
    }

    pub(crate) async fn show(&self, selector: &Selector) -> Result<()> {
        let details = self.details(&self.version(selector).await?).await?;
        let json = json!({"version": details});
        self.arguments.answer(&told::details(&details), &json);
        Ok(())
    }

    pub(crate) async fn diff(&self, from: &Selector, to: &Selector) -> Result<()> {
        let (from, to) = (self.version(from).await?, self.version(to).await?);
        let diff = self.model.step(self.model.store().diff(&from, &to).await)?;
        let json = json!({"from": from, "to": to, "diff": diff});
        self.arguments.answer(&told::diff(&from, &to, &diff), &json);
        Ok(())
    }

    pub(crate) async fn promote(
        &self,
        pointer: &PointerName,
        to: &Selector,
        why: &Why,
    ) -> Result<()> {
        let version = self.version(to).await?;
        let store = self.model.store();
        let moved = store.promote(pointer, &version, &self.note(why)).await;
        let moved = self.model.step(moved)?;
        let text = match &moved {
            Some(moved) => told::moved(pointer, moved),
            None => format!("{pointer} names {version} already"),
        };
        self.arguments
            .answer(&text, &json!({"pointer": pointer, "moved": moved}));
        Ok(())
    }

    pub(crate) async fn rollback(&self, pointer: &PointerName, why: &Why) -> Result<()> {
        let moved = self.model.store().rollback(pointer, &self.note(why)).await;
        let moved = self.model.step(moved)?;
        let text = match &moved {
            Some(moved) => told::moved(pointer, moved),
            None => format!("{pointer} was moved back by someone else"),
        };
        self.arguments
            .answer(&text, &json!({"pointer": pointer, "moved": moved}));
        Ok(())
    }

    pub(crate) async fn history(&self, pointer: &PointerName, limit: usize) -> Result<()> {
        let moves = self
            .model
            .step(self.model.store().history(pointer, limit).await)?;
        let text = told::history(pointer, &moves);
        self.arguments
            .answer(&text, &json!({"pointer": pointer, "history": moves}));
        Ok(())
    }

    pub(crate) async fn delete_alias(&self, alias: &str, why: &Why, yes: bool) -> Result<()> {
        let store = self.model.store();
        if !yes && let Some(version) = self.model.step(store.aliases().await)?.get(alias) {
            let text = format!("would remove alias:{alias}, which names {version}");
            self.arguments.answer(
                &told::dry(&text),
                &json!({"would_delete": alias, "done": false}),
            );
            return Ok(());
        }
        self.model
            .step(store.delete_alias(alias, &self.note(why)).await)?;
        self.arguments.answer(
            &format!("removed alias:{alias}"),
            &json!({"deleted": alias}),
        );
        Ok(())
    }

    pub(crate) async fn retract(
        &self,
        version: &str,
        options: &RetractOptions,
        yes: bool,
    ) -> Result<()> {
        if !yes {
            let details = self.details(version).await?;
            let text = told::dry(&told::retraction(&details, options.move_aliases));
            let json = json!({"would_retract": details.info, "done": false});
            self.arguments.answer(&text, &json);
            return Ok(());
        }
        let report = self
            .model
            .step(self.model.store().retract(version, options).await)?;
        self.arguments
            .answer(&told::retracted(&report), &json!({"retracted": report}));
        Ok(())
    }

    pub(crate) async fn hold(&self, name: &str, selector: &Selector, why: &Why) -> Result<()> {
        let model = self.locked(selector).await?;
        let held = self.model.store().hold(name, &model, &self.note(why)).await;
        self.model.step(held)?;
        let text = format!("{name} holds {} {}", model.name(), model.version());
        self.arguments
            .answer(&text, &json!({"hold": name, "version": model.version()}));
        Ok(())
    }

    pub(crate) async fn release(&self, name: &str, why: &Why) -> Result<()> {
        let released = self.model.store().release_hold(name, &self.note(why)).await;
        self.model.step(released)?;
        self.arguments
            .answer(&format!("{name} holds nothing"), &json!({"released": name}));
        Ok(())
    }

    pub(crate) async fn collect(&self, collect: &Collect) -> Result<()> {
        let hours = |count: u64| Duration::from_secs(count.saturating_mul(3600));
        let mut options = GcOptions::new(SystemTime::from((self.edge.now)()));
        options.grace = hours(collect.grace);
        options.keep_last = collect.keep_last;
        options.retracted_after = collect
            .retracted_after
            .map(|days| hours(days.saturating_mul(24)));
        for path in &collect.lock {
            options = options.with_lock(core::read_lock(path)?);
        }
        let store = self.model.store();
        if collect.yes {
            let report = self.model.step(store.gc(&options).await)?;
            let text = told::garbage("removed", &report.removed, &report.kept);
            self.arguments.answer(&text, &json!({"collected": report}));
        } else {
            let plan = self.model.step(store.gc_plan(&options).await)?;
            let text = told::dry(&told::garbage("would remove", &plan.remove, &plan.keep));
            self.arguments
                .answer(&text, &json!({"would_collect": plan, "done": false}));
        }
        Ok(())
    }

    pub(crate) async fn resolve(&self, lock: Option<&PathBuf>) -> Result<()> {
        let model = self.locked(self.model.selector()).await?;
        if let Some(path) = lock {
            core::write_lock(path, &model)?;
        }
        self.arguments
            .answer(&told::resolved(&model), &json!({"resolved": model}));
        Ok(())
    }

    pub(crate) async fn fetch(&self, dir: &Path, lock: Option<&PathBuf>) -> Result<()> {
        let known = lock.filter(|path| path.exists());
        let model = match known {
            Some(path) => core::read_lock(path)?,
            None => self.locked(self.model.selector()).await?,
        };
        // With the digests that nobody stated before, so that the lock says which bytes these are.
        let model = self.model.fetch(&model, dir, &progress()).await?;
        if let (Some(path), None) = (lock, known) {
            core::write_lock(path, &model)?;
        }
        let text = format!("{}\nin {}", told::resolved(&model), dir.display());
        self.arguments
            .answer(&text, &json!({"fetched": model, "folder": dir}));
        Ok(())
    }
}
