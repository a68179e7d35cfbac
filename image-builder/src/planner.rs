//! Which file goes into which layer.
//!
//! A registry moves layers side by side and a node keeps those it has, so large files stand alone
//! and a small edit must leave the other layers' bytes as they are. Hence nothing here depends on
//! a file's position in a list: a large file has a layer of its own, and a small one is in the
//! bundle that its name chooses.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest as _, Sha256};

use crate::content::Content;
use crate::error::{Error, ErrorKind, Result};
use crate::path::{normalise, parents};
use crate::tree::Tree;

const STAGE: &str = "plan layers";

/// Files below this size go where their directory goes; larger ones choose by themselves, so
/// that a directory of many of them does not make one huge bundle.
const WITH_DIRECTORY: u64 = 1024 * 1024;

/// A file to be planned into a layer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LayerFile {
    /// Where it lies in the image.
    pub path: String,
    /// The permission bits; `0o644` unless set.
    pub mode: u32,
    /// Its bytes.
    pub content: Content,
}

impl LayerFile {
    /// A file of mode `0644`.
    pub fn new(path: impl Into<String>, content: Content) -> Self {
        Self {
            path: path.into(),
            mode: 0o644,
            content,
        }
    }
}

/// How [`plan`] deals files out.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PlanOptions {
    /// A file of at least this many bytes has a layer of its own.
    pub own_layer: u64,
    /// The most layers for the files below that size. Every one of these files belongs to one of
    /// this many bundles, and a bundle without files makes no layer.
    pub bundles: usize,
    /// The most layers in all. Runtimes stop at some 127 for a whole image.
    pub max_layers: usize,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self {
            own_layer: 64 * 1024 * 1024,
            bundles: 8,
            max_layers: 64,
        }
    }
}

impl PlanOptions {
    /// How many layers are kept free for bundles. It must not depend on the files, or the first
    /// small file would move large ones.
    fn for_bundles(&self) -> usize {
        self.bundles.clamp(1, (self.max_layers / 2).max(1))
    }
}

/// Deals `files` out to the trees of at most [`PlanOptions::max_layers`] layers, the same in
/// whatever order they come: large files first, in byte order of their paths, then the bundles.
///
/// Adding, removing or changing one small file changes one layer (two if its size crosses a
/// threshold). A large file shares its layer only if there are more of them than layers; then
/// neighbours by path share, in parts of about equal size, and an edit may move their borders.
///
/// # Errors
/// `Invalid` for a path that [`Tree::insert`] refuses and for a plan of no layers, `Conflict` if
/// two files have one path or one is a parent of another.
pub fn plan(files: Vec<LayerFile>, options: &PlanOptions) -> Result<Vec<Tree>> {
    if options.max_layers == 0 {
        let detail = "there are files, but no layer to put them in";
        return match files.first() {
            None => Ok(Vec::new()),
            Some(file) => Err(Error::new(
                ErrorKind::Invalid,
                STAGE,
                file.path.clone(),
                detail,
            )),
        };
    }
    let files = by_path(files)?;
    if options.max_layers == 1 {
        return tree_of(files.iter()).map(Vec::from_iter);
    }
    let (large, small): (Vec<_>, Vec<_>) = files
        .iter()
        .partition(|(_, file)| file.content.len() >= options.own_layer);
    let bundles = options.for_bundles();
    let mut trees = Vec::new();
    for group in neighbours(&large, options.max_layers - bundles) {
        trees.extend(tree_of(group)?);
    }
    let mut bundled: BTreeMap<u64, Vec<_>> = BTreeMap::new();
    for (path, file) in small {
        let bundle = bundle(path, file.content.len(), bundles as u64);
        bundled.entry(bundle).or_default().push((path, file));
    }
    for files in bundled.into_values() {
        trees.extend(tree_of(files)?);
    }
    Ok(trees)
}

