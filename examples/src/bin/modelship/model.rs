//! `modelship model …`: the versions of one model in its store.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use modelship_examples::{edge, progress};
use modelship_model_store::{
    GcOptions, ModelVersion, Note, PointerName, RetractOptions, Selector, VersionDetails,
};
use modelship_pipeline_core::{self as core, Config, Edge, OpenModel, Result, Stage};
use serde_json::json;

use crate::{Arguments, told};

/// Which model is meant.
#[derive(Args)]
pub(crate) struct Which {
    /// The model, such as s3://BUCKET/FOLDER/NAME@SELECTOR; default the configuration's.
    url: Option<String>,
}

/// Why something is done, for the store's records.
#[derive(Args)]
pub(crate) struct Why {
    /// The reason, for the history.
    #[arg(long)]
    reason: Option<String>,
}

#[derive(Subcommand)]
pub(crate) enum ModelCommand {
    /// Lists the versions, what each one is, and who names it.
    List {
        #[command(flatten)]
        which: Which,
    },
    /// Shows one version and its files.
    Show {
        /// The version, latest, alias:NAME or sha256:HEX.
        version: Selector,
        #[command(flatten)]
        which: Which,
    },
    /// Compares two versions.
    Diff {
        /// The old version, or a selector.
        from: Selector,
        /// The new version, or a selector.
        to: Selector,
        #[command(flatten)]
        which: Which,
    },
    /// Makes an alias, or latest, name a version.
    Promote {
        /// The alias, or latest.
        pointer: PointerName,
        /// The version, or a selector.
        version: Selector,
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        why: Why,
    },
    /// Makes an alias, or latest, name what it named before.
    Rollback {
        /// The alias, or latest.
        pointer: PointerName,
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        why: Why,
    },
    /// Shows how an alias, or latest, moved, newest first.
    History {
        /// The alias, or latest.
        pointer: PointerName,
        #[command(flatten)]
        which: Which,
        /// How many moves at most.
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Removes an alias; shows what that means unless --yes is given.
    DeleteAlias {
        /// The alias.
        alias: String,
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        why: Why,
        /// Does it.
        #[arg(long)]
        yes: bool,
    },
    /// Retracts a version for ever; shows what that means unless --yes is given.
    Retract {
        /// The version.
        version: String,
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        why: Why,
        /// Moves aliases that name it back, too.
        #[arg(long)]
        move_aliases: bool,
        /// Does it.
        #[arg(long)]
        yes: bool,
    },
    /// Keeps garbage collection away from a version that is deployed.
    Hold {
        /// The hold's name: one for each place that runs the model.
        name: String,
        /// The version, or a selector.
        version: Selector,
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        why: Why,
    },
    /// Releases a hold.
    Release {
        /// The hold's name.
        name: String,
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        why: Why,
    },
    /// Removes versions that nobody needs; shows which unless --yes is given.
    Gc(Collect),
    /// Resolves the model to exact files and bytes.
    Resolve {
        #[command(flatten)]
        which: Which,
        /// Writes the lock into this file.
        #[arg(long)]
        lock: Option<PathBuf>,
    },
    /// Fetches the files of a version into a folder.
    Fetch {
        /// The folder.
        dir: PathBuf,
        #[command(flatten)]
        which: Which,
        /// Fetches exactly what this file locks; when there is none, writes it.
        #[arg(long)]
        lock: Option<PathBuf>,
    },
}

/// What garbage collection may remove.
#[derive(Args)]
pub(crate) struct Collect {
    #[command(flatten)]
    which: Which,
    /// Leaves alone what was written within so many hours.
    #[arg(long, value_name = "HOURS", default_value_t = 24)]
    grace: u64,
    /// Also removes complete versions, but the last so many.
    #[arg(long, value_name = "COUNT")]
    keep_last: Option<usize>,
    /// Also removes versions that were retracted so many days ago.
    #[arg(long, value_name = "DAYS")]
    retracted_after: Option<u64>,
    /// A lock file whose version must stay; may be repeated.
    #[arg(long, value_name = "FILE")]
    lock: Vec<PathBuf>,
    /// Does it.
    #[arg(long)]
    yes: bool,
}

/// A model that is open, and what commands need beside it.
pub(crate) struct Desk<'a> {
    arguments: &'a Arguments,
    edge: Edge,
    model: OpenModel,
}

impl ModelCommand {
    pub(crate) async fn run(&self, arguments: &Arguments) -> Result<()> {
        let desk = Desk::open(arguments, self.which(), self.stage()).await?;
        match self {
            Self::List { .. } => desk.list().await,
            Self::Show { version, .. } => desk.show(version).await,
            Self::Diff { from, to, .. } => desk.diff(from, to).await,
            Self::Promote {
                pointer,
                version,
                why,
                ..
            } => desk.promote(pointer, version, why).await,
            Self::Rollback { pointer, why, .. } => desk.rollback(pointer, why).await,
            Self::History { pointer, limit, .. } => desk.history(pointer, *limit).await,
            Self::DeleteAlias {
                alias, why, yes, ..
            } => desk.delete_alias(alias, why, *yes).await,
            Self::Retract {
                version,
                why,
                move_aliases,
                yes,
                ..
            } => {
                let options = RetractOptions::default()
                    .with_note(desk.note(why))
                    .with_move_aliases(*move_aliases);
                desk.retract(version, &options, *yes).await
            }
            Self::Hold {
                name, version, why, ..
            } => desk.hold(name, version, why).await,
            Self::Release { name, why, .. } => desk.release(name, why).await,
            Self::Gc(collect) => desk.collect(collect).await,
            Self::Resolve { lock, .. } => desk.resolve(lock.as_ref()).await,
            Self::Fetch { dir, lock, .. } => desk.fetch(dir, lock.as_ref()).await,
        }
    }

