//! The reference model: what a store holds, read from its raw objects, and what an operation that
//! nobody disturbs makes of it.

use std::collections::{BTreeMap, BTreeSet};

use futures::TryStreamExt;
use modelship_model_store::{ErrorKind, PointerName};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::Value;

use super::{Op, VERSIONS, content_digest};

/// One move that came to pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) sequence: u64,
    /// What it names and its tree digest; nothing when it removed the pointer.
    pub(crate) target: Option<(String, String)>,
    restores: Option<u64>,
}

/// Everything that matters in a store. Two stores with equal worlds behave the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct World {
    /// What each version is claimed for.
    pub(crate) claims: BTreeMap<String, String>,
    /// The tree digests of complete versions.
    pub(crate) complete: BTreeMap<String, String>,
    pub(crate) retracted: BTreeSet<String>,
    pub(crate) marks: BTreeSet<String>,
    /// The moves of each pointer, oldest first.
    pub(crate) pointers: BTreeMap<PointerName, Vec<Moved>>,
    /// Moves that were announced and have not come to pass.
    pub(crate) pending: BTreeMap<PointerName, Vec<Option<String>>>,
    /// The last number that was given out.
    last: BTreeMap<PointerName, u64>,
    pub(crate) holds: BTreeMap<String, BTreeSet<String>>,
}

/// What an operation says in the end: success, or one of these.
pub(crate) type Verdict = Result<(), Vec<ErrorKind>>;

fn text(value: &Value, key: &str) -> Option<String> {
    value[key].as_str().map(str::to_owned)
}

impl World {
    /// Reads the raw objects, with nothing of the library.
    pub(crate) async fn read(raw: &dyn ObjectStore, root: &str) -> Self {
        let prefix = Path::parse(root).unwrap();
        let listed: Vec<_> = raw.list(Some(&prefix)).try_collect().await.unwrap();
        let mut documents = BTreeMap::new();
        for meta in listed {
            let path = meta.location.as_ref()[root.len() + 1..].to_owned();
            if !path.contains("/files/") {
                let bytes = raw
                    .get(&meta.location)
                    .await
                    .unwrap()
                    .bytes()
                    .await
                    .unwrap();
                documents.insert(path, serde_json::from_slice(&bytes).unwrap());
            }
        }
        let mut world = Self::default();
        for (path, value) in &documents {
            world.take(path, value);
        }
        world.take_histories(&documents);
        world
    }

    fn take(&mut self, path: &str, value: &Value) {
        let name = |text: &str| text.trim_end_matches(".json").to_owned();
        match path.split('/').collect::<Vec<_>>()[..] {
            ["versions", version, "claim.json"] => {
                self.claims
                    .insert(version.into(), text(value, "tree_digest").unwrap());
            }
            ["versions", version, "manifest.json"] => {
                self.complete
                    .insert(version.into(), text(value, "tree_digest").unwrap());
            }
            ["retracted", version] => {
                self.retracted.insert(name(version));
            }
            ["removing", version] => {
                self.marks.insert(name(version));
            }
            ["holds", hold] => {
                let held: BTreeSet<String> = value["versions"]
                    .as_object()
                    .unwrap()
                    .keys()
                    .cloned()
                    .collect();
                if !held.is_empty() {
                    self.holds.insert(name(hold), held);
                }
            }
            _ => {}
        }
    }

    fn take_histories(&mut self, documents: &BTreeMap<String, Value>) {
        let places = [
            ("latest", "latest.json"),
            ("a0", "aliases/a0.json"),
            ("a1", "aliases/a1.json"),
        ];
        for (name, document) in places {
            let pointer: PointerName = name.parse().unwrap();
            let folder = match &pointer {
                PointerName::Latest => "history/latest/".to_owned(),
                PointerName::Alias(alias) => format!("history/aliases/{alias}/"),
            };
            let entries: BTreeMap<u64, &Value> = documents
                .iter()
                .filter(|(path, _)| path.starts_with(&folder))
                .map(|(_, value)| (value["sequence"].as_u64().unwrap(), value))
                .collect();
            let tip = documents.get(document);
            let mut at = tip.map_or(0, |tip| tip["sequence"].as_u64().unwrap());
            let reached = at;
            let mut moves = Vec::new();
            while at != 0 {
                let entry = entries[&at];
                let target = text(entry, "version").zip(text(entry, "tree_digest"));
                moves.push(Moved {
                    sequence: at,
                    target,
                    restores: entry["restores"].as_u64(),
                });
                at = entry["follows"].as_u64().unwrap();
            }
            moves.reverse();
            for pair in moves.windows(2) {
                let before = pair[0].target.as_ref().map(|(version, _)| version.clone());
                assert_eq!(text(entries[&pair[1].sequence], "previous"), before);
            }
            if let (Some(tip), Some(last)) = (tip, moves.last()) {
                assert_eq!(
                    text(tip, "version").zip(text(tip, "tree_digest")),
                    last.target
                );
            }
            let ahead = entries
                .range(reached + 1..)
                .map(|(_, entry)| text(entry, "version"));
            self.pending.insert(pointer.clone(), ahead.collect());
            self.last
                .insert(pointer.clone(), entries.keys().last().copied().unwrap_or(0));
            self.pointers.insert(pointer, moves);
        }
    }

