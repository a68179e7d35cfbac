//! Moves pointers by compare-and-swap: `latest.json` and aliases.
//!
//! A move has four steps: its entry in the history is written; the version is looked at once more;
//! the pointer is swapped; and whether the version was retracted meanwhile is looked at again.
//! Garbage collection writes its mark first and looks for entries then, so of the two one always
//! sees the other.

use std::collections::BTreeMap;

use futures::future::try_join3;
use futures::{StreamExt, TryStreamExt, stream};

use crate::error::{Error, ErrorKind, Result};
use crate::history::{LOOKUPS, Move};
use crate::manifest::Pointer;
use crate::note::Note;
use crate::pointer_name::PointerName;
use crate::resolve::manifest_path;
use crate::retract::retraction_path;
use crate::selector::Selector;
use crate::store::ModelStore;
use crate::swap::{Seen, Swapped};

const STAGE: &str = "move pointer";
/// The folder of the aliases.
const ALIASES: &str = "aliases";

/// What a pointer was when it was looked at.
#[derive(Clone, Debug)]
pub(crate) struct State {
    seen: Seen,
    /// What it named; nothing when it was not there, or removed.
    pub(crate) target: Option<Pointer>,
    /// The number of its last move; 0 when it has no history.
    pub(crate) sequence: u64,
}

/// Where a pointer shall go.
#[derive(Clone, Debug)]
pub(crate) struct Intent {
    /// What to name; nothing to remove it.
    pub(crate) target: Option<Pointer>,
    /// The move whose state comes back, in a rollback.
    pub(crate) restores: Option<u64>,
    pub(crate) note: Note,
}

impl ModelStore {
    /// Makes `alias` name `version`, which must be complete. Read it with [`Selector::Alias`].
    ///
    /// # Errors
    /// Those of [`promote`](Self::promote).
    pub async fn set_alias(&self, alias: &str, version: &str) -> Result<()> {
        let pointer = PointerName::alias(alias)?;
        self.promote(&pointer, version, &Note::default())
            .await
            .map(drop)
    }

    /// Makes `latest` name `version`, which must be complete.
    ///
    /// # Errors
    /// Those of [`promote`](Self::promote).
    pub async fn set_latest(&self, version: &str) -> Result<()> {
        self.promote(&PointerName::Latest, version, &Note::default())
            .await
            .map(drop)
    }

    /// Makes a pointer name `version`, and gives the move; nothing when it named it already.
    ///
    /// # Errors
    /// `Invalid` for a bad name, `NotFound` for a version that is not there, `Retracted` for one
    /// that is retracted, `Conflict` when someone else moved the pointer at the same moment or
    /// garbage collection removes the version, and those of the store.
    pub async fn promote(
        &self,
        pointer: &PointerName,
        version: &str,
        note: &Note,
    ) -> Result<Option<Move>> {
        note.check(STAGE)?;
        let model = self.resolve(&Selector::Version(version.to_owned())).await?;
        let state = self.state(pointer).await?;
        let intent = Intent {
            target: Some(Pointer::new(model.version(), model.tree_digest())),
            restores: None,
            note: note.clone(),
        };
        self.move_to(pointer, &state, intent).await
    }

    /// Makes a pointer name what it named before, and gives the move. Versions that are gone or
    /// retracted are passed over; a second rollback goes further back, not forth again.
    ///
    /// # Errors
    /// `NotFound` when there is no such version; otherwise as [`promote`](Self::promote).
    pub async fn rollback(&self, pointer: &PointerName, note: &Note) -> Result<Option<Move>> {
        note.check(STAGE)?;
        let state = self.state(pointer).await?;
        let now = state.target.as_ref().map(|target| target.version.as_str());
        let Some((restored, target)) = self.way_back(pointer, state.sequence, now).await? else {
            let object = self.name_of(&pointer.path());
            let detail = "its history has no earlier version that can be used";
            return Err(Error::new(ErrorKind::NotFound, STAGE, object, detail)
                .with_hint("promote a version by its name"));
        };
        let intent = Intent {
            target: Some(target),
            restores: Some(restored),
            note: note.clone(),
        };
        self.move_to(pointer, &state, intent).await
    }

