//! Laying a tree over a base image.
//!
//! A layer's entry for a directory replaces the attributes the directory had (image-spec,
//! layer.md, "Change Types"), and an entry named like a symlink replaces the link. So a layer that
//! lists its parents with default attributes can break a base: `/tmp` loses its sticky bit, `/lib`
//! stops being a link to `usr/lib`. [`Tree::over`] lays a tree over a base without either.

use std::collections::BTreeMap;

use crate::base_tree::{BaseKind, BaseTree, join};
use crate::error::{Error, ErrorKind, Result};
use crate::tree::{Node, NodeKind, Tree};

const LAY: &str = "lay over base";

impl Tree {
    /// The same tree as it has to be to lie over a base: directories that the base has keep the
    /// base's mode and owner, and what is below a symlink of the base goes where the link leads,
    /// so `lib/x` becomes `usr/lib/x` over a base whose `lib` is a link to `usr/lib`.
    ///
    /// # Errors
    /// `Conflict`, by name, where a file would replace a directory of the base or a directory a
    /// file, where a link on the way leaves the root or goes in a circle, and where two entries
    /// come to lie at one path.
    pub fn over(&self, base: &BaseTree) -> Result<Self> {
        let mut laid = Self::new().with_mtime(self.mtime());
        let mut places = BTreeMap::new();
        let is_link = |node: &Node| matches!(node.kind, NodeKind::Hardlink(_));
        let files = self.iter().filter(|(_, node)| !is_link(node));
        // Links last, when it is known where their files have come to lie.
        for (path, node) in files.chain(self.iter().filter(|(_, node)| is_link(node))) {
            let mut node = node.clone();
            if let NodeKind::Hardlink(target) = &mut node.kind
                && let Some(place) = places.get(target.as_str())
            {
                String::clone_from(target, place);
            }
            if let Some(place) = place(path, &node, base)? {
                laid.insert(&place, node)?;
                places.insert(path.to_owned(), place);
            }
        }
        let directories: Vec<String> = laid
            .iter()
            .filter(|(_, node)| node.is_dir())
            .map(|(path, _)| path.to_owned())
            .collect();
        for path in directories {
            if let Some(node) = base.get(&path)
                && node.kind == BaseKind::Dir
            {
                laid.insert(&path, Node::dir(node.mode).with_owner(node.uid, node.gid))?;
            }
        }
        Ok(laid)
    }
}

/// Where an entry comes to lie over `base`; `None` for a directory that a link of the base
/// already leads to.
fn place(path: &str, node: &Node, base: &BaseTree) -> Result<Option<String>> {
    let refuse = |detail: &str| {
        Err(Error::new(ErrorKind::Conflict, LAY, path, detail)
            .with_hint("choose another path, or another base"))
    };
    let parts: Vec<&str> = path.split('/').collect();
    let (name, above) = parts.split_last().unwrap_or((&"", &[]));
    let place = join(&base.resolve(above, path)?, name);
    match (node.is_dir(), base.get(&place).map(|node| &node.kind)) {
        (true, Some(BaseKind::Symlink(_))) => {
            let target = base.resolve(&parts, path)?;
            let is_there = target.is_empty() || base.get(&target).is_some();
            Ok((!is_there).then_some(target))
        }
        (true, Some(BaseKind::File | BaseKind::Other)) => {
            refuse("it is a directory, but a file in the base")
        }
        (false, Some(BaseKind::Dir)) => refuse("it would replace a directory of the base"),
        _ => Ok(Some(place)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base_tree::tests::base;
    use crate::layer::Layer;
    use crate::testing::arb_tree;
    use proptest::prelude::*;

    fn tree(files: &[&str]) -> Tree {
        let mut tree = Tree::new();
        for path in files {
            tree.insert_bytes(path, 0o644, "x").unwrap();
        }
        tree
    }

    #[tokio::test]
    async fn directories_keep_the_base_s_attributes_and_links_stay_links() {
        let base = base(&[&["tmp/", "usr/", "usr/lib/", "lib>usr/lib", "app>/srv/app"]]).await;
        let mut own = tree(&["tmp/x", "lib/y/z", "app/main.py", "new/f"]);
        own.insert_hardlink("again", "lib/y/z").unwrap();
        own.insert_dir("tmp", 0o777).unwrap();
        let laid = own.with_mtime(9).over(&base).unwrap();
        let found: Vec<_> = laid
            .iter()
            .map(|(path, node)| (path, node.mode, node.uid))
            .collect();
        let expected = [
            ("again", 0o644, 0),
            ("new", 0o755, 0),
            ("new/f", 0o644, 0),
            ("srv", 0o755, 0),
            ("srv/app", 0o755, 0),
            ("srv/app/main.py", 0o644, 0),
            ("tmp", 0o1750, 7),
            ("tmp/x", 0o644, 0),
            ("usr", 0o1750, 7),
            ("usr/lib", 0o1750, 7),
            ("usr/lib/y", 0o755, 0),
            ("usr/lib/y/z", 0o644, 0),
        ];
        assert_eq!(found, expected);
        let again = &laid.get("again").unwrap().kind;
        assert!(matches!(again, NodeKind::Hardlink(target) if target == "usr/lib/y/z"));
        assert_eq!(laid.mtime(), 9);
    }

    #[tokio::test]
    async fn what_would_break_the_base_is_refused_by_name() {
        let base = base(&[&[
            "etc/",
            "file",
            "out>../..",
            "loop>loop",
            "lib>usr/lib",
            "usr/lib/x",
            "link>file",
        ]])
        .await;
        for own in [
            tree(&["etc"]),
            tree(&["file/x"]),
            tree(&["out/x"]),
            tree(&["loop/x"]),
            tree(&["link/x"]),
            tree(&["lib/x", "usr/lib/x"]),
        ] {
            let error = own.over(&base).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Conflict);
            let named = own.iter().any(|(path, _)| error.to_string().contains(path));
            assert!(named, "{error}");
        }
        // A file over a file and a file over a link are what a layer is for.
        tree(&["file", "link"]).over(&base).unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn over_nothing_and_over_itself_a_tree_stays(tree in arb_tree()) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let same = |laid: &Tree| {
                let seen = crate::testing::written(laid);
                seen == crate::testing::written(&tree)
            };
            prop_assert!(same(&tree.over(&BaseTree::default()).unwrap()));
            let layer = Layer::tree(tree.clone()).unwrap();
            let base = runtime.block_on(BaseTree::default().with_layer(&layer)).unwrap();
            prop_assert_eq!(base.len(), tree.len());
            prop_assert!(same(&tree.over(&base).unwrap()));
        }
    }
}
