//! The other models of a store, for the error that says that one is not there.

use futures::{StreamExt, stream};
use object_store::path::Path;

use crate::store::ModelStore;

/// As many folders are looked into, and so many at a time.
const LOOKED_INTO: usize = 20;
const AT_A_TIME: usize = 8;

impl ModelStore {
    /// The names of the models beside this one, sorted. Folders that hold no versions are no
    /// models, and a store that does not let itself be listed has none to tell.
    pub(crate) async fn neighbours(&self) -> Vec<String> {
        let root = self.root();
        let mut parts: Vec<_> = root.parts().collect();
        let Some(own) = parts.pop() else {
            return Vec::new();
        };
        let parent = Path::from_iter(parts);
        let Ok(listed) = self.objects().list_with_delimiter(Some(&parent)).await else {
            return Vec::new();
        };
        let folders = listed.common_prefixes.into_iter();
        let others = folders
            .filter(|folder| folder.filename() != Some(own.as_ref()))
            .take(LOOKED_INTO);
        let mut names: Vec<String> = stream::iter(others)
            .map(|folder| self.model_in(folder))
            .buffered(AT_A_TIME)
            .filter_map(std::future::ready)
            .collect()
            .await;
        names.sort();
        names
    }

    /// The folder's name, when it is a model's.
    async fn model_in(&self, folder: Path) -> Option<String> {
        let name = folder.filename()?.to_owned();
        let versions = folder.join("versions");
        let listed = self.objects().list_with_delimiter(Some(&versions)).await;
        listed
            .is_ok_and(|found| !found.common_prefixes.is_empty())
            .then_some(name)
    }
}
