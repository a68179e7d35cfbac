//! What an earlier fetch found out, for a lock that does not say it.

use std::collections::BTreeMap;

use super::pin::Pin;
use crate::model::{ModelVersion, Trust};

impl ModelVersion {
    /// This lock with the digests that `sealed` has of the same files, if it is sealed then.
    ///
    /// A plain folder in a store gives a lock without digests. What was found when it was fetched
    /// is good for as long as the store says that its objects are the same ones: every file must
    /// have the same path and size in both locks, and the same tag or version of the store.
    pub fn sealed_as(&self, sealed: &Self) -> Option<Self> {
        let mut found = BTreeMap::new();
        for file in self.files().iter().filter(|file| file.sha256.is_none()) {
            let theirs = sealed.file(&file.path)?;
            let mut unsealed = theirs.clone();
            (unsealed.sha256, unsealed.trust) = (None, None);
            let ours = Pin::of(self, file);
            if ours != Pin::of(sealed, &unsealed) || !ours.is_exact() {
                return None;
            }
            let trust = theirs.trust.unwrap_or(Trust::Observed);
            found.insert(file.path.clone(), (theirs.sha256.clone()?, trust));
        }
        self.seal(&found).ok().filter(Self::is_sealed)
    }
}
