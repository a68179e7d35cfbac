//! Holds: versions that garbage collection must leave alone, because something runs on them.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::history::LOOKUPS;
use crate::manifest::{SCHEMA, check_schema};
use crate::model::ModelVersion;
use crate::names::check_name;
use crate::note::Note;
use crate::pointer::mark_path;
use crate::store::ModelStore;
use crate::swap::{Seen, Swapped};

const STAGE: &str = "hold model";
/// The folder of the documents.
const FOLDER: &str = "holds";

/// A hold, `holds/NAME.json`: what it names is not removed while it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Hold {
    schema_version: u32,
    /// The versions that are held and their tree digests: one, and two while a hold goes from one
    /// to another. A released hold has none.
    pub versions: BTreeMap<String, String>,
    /// Who holds it, since when and why.
    #[serde(default)]
    pub note: Note,
}

impl Hold {
    fn new(versions: impl IntoIterator<Item = (String, String)>, note: &Note) -> Self {
        Self {
            schema_version: SCHEMA,
            versions: versions.into_iter().collect(),
            note: note.clone(),
        }
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let hold: Self = serde_json::from_slice(bytes)
            .map_err(|error| format!("the document cannot be read: {error}"))?;
        check_schema(hold.schema_version)?;
        Ok(hold)
    }
}

impl ModelStore {
    /// Holds a version: garbage collection leaves it alone until the hold `name` is released, or
    /// holds another version. Meant for what is deployed, one name for each place. A retracted
    /// version can be held, too: what runs on it goes on running.
    ///
    /// # Errors
    /// `Invalid` for a bad name or a lock of another store; `NotFound` for a version that is gone,
    /// `Changed` for one that has other content now; `Conflict` when garbage collection is
    /// removing it, or someone else moves the hold; those of the store.
    pub async fn hold(&self, name: &str, model: &ModelVersion, note: &Note) -> Result<()> {
        let path = hold_path(name)?;
        note.check(STAGE)?;
        if model.url() != self.url() {
            let detail = format!("the lock is of {}", model.url());
            return Err(Error::invalid(STAGE, self.name_of(""), detail)
                .with_hint("open the store that the lock names"));
        }
        let new = (model.version().to_owned(), model.tree_digest().to_owned());
        let (seen, before) = self.see_hold(&path).await?;
        let old = before.map(|hold| hold.versions).unwrap_or_default();
        // Both are held until the new one is known to be safe, whatever happens in between.
        let mut both = Hold::new(old.clone(), note);
        both.versions.insert(new.0.clone(), new.1.clone());
        let seen = self.write_hold(&path, &both, &seen).await?;
        if let Err(error) = self.check_held(&new.0, &new.1).await {
            self.write_hold(&path, &Hold::new(old, note), &seen).await?;
            return Err(error);
        }
        if both.versions.len() > 1 {
            self.write_hold(&path, &Hold::new([new], note), &seen)
                .await?;
        }
        Ok(())
    }

    /// Releases a hold.
    ///
    /// # Errors
    /// `NotFound` when nothing is held under this name, `Conflict` when someone else moves the
    /// hold, and those of the store.
    pub async fn release_hold(&self, name: &str, note: &Note) -> Result<()> {
        let path = hold_path(name)?;
        note.check(STAGE)?;
        let (seen, hold) = self.see_hold(&path).await?;
        if hold.is_none_or(|hold| hold.versions.is_empty()) {
            let known: Vec<String> = self.holds().await?.into_keys().collect();
            let detail = match known.as_slice() {
                [] => "nothing is held under this name, nor any other".to_owned(),
                known => format!(
                    "nothing is held under this name, but under {}",
                    known.join(", ")
                ),
            };
            return Err(
                Error::new(ErrorKind::NotFound, STAGE, self.name_of(&path), detail)
                    .with_hint("name a hold that is there"),
            );
        }
        self.write_hold(&path, &Hold::new([], note), &seen).await?;
        Ok(())
    }

    /// What is held, by the names of the holds.
    ///
    /// # Errors
    /// `Invalid` for a document that breaks a rule, and those of the store.
    pub async fn holds(&self) -> Result<BTreeMap<String, Hold>> {
        let read = |name: String| async move {
            let (_, hold) = self.see_hold(&format!("{FOLDER}/{name}.json")).await?;
            Ok::<_, Error>((name, hold))
        };
        let named = self.documents(STAGE, FOLDER).await?;
        let read: Vec<(String, Option<Hold>)> = stream::iter(named.into_keys())
            .map(read)
            .buffered(LOOKUPS)
            .try_collect()
            .await?;
        let held = read
            .into_iter()
            .filter_map(|(name, hold)| Some((name, hold?)));
        Ok(held.filter(|(_, hold)| !hold.versions.is_empty()).collect())
    }

    async fn check_held(&self, version: &str, digest: &str) -> Result<()> {
        if self.head(STAGE, &mark_path(version)).await?.is_some() {
            return Err(self.marked_error(STAGE, version));
        }
        let object = self.name_of(&format!("versions/{version}"));
        match self.manifest(version).await? {
            Some(manifest) if manifest.tree_digest == digest => Ok(()),
            Some(manifest) => {
                let detail = format!("it has other content now: {}", manifest.tree_digest);
                Err(Error::new(ErrorKind::Changed, STAGE, object, detail)
                    .with_hint("resolve the model again"))
            }
            None => {
                let detail = "it is not there, so it cannot be held";
                Err(Error::new(ErrorKind::NotFound, STAGE, object, detail)
                    .with_hint("publish it again, or hold another version"))
            }
        }
    }

    async fn see_hold(&self, path: &str) -> Result<(Seen, Option<Hold>)> {
        let seen = self.see(STAGE, path).await?;
        let hold = seen.bytes().map(Hold::parse).transpose();
        let hold = hold.map_err(|why| {
            Error::invalid(STAGE, self.name_of(path), why)
                .with_hint("someone else wrote it: remove it if nothing relies on it")
        })?;
        Ok((seen, hold))
    }

    /// Writes a hold in the place of what was seen, and gives what is there then.
    async fn write_hold(&self, path: &str, hold: &Hold, seen: &Seen) -> Result<Seen> {
        let bytes = serde_json::to_vec_pretty(hold).map_err(|error| {
            Error::invalid(STAGE, self.name_of(path), "the hold cannot be written")
                .with_source(error)
        })?;
        let swapped = self.swap(STAGE, path, bytes, seen).await?;
        let (now, found) = self.see_hold(path).await?;
        if swapped == Swapped::Won || found.as_ref() == Some(hold) {
            return Ok(now);
        }
        let detail = "someone else moved this hold meanwhile";
        Err(
            Error::new(ErrorKind::Conflict, STAGE, self.name_of(path), detail)
                .with_hint("give every place that runs a model a hold of its own name"),
        )
    }
}

fn hold_path(name: &str) -> Result<String> {
    check_name(name).map_err(|why| {
        Error::invalid(STAGE, format!("hold {name:?}"), why)
            .with_hint("a name has letters, digits and . _ + - only")
    })?;
    Ok(format!("{FOLDER}/{name}.json"))
}
