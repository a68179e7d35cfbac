//! `modelship model …`: the versions of one model in its store.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use modelship_model_store::{PointerName, RetractOptions, Selector};
use modelship_pipeline_core::{Result, Stage};

use crate::Arguments;
use crate::desk::Desk;

/// Which model is meant.
#[derive(Args)]
pub(crate) struct Which {
    /// The model, such as s3://BUCKET/FOLDER/NAME@SELECTOR; default the configuration's.
    pub(crate) url: Option<String>,
}

/// Why something is done, for the store's records.
#[derive(Args)]
pub(crate) struct Why {
    /// The reason, for the history.
    #[arg(long)]
    pub(crate) reason: Option<String>,
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
    pub(crate) which: Which,
    /// Leaves alone what was written within so many hours.
    #[arg(long, value_name = "HOURS", default_value_t = 24)]
    pub(crate) grace: u64,
    /// Also removes complete versions, but the last so many.
    #[arg(long, value_name = "COUNT")]
    pub(crate) keep_last: Option<usize>,
    /// Also removes versions that were retracted so many days ago.
    #[arg(long, value_name = "DAYS")]
    pub(crate) retracted_after: Option<u64>,
    /// A lock file whose version must stay; may be repeated.
    #[arg(long, value_name = "FILE")]
    pub(crate) lock: Vec<PathBuf>,
    /// Does it.
    #[arg(long)]
    pub(crate) yes: bool,
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
