//! Retraction: a version that is never chosen again, and stays readable by its digest.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::manifest::Pointer;
use crate::names::check_version;
use crate::note::Note;
use crate::pointer::Intent;
use crate::pointer_name::PointerName;
use crate::store::{Fetched, ModelStore};

const STAGE: &str = "retract model";
/// The folder of the documents.
const FOLDER: &str = "retracted";
/// Tries to move a pointer that others move at the same moment.
const TRIES: usize = 16;

/// How to retract.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetractOptions {
    /// Who retracts, when and why.
    pub note: Note,
    /// Moves aliases that name the version back, too; otherwise they are a conflict.
    pub move_aliases: bool,
}

impl RetractOptions {
    /// Sets who retracts, when and why.
    #[must_use]
    pub fn with_note(mut self, note: Note) -> Self {
        self.note = note;
        self
    }

    /// Sets whether aliases that name the version move back.
    #[must_use]
    pub fn with_move_aliases(mut self, move_aliases: bool) -> Self {
        self.move_aliases = move_aliases;
        self
    }
}

/// What a retraction did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RetractReport {
    /// The retraction.
    pub retraction: Retraction,
    /// The pointers that named the version, and the version each names now; none for one that had
    /// nothing to go back to and was removed.
    pub moved: BTreeMap<PointerName, Option<String>>,
}

/// That a version is retracted, `retracted/V.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Retraction {
    /// The version.
    pub version: String,
    /// What it holds, as `sha256:…`; not known where only the names were listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree_digest: Option<String>,
    /// When, by whom and why; empty where only the names were listed.
    #[serde(default)]
    pub note: Note,
}

/// The path of the document that retracts a version.
pub(crate) fn retraction_path(version: &str) -> String {
    format!("{FOLDER}/{version}.json")
}

impl ModelStore {
    /// Retracts a version: from now on no selector chooses it but its digest, no pointer can be
    /// made to name it, and nothing can be published under it again. There is no way back.
    ///
    /// `latest` goes back to the newest version of its history that is complete and not retracted,
    /// and is removed when there is none. An alias that names the version is a conflict, before
    /// anything is done; with [`move_aliases`](RetractOptions::move_aliases) it goes back the same
    /// way. A pointer that someone makes name the version at the same moment is moved back by its
    /// mover, or refuses to be resolved. Repeating an interrupted retraction finishes it.
    ///
    /// # Errors
    /// `NotFound` for a version that is not complete; `Conflict` that lists the aliases; those of
    /// the store.
    pub async fn retract(&self, version: &str, options: &RetractOptions) -> Result<RetractReport> {
        check_version(version).map_err(|why| {
            Error::invalid(STAGE, version, why)
                .with_hint("a name has letters, digits and . _ + - only")
        })?;
        options.note.check(STAGE)?;
        if !options.move_aliases {
            self.check_no_alias(version, "nothing was done").await?;
        }
        let retraction = self.write_retraction(version, &options.note).await?;
        let pointers = self.pointers().await?.into_keys();
        let own = |pointer: &PointerName| options.move_aliases || *pointer == PointerName::Latest;
        let mut moved = BTreeMap::new();
        for pointer in pointers.filter(own) {
            if let Some(now) = self.move_back(&pointer, version, &options.note).await? {
                moved.insert(pointer, now);
            }
        }
        self.check_no_alias(
            version,
            "the version is retracted, and they are refused now",
        )
        .await?;
        Ok(RetractReport { retraction, moved })
    }

    /// Writes the document, once.
    async fn write_retraction(&self, version: &str, note: &Note) -> Result<Retraction> {
        if let Some(retraction) = self.retraction(version).await? {
            return Ok(retraction);
        }
        let object = self.name_of(&format!("versions/{version}"));
        let Some(manifest) = self.manifest(version).await? else {
            let detail = "it is not there, or not complete, so there is nothing to retract";
            return Err(Error::new(ErrorKind::NotFound, STAGE, object, detail)
                .with_hint("`modelship model list` says which versions there are"));
        };
        let retraction = Retraction {
            version: version.to_owned(),
            tree_digest: Some(manifest.tree_digest),
            note: note.clone(),
        };
        let bytes = serde_json::to_vec_pretty(&retraction).map_err(|error| {
            Error::invalid(STAGE, object, "the retraction cannot be written").with_source(error)
        })?;
        if self.create(STAGE, &retraction_path(version), bytes).await? {
            return Ok(retraction);
        }
        Ok(self.retraction(version).await?.unwrap_or(retraction))
    }