    /// What a pointer names.
    pub(crate) fn target(&self, pointer: &PointerName) -> Option<&str> {
        let (version, _) = self.pointers[pointer].last()?.target.as_ref()?;
        Some(version)
    }

    /// The highest version that `latest` may mean without a pointer.
    pub(crate) fn highest(&self) -> Option<&String> {
        self.complete
            .keys()
            .filter(|version| !self.retracted.contains(*version))
            .max()
    }

    fn aliases(&self) -> Vec<PointerName> {
        let all = self.pointers.keys();
        all.filter(|pointer| **pointer != PointerName::Latest)
            .cloned()
            .collect()
    }

    fn push(
        &mut self,
        pointer: &PointerName,
        target: Option<(String, String)>,
        restores: Option<u64>,
    ) {
        let sequence = self.announce(pointer, None);
        self.pending.get_mut(pointer).unwrap().clear();
        self.pointers.get_mut(pointer).unwrap().push(Moved {
            sequence,
            target,
            restores,
        });
    }

    fn announce(&mut self, pointer: &PointerName, version: Option<String>) -> u64 {
        self.pending.get_mut(pointer).unwrap().push(version);
        let last = self.last.get_mut(pointer).unwrap();
        *last += 1;
        *last
    }

    /// Where a rollback goes, as a person would find it: what was undone is crossed out, and of
    /// the rest the newest that differs and can be used is it.
    fn way_back(&self, pointer: &PointerName) -> Option<(u64, (String, String))> {
        let mut stack: Vec<&Moved> = Vec::new();
        let mut state_of = BTreeMap::new();
        for moved in &self.pointers[pointer] {
            let Some(restored) = moved.restores else {
                state_of.insert(moved.sequence, moved.sequence);
                stack.push(moved);
                continue;
            };
            let root = state_of[&restored];
            state_of.insert(moved.sequence, root);
            stack.truncate(
                stack
                    .iter()
                    .position(|moved| moved.sequence == root)
                    .unwrap()
                    + 1,
            );
        }
        stack.pop();
        let now = self.target(pointer);
        stack.into_iter().rev().find_map(|moved| {
            let (version, digest) = moved.target.clone()?;
            let usable = self.complete.get(&version) == Some(&digest)
                && !self.retracted.contains(&version)
                && !self.marks.contains(&version);
            (usable && now != Some(version.as_str())).then_some((moved.sequence, (version, digest)))
        })
    }

    /// What an operation does, and says, when nobody disturbs it.
    pub(crate) fn apply(&mut self, op: &Op, lock: Option<&(String, String)>) -> Verdict {
        match op {
            Op::Publish {
                version,
                content,
                latest,
            } => self.publish(version, *content, *latest),
            Op::Promote { pointer, version } => self.promote(pointer, version),
            Op::Rollback(pointer) => {
                let (root, target) = self
                    .way_back(pointer)
                    .ok_or_else(|| vec![ErrorKind::NotFound])?;
                self.push(pointer, Some(target), Some(root));
                Ok(())
            }
            Op::Delete(alias) => {
                let pointer = PointerName::alias(alias).unwrap();
                self.target(&pointer)
                    .ok_or_else(|| vec![ErrorKind::NotFound])?;
                self.push(&pointer, None, None);
                Ok(())
            }
            Op::Retract { version, force } => self.retract(version, *force),
            Op::Hold { name, .. } => lock.map_or(Ok(()), |lock| self.hold(name, lock)),
            Op::Release(name) => match self.holds.remove(name) {
                Some(_) => Ok(()),
                None => Err(vec![ErrorKind::NotFound]),
            },
            Op::Collect {
                keep_last,
                retracted,
            } => {
                self.collect(*keep_last, *retracted);
                Ok(())
            }
            Op::Learn(_) => Ok(()),
        }
    }

