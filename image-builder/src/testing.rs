//! Random trees, and what an independent tar reader makes of an archive.

use std::collections::BTreeMap;
use std::io::Read;

use proptest::prelude::*;

use crate::tree::{NodeKind, Tree};

/// An entry as a reader sees it: type, mode, link target, content.
pub(crate) type Seen = BTreeMap<String, (u8, u32, String, Vec<u8>)>;

/// Trees with long, non-ASCII and nested names, all kinds of entries, and the block-size edges.
pub(crate) fn arb_tree() -> impl Strategy<Value = Tree> {
    let name = prop_oneof![
        "[a-c]{1,3}",
        "[a-zA-Z0-9._+ -]{1,40}",
        "[α-ωа-я字]{1,60}",
        "[x]{90,255}",
    ]
    .prop_filter("names that are no names", |name| {
        name != "." && name != ".." && !name.starts_with(".wh.") && name.len() <= 255
    });
    let path = prop::collection::vec(name, 1..4).prop_map(|names| names.join("/"));
    let size = prop_oneof![
        Just(0_usize),
        Just(511),
        Just(512),
        Just(1024),
        1..3000_usize
    ];
    let entry = (
        path,
        0..5_u8,
        size,
        any::<u8>(),
        any::<prop::sample::Index>(),
    );
    prop::collection::vec(entry, 0..24).prop_map(|entries| {
        let mut tree = Tree::new();
        for (path, kind, size, byte, other) in entries {
            let files: Vec<String> = tree
                .iter()
                .filter(|(_, node)| matches!(node.kind, NodeKind::File(_)))
                .map(|(path, _)| path.to_owned())
                .collect();
            // Random paths collide; a refused insert leaves the tree as it was.
            let _ = match kind {
                0 => tree.insert_dir(&path, 0o755),
                1 => tree.insert_symlink(&path, &format!("../{path}")),
                2 if !files.is_empty() => {
                    tree.insert_hardlink(&path, &files[other.index(files.len())])
                }
                3 => tree.insert_bytes(&path, 0o755, vec![byte; size]),
                _ => tree.insert_bytes(&path, 0o644, vec![byte; size]),
            };
        }
        tree
    })
}

/// What the tree should look like to a reader.
pub(crate) fn written(tree: &Tree) -> Seen {
    let mode_of = |path: &str| tree.get(path).map_or(0, |node| node.mode);
    tree.iter()
        .map(|(path, node)| {
            let entry = match &node.kind {
                NodeKind::Dir => (b'5', node.mode, String::new(), vec![]),
                NodeKind::File(content) => {
                    let bytes = content.as_bytes().unwrap().to_vec();
                    (b'0', node.mode, String::new(), bytes)
                }
                NodeKind::Symlink(target) => (b'2', node.mode, target.clone(), vec![]),
                NodeKind::Hardlink(target) => (b'1', mode_of(target), target.clone(), vec![]),
            };
            (path.to_owned(), entry)
        })
        .collect()
}

/// What the `tar` crate reads from an archive.
pub(crate) fn read_back(archive: &[u8]) -> Seen {
    let mut seen = Seen::new();
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_str().unwrap().to_owned();
        let link = entry.link_name().unwrap();
        let link = link.map_or(String::new(), |link| link.to_str().unwrap().to_owned());
        let header = entry.header();
        assert_eq!(header.mtime().unwrap(), 1);
        let (kind, mode) = (header.entry_type().as_byte(), header.mode().unwrap());
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        let path = path.trim_end_matches('/').to_owned();
        assert!(seen.insert(path, (kind, mode, link, bytes)).is_none());
    }
    seen
}
