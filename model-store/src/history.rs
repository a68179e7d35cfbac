//! The history of a pointer: one small immutable object for each move.
//!
//! An entry is written **before** the pointer moves, under the next free number, and the pointer
//! then carries that number. So the pointer itself says which entries happened: its own, the one
//! that entry follows, and so on. An entry whose mover died or lost is on no such path, and is
//! passed over; nothing has to be repaired. Until the pointer has a higher number, an entry is
//! also the sign that its version may be named any moment, which garbage collection respects.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::manifest::{Pointer, SCHEMA, check_schema};
use crate::names::check_version;
use crate::note::Note;
use crate::pointer_name::PointerName;
use crate::store::{Fetched, ModelStore};

const STAGE: &str = "read history";
/// The folder of all histories.
pub(crate) const FOLDER: &str = "history";
/// Requests in flight while reading entries.
pub(crate) const LOOKUPS: usize = 16;
/// Tries for a free number: more than there are movers at one moment.
const TRIES: usize = 64;
/// How far back a way back is looked for.
const STEPS: usize = 1000;

/// One move of a pointer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Move {
    schema_version: u32,
    /// Its number; numbers rise, with gaps where a move did not come to pass.
    pub sequence: u64,
    /// The number of the move before it; 0 for the first.
    pub follows: u64,
    /// The version that is named from here on; none when the pointer was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What that version holds, as `sha256:…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree_digest: Option<String>,
    /// The version that was named before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// The number of the earlier move whose state this one brings back: it is a rollback, and the
    /// next one goes further back from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restores: Option<u64>,
    /// Who moved it, when and why.
    #[serde(default)]
    pub note: Note,
}

impl Move {
    pub(crate) fn new(target: Option<&Pointer>, restores: Option<u64>, note: Note) -> Self {
        Self {
            schema_version: SCHEMA,
            sequence: 0,
            follows: 0,
            version: target.map(|target| target.version.clone()),
            tree_digest: target.map(|target| target.tree_digest.clone()),
            previous: None,
            restores,
            note,
        }
    }

    /// What is named from here on.
    pub(crate) fn target(&self) -> Option<Pointer> {
        let (version, digest) = (self.version.as_ref()?, self.tree_digest.as_ref()?);
        Some(Pointer::new(version, digest))
    }

    fn parse(bytes: &[u8], sequence: u64) -> Result<Self, String> {
        let entry: Self = serde_json::from_slice(bytes)
            .map_err(|error| format!("the document cannot be read: {error}"))?;
        check_schema(entry.schema_version)?;
        if entry.sequence != sequence || entry.follows >= sequence {
            return Err("its number is not the one of its name".to_owned());
        }
        if entry.restores.is_some_and(|restored| restored >= sequence) {
            return Err("it brings back a later move".to_owned());
        }
        entry.version.as_deref().map_or(Ok(()), check_version)?;
        Ok(entry)
    }
}

impl ModelStore {
    /// The moves of a pointer that came to pass, newest first, `limit` of them at most.
    ///
    /// # Errors
    /// `Invalid` for a document that breaks a rule, and those of the store.
    pub async fn history(&self, pointer: &PointerName, limit: usize) -> Result<Vec<Move>> {
        let tip = self.state(pointer).await?.sequence;
        let numbers = self.numbers(pointer).await?;
        let entries = numbers.into_iter().rev().filter(|number| *number <= tip);
        let mut entries = stream::iter(entries)
            .map(|number| self.entry(pointer, number))
            .buffered(LOOKUPS);
        let (mut moves, mut next) = (Vec::new(), tip);
        while moves.len() < limit
            && let Some(entry) = entries.try_next().await?
        {
            if let Some(entry) = entry
                && entry.sequence == next
            {
                next = entry.follows;
                moves.push(entry);
            }
        }
        Ok(moves)
    }

    /// Writes `entry` under the next free number after `after`, the pointer's own.
    pub(crate) async fn append(
        &self,
        pointer: &PointerName,
        mut entry: Move,
        after: u64,
    ) -> Result<Move> {
        entry.follows = after;
        entry.sequence = after + 1;
        for _ in 0..TRIES {
            let path = entry_path(pointer, entry.sequence);
            let bytes = serde_json::to_vec_pretty(&entry).map_err(|error| {
                Error::invalid(STAGE, self.name_of(&path), "the entry cannot be written")
                    .with_source(error)
            })?;
            if self.create(STAGE, &path, bytes).await? {
                return Ok(entry);
            }
            let last = self.numbers(pointer).await?.pop().unwrap_or(0);
            entry.sequence = last.max(entry.sequence) + 1;
        }
        let detail = "too many others are moving it at the same moment";
        let object = self.name_of(&pointer.path());
        Err(Error::new(ErrorKind::Conflict, STAGE, object, detail).with_hint("try again"))
    }