    fn which(&self) -> &Which {
        match self {
            Self::List { which }
            | Self::Show { which, .. }
            | Self::Diff { which, .. }
            | Self::Promote { which, .. }
            | Self::Rollback { which, .. }
            | Self::History { which, .. }
            | Self::DeleteAlias { which, .. }
            | Self::Retract { which, .. }
            | Self::Hold { which, .. }
            | Self::Release { which, .. }
            | Self::Resolve { which, .. }
            | Self::Fetch { which, .. } => which,
            Self::Gc(collect) => &collect.which,
        }
    }

    /// What errors call this part of the road.
    fn stage(&self) -> Stage {
        match self {
            Self::List { .. } | Self::Show { .. } | Self::Diff { .. } | Self::History { .. } => {
                Stage::Observe
            }
            Self::Resolve { .. } | Self::Fetch { .. } => Stage::Fetch,
            Self::Rollback { .. } => Stage::Rollback,
            _ => Stage::Publish,
        }
    }
}

impl<'a> Desk<'a> {
    async fn open(arguments: &'a Arguments, which: &Which, stage: Stage) -> Result<Self> {
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

    fn note(&self, why: &Why) -> Note {
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

    async fn list(&self) -> Result<()> {
        let versions = self.model.step(self.model.store().list().await)?;
        let json = json!({"versions": versions});
        self.arguments.answer(&told::list(&versions), &json);
        Ok(())
    }

    async fn show(&self, selector: &Selector) -> Result<()> {
        let details = self.details(&self.version(selector).await?).await?;
        let json = json!({"version": details});
        self.arguments.answer(&told::details(&details), &json);
        Ok(())
    }

    async fn diff(&self, from: &Selector, to: &Selector) -> Result<()> {
        let (from, to) = (self.version(from).await?, self.version(to).await?);
        let diff = self.model.step(self.model.store().diff(&from, &to).await)?;
        let json = json!({"from": from, "to": to, "diff": diff});
        self.arguments.answer(&told::diff(&from, &to, &diff), &json);
        Ok(())
    }

    async fn promote(&self, pointer: &PointerName, to: &Selector, why: &Why) -> Result<()> {
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

    async fn rollback(&self, pointer: &PointerName, why: &Why) -> Result<()> {
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

    async fn history(&self, pointer: &PointerName, limit: usize) -> Result<()> {
        let moves = self
            .model
            .step(self.model.store().history(pointer, limit).await)?;
        let text = told::history(pointer, &moves);
        self.arguments
            .answer(&text, &json!({"pointer": pointer, "history": moves}));
        Ok(())
    }

    async fn delete_alias(&self, alias: &str, why: &Why, yes: bool) -> Result<()> {
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

    async fn retract(&self, version: &str, options: &RetractOptions, yes: bool) -> Result<()> {
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

    async fn hold(&self, name: &str, selector: &Selector, why: &Why) -> Result<()> {
        let model = self.locked(selector).await?;
        let held = self.model.store().hold(name, &model, &self.note(why)).await;
        self.model.step(held)?;
        let text = format!("{name} holds {} {}", model.name(), model.version());
        self.arguments
            .answer(&text, &json!({"hold": name, "version": model.version()}));
        Ok(())
    }

    async fn release(&self, name: &str, why: &Why) -> Result<()> {
        let released = self.model.store().release_hold(name, &self.note(why)).await;
        self.model.step(released)?;
        self.arguments
            .answer(&format!("{name} holds nothing"), &json!({"released": name}));
        Ok(())
    }

    async fn collect(&self, collect: &Collect) -> Result<()> {
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

    async fn resolve(&self, lock: Option<&PathBuf>) -> Result<()> {
        let model = self.locked(self.model.selector()).await?;
        if let Some(path) = lock {
            core::write_lock(path, &model)?;
        }
        self.arguments
            .answer(&told::resolved(&model), &json!({"resolved": model}));
        Ok(())
    }

    async fn fetch(&self, dir: &std::path::Path, lock: Option<&PathBuf>) -> Result<()> {
        let known = lock.filter(|path| path.exists());
        let model = match known {
            Some(path) => core::read_lock(path)?,
            None => self.locked(self.model.selector()).await?,
        };
        self.model.fetch(&model, dir, &progress()).await?;
        if let (Some(path), None) = (lock, known) {
            core::write_lock(path, &model)?;
        }
        let text = format!("{}\nin {}", told::resolved(&model), dir.display());
        self.arguments
            .answer(&text, &json!({"fetched": model, "folder": dir}));
        Ok(())
    }
}