/// The files by their normalised paths, which all differ and of which none is below another.
fn by_path(files: Vec<LayerFile>) -> Result<BTreeMap<String, LayerFile>> {
    let mut sorted = BTreeMap::new();
    for file in files {
        let path = normalise(&file.path)?.to_owned();
        if sorted.insert(path.clone(), file).is_some() {
            return Err(conflict(path, "two files have this path"));
        }
    }
    let directories: BTreeSet<&str> = sorted.keys().flat_map(|path| parents(path)).collect();
    match sorted.keys().find(|path| directories.contains(&***path)) {
        None => Ok(sorted),
        Some(path) => Err(conflict(
            path.clone(),
            "it is a file, and another is below it",
        )),
    }
}

fn conflict(path: String, detail: &str) -> Error {
    Error::new(ErrorKind::Conflict, STAGE, path, detail).with_hint("rename one of the two")
}

type Entry<'a> = (&'a String, &'a LayerFile);

/// A tree of these files, unless there are none.
fn tree_of<'a>(files: impl IntoIterator<Item = Entry<'a>>) -> Result<Option<Tree>> {
    let mut tree = Tree::new();
    for (path, file) in files {
        tree.insert_file(path, file.mode, file.content.clone())?;
    }
    Ok((!tree.is_empty()).then_some(tree))
}

/// Groups of neighbours, each of its own if there are enough groups; else about equally large.
fn neighbours<'a>(files: &[Entry<'a>], groups: usize) -> Vec<Vec<Entry<'a>>> {
    if files.len() <= groups {
        return files.iter().map(|file| vec![*file]).collect();
    }
    let size = |file: &Entry<'_>| u128::from(file.1.content.len().max(1));
    let total: u128 = files.iter().map(size).sum();
    let mut sorted: BTreeMap<u128, Vec<_>> = BTreeMap::new();
    let mut before = 0;
    for file in files {
        // The middle of a file decides, so that a large one does not drag what follows along.
        let middle = before + size(file) / 2;
        let group = middle * groups as u128 / total.max(1);
        sorted.entry(group).or_default().push(*file);
        before += size(file);
    }
    sorted.into_values().collect()
}