    /// Moves a pointer that names `version` back, and gives what it names then; nothing when it
    /// names another version.
    async fn move_back(
        &self,
        pointer: &PointerName,
        version: &str,
        note: &Note,
    ) -> Result<Option<Option<String>>> {
        for _ in 0..TRIES {
            let state = self.state(pointer).await?;
            if state
                .target
                .as_ref()
                .is_none_or(|target| target.version != version)
            {
                return Ok(None);
            }
            let back = self
                .way_back(pointer, state.sequence, Some(version))
                .await?;
            let (restores, target) = match back {
                Some((restored, target)) => (Some(restored), Some(target)),
                None => (None, None),
            };
            let now = target
                .as_ref()
                .map(|target: &Pointer| target.version.clone());
            let intent = Intent {
                target,
                restores,
                note: note.clone(),
            };
            match self.move_to(pointer, &state, intent).await {
                Ok(_) => return Ok(Some(now)),
                // Moved by someone else, or back to a version that is no more: look again.
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::Conflict | ErrorKind::Retracted | ErrorKind::NotFound
                    ) => {}
                Err(error) => return Err(error),
            }
        }
        let detail = "others keep moving it, so it could not be moved back";
        let object = self.name_of(&pointer.path());
        Err(Error::new(ErrorKind::Conflict, STAGE, object, detail)
            .with_hint("retract the version again"))
    }

    async fn check_no_alias(&self, version: &str, so: &str) -> Result<()> {
        let aliases = self.aliases().await?.into_iter();
        let named: Vec<String> = aliases
            .filter(|(_, named)| named == version)
            .map(|(alias, _)| alias)
            .collect();
        if named.is_empty() {
            return Ok(());
        }
        let object = self.name_of(&format!("versions/{version}"));
        let detail = format!("it is named by the aliases {}: {so}", named.join(", "));
        Err(Error::new(ErrorKind::Conflict, STAGE, object, detail)
            .with_hint("move these aliases to another version, or let them go back with it"))
    }

    /// The retracted versions by name, with one list request: enough to leave them out. Their
    /// documents are not read; [`retraction`](Self::retraction) does, for a message.
    pub(crate) async fn retracted(&self) -> Result<BTreeMap<String, Retraction>> {
        let named = self.documents(STAGE, FOLDER).await?;
        let retraction = |version: String| Retraction {
            version,
            tree_digest: None,
            note: Note::default(),
        };
        let versions = named
            .into_keys()
            .filter(|version| check_version(version).is_ok());
        Ok(versions
            .map(|version| (version.clone(), retraction(version)))
            .collect())
    }

    /// Why a version is retracted; nothing when it is not.
    ///
    /// # Errors
    /// Those of the store. A document that cannot be understood still retracts.
    pub async fn retraction(&self, version: &str) -> Result<Option<Retraction>> {
        let path = retraction_path(version);
        let bytes = match self.fetch(STAGE, &path, None).await? {
            Fetched::Found { bytes, .. } => bytes,
            Fetched::Missing | Fetched::NotModified => return Ok(None),
        };
        let found = serde_json::from_slice(&bytes).unwrap_or(Retraction {
            version: String::new(),
            tree_digest: None,
            note: Note::default(),
        });
        Ok(Some(Retraction {
            version: version.to_owned(),
            ..found
        }))
    }

    /// The error of whoever asks for a retracted version by its name.
    pub(crate) fn retracted_error(&self, stage: &'static str, retraction: &Retraction) -> Error {
        let note = &retraction.note;
        let said = [(" on ", &note.at), (" by ", &note.by), (": ", &note.reason)];
        let said = said
            .into_iter()
            .filter_map(|(word, text)| Some([word, text.as_deref()?]));
        let said: Vec<&str> = said.flatten().collect();
        let detail = format!("the version is retracted{}", said.concat());
        let object = self.name_of(&format!("versions/{}", retraction.version));
        Error::new(ErrorKind::Retracted, stage, object, detail)
            .with_hint("choose another version; its bytes are still read by their sha256 digest")
    }
}
