//! Which versions must stay, and because of whom.

use std::collections::BTreeMap;

use crate::error::{ErrorKind, Result};
use crate::gc::GcOptions;
use crate::pointer_name::PointerName;
use crate::selector::Selector;
use crate::store::ModelStore;

/// The locked versions, with who locks them.
#[derive(Debug, Default)]
pub(super) struct Locks {
    versions: BTreeMap<String, Vec<String>>,
    /// By what they hold: a lock knows its content better than its name.
    digests: BTreeMap<String, Vec<String>>,
}

impl Locks {
    fn add(&mut self, version: &str, by: String) {
        self.versions
            .entry(version.to_owned())
            .or_default()
            .push(by);
    }

    /// Who locks a version with this content; empty when nobody does.
    pub(super) fn of(&self, version: &str, digest: Option<&str>) -> Vec<String> {
        let named = self.versions.get(version).into_iter().flatten();
        let held = digest.and_then(|digest| self.digests.get(digest));
        let mut by: Vec<String> = named.chain(held.into_iter().flatten()).cloned().collect();
        by.sort();
        by.dedup();
        by
    }
}

impl ModelStore {
    /// Reads everything that locks versions. A document that cannot be understood is an error:
    /// what it locks is not known, so nothing may be removed.
    pub(super) async fn locks(&self, options: &GcOptions) -> Result<Locks> {
        let mut locks = Locks::default();
        let pointers = self.pointers().await?;
        let mut tips = BTreeMap::new();
        for (pointer, state) in &pointers {
            tips.insert(pointer.clone(), state.sequence);
            if let Some(target) = &state.target {
                locks.add(&target.version, pointer.to_string());
            }
        }
        for (pointer, entry) in self.pending(&tips).await? {
            if let Some(version) = &entry.version {
                locks.add(version, format!("{pointer}, which someone is moving"));
            }
        }
        let named = pointers.get(&PointerName::Latest);
        if named.is_none_or(|state| state.target.is_none()) {
            self.lock_highest(&mut locks).await?;
        }
        for (name, hold) in self.holds().await? {
            for version in hold.versions.keys() {
                locks.add(version, format!("hold:{name}"));
            }
        }
        for lock in &options.locks {
            let by = || "a lock".to_owned();
            if lock.name() == self.url().model_name() {
                locks.add(lock.version(), by());
            }
            let digest = lock.tree_digest().to_owned();
            locks.digests.entry(digest).or_default().push(by());
        }
        Ok(locks)
    }

    /// Without a pointer, `latest` is the highest version.
    async fn lock_highest(&self, locks: &mut Locks) -> Result<()> {
        match self.resolve(&Selector::Latest).await {
            Ok(model) => {
                locks.add(model.version(), PointerName::Latest.to_string());
                Ok(())
            }
            Err(error) => match error.kind() {
                ErrorKind::Unauthorized
                | ErrorKind::Forbidden
                | ErrorKind::Timeout
                | ErrorKind::Unreachable
                | ErrorKind::Io => Err(error),
                // There is none, or it cannot be told which one.
                _ => Ok(()),
            },
        }
    }
}