/// The bundle of a small file, of `bundles`.
fn bundle(path: &str, size: u64, bundles: u64) -> u64 {
    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    let key = if size < WITH_DIRECTORY {
        directory
    } else {
        path
    };
    let digest = Sha256::digest(key.as_bytes());
    let head = digest.iter().take(8);
    head.fold(0, |number: u64, &byte| number << 8 | u64::from(byte)) % bundles
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::NodeKind;
    use futures::StreamExt;
    use proptest::prelude::*;

    fn file(path: &str, size: u64) -> LayerFile {
        let content = Content::stream(size, |_| futures::stream::empty().boxed());
        LayerFile::new(path, content)
    }

    /// The files of each layer: path and size.
    fn shape(trees: &[Tree]) -> Vec<BTreeMap<String, u64>> {
        let files = |tree: &Tree| {
            let files = tree.iter().filter_map(|(path, node)| match &node.kind {
                NodeKind::File(content) => Some((path.to_owned(), content.len())),
                _ => None,
            });
            files.collect()
        };
        trees.iter().map(files).collect()
    }

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn a_usual_model_is_its_shards_and_one_bundle() {
        let files = vec![
            file("/m/model-00002.safetensors", 4096 * MIB),
            file("/m/config.json", 700),
            file("/m/model-00001.safetensors", 4096 * MIB),
            file("/m/vocab.txt", 200_000),
        ];
        let trees = plan(files, &PlanOptions::default()).unwrap();
        let found: Vec<Vec<String>> = shape(&trees)
            .into_iter()
            .map(|layer| layer.into_keys().collect())
            .collect();
        assert_eq!(
            found,
            [
                vec!["m/model-00001.safetensors"],
                vec!["m/model-00002.safetensors"],
                vec!["m/config.json", "m/vocab.txt"],
            ]
        );
    }

    #[test]
    fn more_large_files_than_layers_share_evenly() {
        let files: Vec<_> = (0..1000)
            .map(|n| file(&format!("m/{n:04}"), 100 * MIB))
            .collect();
        let options = PlanOptions {
            max_layers: 18,
            ..PlanOptions::default()
        };
        let found = shape(&plan(files, &options).unwrap());
        assert_eq!(found.len(), 10);
        assert!(found.iter().all(|layer| layer.len() == 100));
    }

    #[test]
    fn what_cannot_be_planned_is_refused_by_name() {
        let options = PlanOptions::default();
        for paths in [["a", "/a"], ["a", "a/b"]] {
            let error = plan(paths.map(|path| file(path, 1)).into(), &options).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Conflict);
        }
        assert!(plan(vec![file("../a", 1)], &options).is_err());
        let none = PlanOptions {
            max_layers: 0,
            ..options
        };
        assert!(plan(vec![file("a", 1)], &none).is_err());
        assert!(plan(vec![], &none).unwrap().is_empty());
    }

    fn arb_size() -> impl Strategy<Value = u64> {
        prop_oneof![
            4 => 0..3000_u64,
            2 => MIB..64 * MIB,
            1 => 64 * MIB..5000 * MIB,
        ]
    }

    fn arb_files() -> impl Strategy<Value = BTreeMap<String, u64>> {
        let path = "[a-e]/[a-e]{1,2}/[f-j]{1,2}";
        prop::collection::btree_map(path, arb_size(), 0..60)
    }

    fn planned(files: &BTreeMap<String, u64>, options: &PlanOptions) -> Vec<BTreeMap<String, u64>> {
        let files = files.iter().map(|(path, size)| file(path, *size));
        shape(&plan(files.collect(), options).unwrap())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn every_file_is_planned_once_below_the_cap_in_any_order(
            files in arb_files(), max_layers in 1..80_usize, bundles in 0..20_usize,
        ) {
            let options = PlanOptions { bundles, max_layers, ..PlanOptions::default() };
            let found = planned(&files, &options);
            prop_assert!(found.len() <= max_layers);
            let all: Vec<_> = found.iter().flatten().collect();
            prop_assert_eq!(all.len(), files.len());
            prop_assert!(all.iter().all(|(path, size)| files[*path] == **size));
            let backwards = files.iter().rev().map(|(path, size)| file(path, *size));
            prop_assert_eq!(shape(&plan(backwards.collect(), &options).unwrap()), found);
        }

        #[test]
        fn a_small_edit_changes_at_most_two_layers(
            files in arb_files(),
            at in any::<prop::sample::Index>(),
            edit in prop_oneof![Just(None), (0..64 * MIB).prop_map(Some)],
            name in "[a-e]/[a-e]{1,2}/[f-j]{3}",
            max_layers in 2..80_usize,
        ) {
            let options = PlanOptions { max_layers, ..PlanOptions::default() };
            let before = planned(&files, &options);
            let mut edited = files.clone();
            let small: Vec<&String> =
                files.iter().filter(|(_, size)| **size < 64 * MIB).map(|(path, _)| path).collect();
            match edit {
                Some(size) if small.is_empty() => { edited.insert(name, size); }
                Some(size) => { edited.insert((*at.get(&small)).clone(), size); }
                None if small.is_empty() => {}
                None => { edited.remove(*at.get(&small)); }
            }
            let after = planned(&edited, &options);
            let new = after.iter().filter(|layer| !before.contains(layer)).count();
            let gone = before.iter().filter(|layer| !after.contains(layer)).count();
            prop_assert!(new <= 2 && gone <= 2, "{} new, {} gone", new, gone);
        }

        #[test]
        fn large_files_share_with_none_while_there_is_room(files in arb_files()) {
            let found = planned(&files, &PlanOptions { max_layers: 100, ..PlanOptions::default() });
            for layer in found {
                prop_assert!(layer.len() == 1 || layer.values().all(|size| *size < 64 * MIB));
            }
        }
    }
}