    fn publish(&mut self, version: &str, content: u8, latest: bool) -> Verdict {
        let digest = content_digest(content);
        if self.retracted.contains(version) {
            return Err(vec![ErrorKind::Retracted]);
        }
        let known = self.complete.get(version);
        let other = |known: Option<&String>| known.is_some_and(|known| *known != digest);
        if self.marks.contains(version)
            || other(known)
            || (known.is_none() && other(self.claims.get(version)))
        {
            return Err(vec![ErrorKind::Conflict]);
        }
        let is_new = known.is_none();
        self.claims.insert(version.to_owned(), digest.clone());
        self.complete.insert(version.to_owned(), digest.clone());
        let now = self.target(&PointerName::Latest);
        let moves = is_new || now.is_none_or(|now| version > now);
        if latest && moves && now != Some(version) {
            self.push(
                &PointerName::Latest,
                Some((version.to_owned(), digest)),
                None,
            );
        }
        Ok(())
    }

    fn promote(&mut self, pointer: &PointerName, version: &str) -> Verdict {
        if self.retracted.contains(version) {
            // Without its files, it may as well be said to be gone.
            return Err(vec![ErrorKind::Retracted, ErrorKind::NotFound]);
        }
        let digest = self
            .complete
            .get(version)
            .ok_or_else(|| vec![ErrorKind::NotFound])?
            .clone();
        let target = Some((version.to_owned(), digest));
        let there = self.pointers[pointer]
            .last()
            .is_some_and(|last| last.target == target);
        if self.marks.contains(version) {
            if !there {
                self.announce(pointer, Some(version.to_owned()));
            }
            return Err(vec![ErrorKind::Conflict]);
        }
        if !there {
            self.push(pointer, target, None);
        }
        Ok(())
    }

    fn retract(&mut self, version: &str, force: bool) -> Verdict {
        let mut pointers = self.aliases();
        pointers.retain(|alias| self.target(alias) == Some(version));
        if !force && !pointers.is_empty() {
            return Err(vec![ErrorKind::Conflict]);
        }
        if !self.retracted.contains(version) && !self.complete.contains_key(version) {
            return Err(vec![ErrorKind::NotFound]);
        }
        self.retracted.insert(version.to_owned());
        if self.target(&PointerName::Latest) == Some(version) {
            pointers.push(PointerName::Latest);
        }
        for pointer in pointers {
            let (restores, target) = self.way_back(&pointer).unzip();
            self.push(&pointer, target, restores);
        }
        Ok(())
    }

    fn hold(&mut self, name: &str, (version, digest): &(String, String)) -> Verdict {
        if self.marks.contains(version) {
            return Err(vec![ErrorKind::Conflict]);
        }
        match self.complete.get(version) {
            None => Err(vec![ErrorKind::NotFound]),
            Some(other) if other != digest => Err(vec![ErrorKind::Changed]),
            Some(_) => {
                self.holds.insert(name.to_owned(), [version.clone()].into());
                Ok(())
            }
        }
    }

    fn collect(&mut self, keep_last: Option<usize>, retracted: bool) {
        let mut locked: BTreeSet<String> = self.holds.values().flatten().cloned().collect();
        locked.extend(
            self.pointers
                .keys()
                .filter_map(|pointer| self.target(pointer))
                .map(str::to_owned),
        );
        locked.extend(self.pending.values().flatten().flatten().cloned());
        if self.target(&PointerName::Latest).is_none() {
            locked.extend(self.highest().cloned());
        }
        let good: Vec<&String> = self
            .complete
            .keys()
            .filter(|version| !self.retracted.contains(*version))
            .collect();
        let beyond = keep_last.map_or(0, |keep| good.len().saturating_sub(keep));
        let superseded: BTreeSet<String> = good.into_iter().take(beyond).cloned().collect();
        for version in VERSIONS {
            let garbage = if !self.complete.contains_key(version) {
                true
            } else if self.retracted.contains(version) {
                retracted
            } else {
                superseded.contains(version)
            };
            if garbage && !locked.contains(version) {
                self.complete.remove(version);
                self.claims.remove(version);
            }
        }
        self.marks.clear();
    }
}