    /// Removes an alias. Its history stays, and goes on when it is set again.
    ///
    /// # Errors
    /// `NotFound` when there is none; otherwise as [`promote`](Self::promote).
    pub async fn delete_alias(&self, alias: &str, note: &Note) -> Result<()> {
        note.check(STAGE)?;
        let pointer = PointerName::alias(alias)?;
        let state = self.state(&pointer).await?;
        if state.target.is_none() {
            let known: Vec<String> = self.aliases().await?.into_keys().collect();
            let detail = match known.as_slice() {
                [] => "there is no such alias, and no other".to_owned(),
                known => format!("there is no such alias: found {}", known.join(", ")),
            };
            let object = self.name_of(&pointer.path());
            return Err(Error::new(ErrorKind::NotFound, STAGE, object, detail)
                .with_hint("name one that is there"));
        }
        let intent = Intent {
            target: None,
            restores: None,
            note: note.clone(),
        };
        self.move_to(&pointer, &state, intent).await.map(drop)
    }

    /// The aliases, and the version each one names.
    ///
    /// # Errors
    /// `Invalid` for a document that breaks a rule, and those of the store.
    pub async fn aliases(&self) -> Result<BTreeMap<String, String>> {
        let states = self.pointers().await?.into_iter();
        let named = states.filter_map(|(pointer, state)| match (pointer, state.target) {
            (PointerName::Alias(alias), Some(target)) => Some((alias, target.version)),
            _ => None,
        });
        Ok(named.collect())
    }

    /// Every pointer that there is, removed ones included.
    pub(crate) async fn pointers(&self) -> Result<BTreeMap<PointerName, State>> {
        let named = self.documents(STAGE, ALIASES).await?;
        let mut pointers = vec![PointerName::Latest];
        pointers.extend(
            named
                .keys()
                .filter_map(|name| PointerName::alias(name).ok()),
        );
        let read = |pointer: PointerName| async move {
            let state = self.state(&pointer).await?;
            Ok::<_, Error>((pointer, state))
        };
        stream::iter(pointers)
            .map(read)
            .buffered(LOOKUPS)
            .try_collect()
            .await
    }

    /// Looks at a pointer.
    pub(crate) async fn state(&self, pointer: &PointerName) -> Result<State> {
        let path = pointer.path();
        let seen = self.see(STAGE, &path).await?;
        let (target, sequence) = match seen.bytes() {
            Some(bytes) => Pointer::parse_moved(bytes).map_err(|why| {
                Error::invalid(STAGE, self.name_of(&path), why)
                    .with_hint("someone else wrote it: remove it, then set it again")
            })?,
            None => (None, 0),
        };
        Ok(State {
            seen,
            target,
            sequence,
        })
    }

    /// Moves a pointer from a state that was seen. Nothing is done, and nothing given, when it is
    /// there already.
    pub(crate) async fn move_to(
        &self,
        pointer: &PointerName,
        from: &State,
        intent: Intent,
    ) -> Result<Option<Move>> {
        let target = intent.target.clone();
        let Some(moved) = self.try_move(pointer, from, intent).await? else {
            return Ok(None);
        };
        let Some(target) = target else {
            return Ok(Some(moved));
        };
        // Retracted between the look and the swap: whoever retracts may have missed us.
        if let Some(retraction) = self.retraction(&target.version).await? {
            let back = Intent {
                target: from.target.clone(),
                restores: Some(from.sequence).filter(|sequence| *sequence > 0),
                note: Note::default().because("the version was retracted at the same moment"),
            };
            let now = self.state(pointer).await?;
            if now.sequence == moved.sequence {
                // If this fails as well, the pointer names a retracted version, and is refused.
                let _ = self.try_move(pointer, &now, back).await;
            }
            return Err(self.retracted_error(STAGE, &retraction));
        }
        Ok(Some(moved))
    }

