//! The other models of a store, for the error that says that one is not there.

use futures::{StreamExt, stream};
use object_store::path::Path;

use crate::layout::Format;
use crate::store::ModelStore;

/// As many folders are looked into, and so many at a time.
const LOOKED_INTO: usize = 20;
const AT_A_TIME: usize = 8;

/// What is beside a model.
#[derive(Debug, Default)]
pub(crate) struct Neighbours {
    /// The models: folders with versions.
    pub(crate) models: Vec<String>,
    /// Every name that could have been meant: folders, and objects that look like models.
    pub(crate) all: Vec<String>,
}

impl ModelStore {
    /// What is beside this model, sorted. A store that does not let itself be listed has nothing
    /// to tell.
    pub(crate) async fn neighbours(&self) -> Neighbours {
        let root = self.root();
        let mut parts: Vec<_> = root.parts().collect();
        let Some(own) = parts.pop() else {
            return Neighbours::default();
        };
        let parent = Path::from_iter(parts);
        let Ok(listed) = self.objects().list_with_delimiter(Some(&parent)).await else {
            return Neighbours::default();
        };
        let objects = listed
            .objects
            .iter()
            .filter_map(|meta| meta.location.filename());
        let objects = objects.filter(|name| Format::is_file_name(name));
        let folders = listed.common_prefixes.iter().filter_map(Path::filename);
        let mut all: Vec<String> = folders
            .chain(objects)
            .filter(|name| *name != own.as_ref())
            .map(str::to_owned)
            .collect();
        all.sort();
        let mut models = self.models_of(listed.common_prefixes).await;
        models.retain(|name| *name != own.as_ref());
        Neighbours { models, all }
    }

    /// The models in a folder, sorted.
    pub(crate) async fn models_in(&self, folder: Path) -> Vec<String> {
        match self.objects().list_with_delimiter(Some(&folder)).await {
            Ok(listed) => self.models_of(listed.common_prefixes).await,
            Err(_) => Vec::new(),
        }
    }

    async fn models_of(&self, folders: Vec<Path>) -> Vec<String> {
        let mut names: Vec<String> = stream::iter(folders.into_iter().take(LOOKED_INTO))
            .map(|folder| self.model_in(folder))
            .buffered(AT_A_TIME)
            .filter_map(std::future::ready)
            .collect()
            .await;
        names.sort();
        names
    }

    /// The folder's name, when it is a model's: folders that hold no versions are none.
    async fn model_in(&self, folder: Path) -> Option<String> {
        let name = folder.filename()?.to_owned();
        let versions = folder.join("versions");
        let listed = self.objects().list_with_delimiter(Some(&versions)).await;
        listed
            .is_ok_and(|found| !found.common_prefixes.is_empty())
            .then_some(name)
    }
}

/// The name that was probably meant: the nearest one, if not more than a third of it is wrong.
pub(crate) fn nearest<'a>(asked: &str, names: &'a [String]) -> Option<&'a str> {
    let allowed = (asked.chars().count() / 3).max(1);
    let measured = names
        .iter()
        .map(|name| (strsim::damerau_levenshtein(asked, name), name));
    let near = measured.filter(|(distance, _)| (1..=allowed).contains(distance));
    near.min().map(|(_, name)| name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_meant() {
        let names = ["1.4.2", "1.10.0", "digits", "letters"].map(str::to_owned);
        for (asked, meant) in [
            ("digtis", Some("digits")),
            ("leters", Some("letters")),
            ("1.4.3", Some("1.4.2")),
            ("v1.4.2", Some("1.4.2")),
            ("champion", None),
            ("digits", None),
        ] {
            assert_eq!(nearest(asked, &names), meant, "{asked}");
        }
    }
}