    /// The newest state before the present one that names a version which can be used, and the
    /// move that it is the state of. What was rolled back from is not a way back.
    pub(crate) async fn way_back(
        &self,
        pointer: &PointerName,
        tip: u64,
        now: Option<&str>,
    ) -> Result<Option<(u64, Pointer)>> {
        let (mut at, mut below) = (tip, false);
        for _ in 0..STEPS {
            let Some(entry) = self.entry_if_any(pointer, at).await? else {
                return Ok(None);
            };
            if let Some(restored) = entry.restores {
                at = restored;
                continue;
            }
            if below
                && let Some(target) = entry.target()
                && now != Some(target.version.as_str())
                && self.is_usable(&target).await?
            {
                return Ok(Some((at, target)));
            }
            (at, below) = (entry.follows, true);
        }
        Ok(None)
    }

    /// The entries that a pointer has not reached or passed, by the number it has: their movers
    /// are at work, or died.
    pub(crate) async fn pending(
        &self,
        tips: &BTreeMap<PointerName, u64>,
    ) -> Result<Vec<(PointerName, Move)>> {
        let listed = self.objects_below(STAGE, FOLDER).await?;
        let named = listed.keys().filter_map(|path| parse_entry_path(path));
        let tip = |pointer: &PointerName| tips.get(pointer).copied().unwrap_or(0);
        let ahead: Vec<(PointerName, u64)> = named
            .filter(|(pointer, number)| *number > tip(pointer))
            .collect();
        let read = |(pointer, number): (PointerName, u64)| async move {
            let entry = self.entry(&pointer, number).await?;
            Ok::<_, Error>(entry.map(|entry| (pointer, entry)))
        };
        let found: Vec<Option<(PointerName, Move)>> = stream::iter(ahead)
            .map(read)
            .buffered(LOOKUPS)
            .try_collect()
            .await?;
        Ok(found.into_iter().flatten().collect())
    }

    async fn entry_if_any(&self, pointer: &PointerName, number: u64) -> Result<Option<Move>> {
        if number == 0 {
            return Ok(None);
        }
        self.entry(pointer, number).await
    }

    async fn entry(&self, pointer: &PointerName, number: u64) -> Result<Option<Move>> {
        let path = entry_path(pointer, number);
        match self.fetch(STAGE, &path, None).await? {
            Fetched::Found { bytes, .. } => Move::parse(&bytes, number).map(Some).map_err(|why| {
                Error::invalid(STAGE, self.name_of(&path), why)
                    .with_hint("someone else wrote it: remove it")
            }),
            Fetched::Missing | Fetched::NotModified => Ok(None),
        }
    }

    /// The numbers that are taken, sorted.
    async fn numbers(&self, pointer: &PointerName) -> Result<Vec<u64>> {
        let named = self.documents(STAGE, &folder(pointer)).await?;
        let mut numbers: Vec<u64> = named.keys().filter_map(|name| parse_number(name)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }
}

fn folder(pointer: &PointerName) -> String {
    match pointer {
        PointerName::Latest => format!("{FOLDER}/latest"),
        PointerName::Alias(alias) => format!("{FOLDER}/aliases/{alias}"),
    }
}

/// Twenty digits: every number has a place in the order of names.
fn entry_path(pointer: &PointerName, number: u64) -> String {
    format!("{}/{number:020}.json", folder(pointer))
}

/// The reverse of [`entry_path`], inside the folder of all histories.
fn parse_entry_path(path: &str) -> Option<(PointerName, u64)> {
    let (folder, name) = path.rsplit_once('/')?;
    let number = parse_number(name.strip_suffix(".json")?)?;
    let pointer = match folder.strip_prefix("aliases/") {
        Some(alias) => PointerName::alias(alias).ok()?,
        None if folder == "latest" => PointerName::Latest,
        None => return None,
    };
    Some((pointer, number))
}

fn parse_number(name: &str) -> Option<u64> {
    let number = name.parse().ok()?;
    // What has another number of digits was not written by us and has no place in the order.
    (name.len() == 20 && name.bytes().all(|b| b.is_ascii_digit()) && number > 0).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_entries_are_read_back() {
        for pointer in ["latest", "alias:prod"] {
            let pointer: PointerName = pointer.parse().unwrap();
            let path = entry_path(&pointer, 7);
            let inside = path.strip_prefix("history/").unwrap();
            assert_eq!(parse_entry_path(inside), Some((pointer, 7)));
        }
        for odd in [
            "latest/7.json",
            "x/00000000000000000007.json",
            "latest/x",
            "00000000000000000007.json",
        ] {
            assert_eq!(parse_entry_path(odd), None, "{odd}");
        }
    }

    #[test]
    fn entries_are_checked() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let mut entry = Move::new(Some(&Pointer::new("1", &digest)), None, Note::default());
        (entry.sequence, entry.follows) = (3, 2);
        let bytes = |entry: &Move| serde_json::to_vec(entry).unwrap();
        assert_eq!(Move::parse(&bytes(&entry), 3).unwrap(), entry);
        assert!(Move::parse(&bytes(&entry), 4).is_err());
        for odd in [(3, None), (2, Some(3))] {
            let mut odd_one = entry.clone();
            (odd_one.follows, odd_one.restores) = odd;
            assert!(Move::parse(&bytes(&odd_one), 3).is_err(), "{odd:?}");
        }
        entry.version = Some("../x".into());
        assert!(Move::parse(&bytes(&entry), 3).is_err());
        assert!(Move::parse(b"{}", 3).is_err());
    }
}