    async fn try_move(
        &self,
        pointer: &PointerName,
        from: &State,
        intent: Intent,
    ) -> Result<Option<Move>> {
        if from.target == intent.target {
            if let Some(target) = &intent.target {
                self.check_usable(target).await?;
            }
            return Ok(None);
        }
        let mut entry = Move::new(intent.target.as_ref(), intent.restores, intent.note);
        entry.previous = from.target.as_ref().map(|target| target.version.clone());
        let entry = self.append(pointer, entry, from.sequence).await?;
        if let Some(target) = &intent.target {
            self.check_usable(target).await?;
        }
        let path = pointer.path();
        let bytes =
            Pointer::moved_bytes(intent.target.as_ref(), entry.sequence).map_err(|error| {
                Error::invalid(STAGE, self.name_of(&path), "the pointer cannot be written")
                    .with_source(error)
            })?;
        match self.swap(STAGE, &path, bytes, &from.seen).await? {
            Swapped::Won => Ok(Some(entry)),
            Swapped::Lost => self.lost(pointer, entry).await,
        }
    }

    /// The end of a lost race: fine if the winner wrote the same, or was ourselves in a request
    /// whose answer was lost.
    async fn lost(&self, pointer: &PointerName, entry: Move) -> Result<Option<Move>> {
        let now = self.state(pointer).await?;
        if now.sequence == entry.sequence {
            return Ok(Some(entry));
        }
        if now.target == entry.target() {
            return Ok(None);
        }
        let names = |version: Option<&str>| match version {
            Some(version) => format!("version {version}"),
            None => "nothing".to_owned(),
        };
        let detail = format!(
            "someone else moved it meanwhile: it now names {}, not {}",
            names(now.target.as_ref().map(|target| target.version.as_str())),
            names(entry.version.as_deref())
        );
        let object = self.name_of(&pointer.path());
        Err(Error::new(ErrorKind::Conflict, STAGE, object, detail)
            .with_hint("look at what was published and, if yours shall be named, set it again"))
    }

    /// Whether a pointer may name this: it is there, not retracted, and not being removed.
    pub(crate) async fn is_usable(&self, target: &Pointer) -> Result<bool> {
        let same = self.manifest(&target.version).await?;
        if same.is_none_or(|manifest| manifest.tree_digest != target.tree_digest) {
            return Ok(false);
        }
        match self.check_usable(target).await {
            Ok(()) => Ok(true),
            Err(error) => match error.kind() {
                ErrorKind::Retracted | ErrorKind::Conflict | ErrorKind::NotFound => Ok(false),
                _ => Err(error),
            },
        }
    }

    /// Refuses a version that is gone, retracted, or being removed.
    async fn check_usable(&self, target: &Pointer) -> Result<()> {
        let version = target.version.as_str();
        let (retracted, mark, manifest) = (
            retraction_path(version),
            mark_path(version),
            manifest_path(version),
        );
        let (retracted, marked, manifest) = try_join3(
            self.head(STAGE, &retracted),
            self.head(STAGE, &mark),
            self.head(STAGE, &manifest),
        )
        .await?;
        if retracted.is_some()
            && let Some(retraction) = self.retraction(version).await?
        {
            return Err(self.retracted_error(STAGE, &retraction));
        }
        if marked.is_some() {
            return Err(self.marked_error(STAGE, version));
        }
        if manifest.is_none() {
            let object = self.name_of(&format!("versions/{version}"));
            let detail = "it has no manifest: it was removed meanwhile, or others uploaded it";
            return Err(Error::new(ErrorKind::NotFound, STAGE, object, detail)
                .with_hint("choose another version, or publish this one"));
        }
        Ok(())
    }

    /// The error of whoever wants a version that garbage collection is removing.
    pub(crate) fn marked_error(&self, stage: &'static str, version: &str) -> Error {
        let object = self.name_of(&format!("versions/{version}"));
        let detail = "garbage collection is removing this version";
        Error::new(ErrorKind::Conflict, stage, object, detail).with_hint(
            "if no garbage collection runs, one was interrupted: let another one finish, then try again",
        )
    }
}

/// The path of the document that marks a version for removal.
pub(crate) fn mark_path(version: &str) -> String {
    format!("removing/{version}.json")
}
