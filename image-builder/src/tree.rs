//! A file tree on its way into a layer: sorted, normalised, and closed under "has a parent".

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;

use bytes::Bytes;

use crate::content::Content;
use crate::error::{Error, ErrorKind, Result};
use crate::frame::MTIME;
use crate::path::{normalise, parents};
use crate::source_dir::{self, TreeOptions};

const STAGE: &str = "build tree";

/// One entry of a [`Tree`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Node {
    /// What the entry is.
    pub kind: NodeKind,
    /// The permission bits, such as `0o755`; `0o777` for symlinks, unused for hard links.
    pub mode: u32,
    /// The owner's numeric id; 0 unless set.
    pub uid: u64,
    /// The group's numeric id; 0 unless set.
    pub gid: u64,
}

/// What an entry of a [`Tree`] is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum NodeKind {
    /// A regular file.
    File(Content),
    /// A directory.
    Dir,
    /// A symbolic link; the target is stored as given and resolved inside the container.
    Symlink(String),
    /// A second name of the regular file at this path of the same tree.
    Hardlink(String),
}

impl Node {
    /// An entry owned by root.
    pub fn new(kind: NodeKind, mode: u32) -> Self {
        Self {
            kind,
            mode: mode & 0o7777,
            uid: 0,
            gid: 0,
        }
    }

    /// A directory owned by root.
    pub fn dir(mode: u32) -> Self {
        Self::new(NodeKind::Dir, mode)
    }

    /// A regular file owned by root.
    pub fn file(mode: u32, content: Content) -> Self {
        Self::new(NodeKind::File(content), mode)
    }

    /// A symbolic link.
    pub fn symlink(target: impl Into<String>) -> Self {
        Self::new(NodeKind::Symlink(target.into()), 0o777)
    }

    /// The same entry with another owner.
    #[must_use]
    pub fn with_owner(mut self, uid: u64, gid: u64) -> Self {
        self.uid = uid;
        self.gid = gid;
        self
    }

    /// Whether this is a directory.
    pub fn is_dir(&self) -> bool {
        matches!(self.kind, NodeKind::Dir)
    }
}

/// A file tree, iterated in byte order of its paths.
///
/// Paths are relative to the image's root; a leading `/` is accepted and dropped. Every parent is
/// present as an entry: a missing one is added as a directory of mode `0755` owned by root.
/// A parent can never be a symlink, because the entry would land elsewhere than its name says.
#[derive(Clone, Debug)]
pub struct Tree {
    nodes: BTreeMap<String, Node>,
    mtime: u64,
}

impl Default for Tree {
    fn default() -> Self {
        Self {
            nodes: BTreeMap::new(),
            mtime: MTIME,
        }
    }
}

impl Tree {
    /// An empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the directory `dir` into a tree below `at` (`/` for the root of the image).
    ///
    /// Modes become `0755` (directories, and files their owner may execute) or `0644`, the owner
    /// becomes root. `.git`, `__pycache__` and `*.pyc` never enter, nor does what a
    /// `.dockerignore` in `dir` names, by Docker's rules. Symlinks are kept as they are, also
    /// those that point outside `dir`: they are resolved inside the container, never here. Of
    /// the names of one inode, the first in byte order becomes the file and the others hard
    /// links to it. File contents are read when the layer is; a file or directory that changes
    /// until then is an error.
    ///
    /// # Errors
    /// `NotFound` or `Io` if `dir` cannot be read, `Invalid` for a name that is not UTF-8, for
    /// a socket, pipe or device and for a malformed pattern, `Changed` if `dir` changes.
    pub fn from_dir(at: &str, dir: &Path, options: &TreeOptions) -> Result<Self> {
        source_dir::read(at, dir, options)
    }

    /// Sets the time that all entries carry, in seconds after the epoch, such as the value of
    /// `SOURCE_DATE_EPOCH`. At least and by default 1, since some tools take 0 for "unset"; the
    /// times of source files never enter.
    #[must_use]
    pub fn with_mtime(mut self, seconds: u64) -> Self {
        self.mtime = seconds.max(MTIME);
        self
    }

    /// The time that all entries carry, in seconds after the epoch.
    pub fn mtime(&self) -> u64 {
        self.mtime
    }

    /// Adds an entry.
    ///
    /// A directory over a directory replaces its attributes; anything else over an existing
    /// entry is refused.
    ///
    /// # Errors
    /// `Invalid` for a path that is empty, escapes the root or names a whiteout, and for a hard
    /// link whose target is no regular file of this tree; `Conflict` if the path is taken or one
    /// of its parents is not a directory.
    pub fn insert(&mut self, path: &str, mut node: Node) -> Result<()> {
        let path = normalise(path)?;
        self.check_parents(path)?;
        match &mut node.kind {
            NodeKind::Hardlink(target) => *target = self.hardlink_target(path, target)?,
            NodeKind::Symlink(target) if target.is_empty() || target.contains('\0') => {
                let detail = "the symlink has an empty target or a NUL byte in it";
                return Err(Error::new(ErrorKind::Invalid, STAGE, path, detail));
            }
            _ => {}
        }
        match self.nodes.entry(path.to_owned()) {
            Entry::Vacant(entry) => {
                entry.insert(node);
            }
            Entry::Occupied(mut entry) if entry.get().is_dir() && node.is_dir() => {
                entry.insert(node);
            }
            Entry::Occupied(_) => {
                return Err(
                    Error::new(ErrorKind::Conflict, STAGE, path, "the path is taken")
                        .with_hint("remove one of the two entries"),
                );
            }
        }
        for parent in parents(path) {
            if !self.nodes.contains_key(parent) {
                self.nodes.insert(parent.to_owned(), Node::dir(0o755));
            }
        }
        Ok(())
    }

    fn check_parents(&self, path: &str) -> Result<()> {
        for parent in parents(path) {
            if let Some(node) = self.nodes.get(parent)
                && !node.is_dir()
            {
                let detail = format!("its parent `{parent}` is not a directory");
                return Err(Error::new(ErrorKind::Conflict, STAGE, path, detail)
                    .with_hint("write below the real directory, not below a link or a file"));
            }
        }
        Ok(())
    }

    /// Follows hard links to the file they name, so that a link never names another link.
    fn hardlink_target(&self, path: &str, target: &str) -> Result<String> {
        let target = normalise(target)?;
        match self.nodes.get(target).map(|node| &node.kind) {
            Some(NodeKind::File(_)) => Ok(target.to_owned()),
            Some(NodeKind::Hardlink(file)) => Ok(file.clone()),
            _ => {
                let detail = format!("the hard link's target `{target}` is no file of this tree");
                Err(Error::new(ErrorKind::Invalid, STAGE, path, detail)
                    .with_hint("insert the file before the link to it"))
            }
        }
    }

    /// Adds a directory.
    ///
    /// # Errors
    /// As [`Tree::insert`].
    pub fn insert_dir(&mut self, path: &str, mode: u32) -> Result<()> {
        self.insert(path, Node::dir(mode))
    }

    /// Adds a regular file.
    ///
    /// # Errors
    /// As [`Tree::insert`].
    pub fn insert_file(&mut self, path: &str, mode: u32, content: Content) -> Result<()> {
        self.insert(path, Node::file(mode, content))
    }

    /// Adds a small regular file held in memory.
    ///
    /// # Errors
    /// As [`Tree::insert`], and `Invalid` beyond [`Content::MAX_INLINE`] bytes.
    pub fn insert_bytes(&mut self, path: &str, mode: u32, bytes: impl Into<Bytes>) -> Result<()> {
        self.insert(path, Node::file(mode, Content::bytes(bytes)?))
    }

    /// Adds a symbolic link with this target, stored as given.
    ///
    /// # Errors
    /// As [`Tree::insert`].
    pub fn insert_symlink(&mut self, path: &str, target: &str) -> Result<()> {
        self.insert(path, Node::symlink(target))
    }

    /// Adds a second name for the regular file `target` of this tree.
    ///
    /// # Errors
    /// As [`Tree::insert`].
    pub fn insert_hardlink(&mut self, path: &str, target: &str) -> Result<()> {
        self.insert(
            path,
            Node::new(NodeKind::Hardlink(target.to_owned()), 0o644),
        )
    }

    /// The entry at `path`.
    pub fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(normalise(path).ok()?)
    }

    /// Removes the entry at `path` and everything below it. Says whether there was one.
    ///
    /// A hard link to a removed file takes the file's place, so that no content is lost.
    pub fn remove(&mut self, path: &str) -> bool {
        let Ok(path) = normalise(path) else {
            return false;
        };
        let below = format!("{path}/");
        let gone: Vec<String> = self
            .nodes
            .range(path.to_owned()..)
            .map(|(name, _)| name)
            .take_while(|name| name.starts_with(path))
            .filter(|name| *name == path || name.starts_with(&below))
            .cloned()
            .collect();
        let removed: Vec<(String, Node)> = gone
            .iter()
            .filter_map(|name| self.nodes.remove_entry(name))
            .collect();
        for (name, node) in &removed {
            if matches!(node.kind, NodeKind::File(_)) {
                self.inherit_links(name, node);
            }
        }
        !removed.is_empty()
    }

    /// Makes the first link to the removed file `gone` the file, and the others links to it.
    fn inherit_links(&mut self, gone: &str, file: &Node) {
        let mut heir: Option<String> = None;
        for (name, node) in &mut self.nodes {
            let is_link = matches!(&node.kind, NodeKind::Hardlink(target) if target == gone);
            if !is_link {
                continue;
            }
            match &heir {
                None => {
                    *node = file.clone();
                    heir = Some(name.clone());
                }
                Some(heir) => node.kind = NodeKind::Hardlink(heir.clone()),
            }
        }
    }

    /// Adds all entries of `other`; the time of this tree stays.
    ///
    /// # Errors
    /// As [`Tree::insert`]; after an error this tree may hold a part of `other`.
    pub fn merge(&mut self, other: Self) -> Result<()> {
        let (links, rest): (Vec<_>, Vec<_>) = other
            .nodes
            .into_iter()
            .partition(|(_, node)| matches!(node.kind, NodeKind::Hardlink(_)));
        for (path, node) in rest.into_iter().chain(links) {
            self.insert(&path, node)?;
        }
        Ok(())
    }

    /// The entries in byte order of their paths; parents come before what they hold.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(path, node)| (path.as_str(), node))
    }

    /// The number of entries, parents included.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The entries in the order of the archive: sorted, with hard links after everything else,
    /// because an extractor needs the target first. A link has the attributes of its file, since
    /// some extractors apply them to the file a second time.
    pub(crate) fn into_archive_order(mut self) -> Vec<(String, Node)> {
        let files = self.nodes.clone();
        for node in self.nodes.values_mut() {
            if let NodeKind::Hardlink(target) = &node.kind
                && let Some(file) = files.get(target)
            {
                (node.mode, node.uid, node.gid) = (file.mode, file.uid, file.gid);
            }
        }
        let (links, mut rest): (Vec<_>, Vec<_>) = self
            .nodes
            .into_iter()
            .partition(|(_, node)| matches!(node.kind, NodeKind::Hardlink(_)));
        rest.extend(links);
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_made_and_order_is_bytewise() {
        let mut tree = Tree::new();
        tree.insert_bytes("/a/b/c", 0o644, "x").unwrap();
        tree.insert_bytes("a-b", 0o644, "x").unwrap();
        let paths: Vec<_> = tree.iter().map(|(path, _)| path).collect();
        assert_eq!(paths, ["a", "a-b", "a/b", "a/b/c"]);
        assert_eq!(tree.get("/a").unwrap().mode, 0o755);
    }

    #[test]
    fn a_directory_keeps_the_attributes_given_last() {
        let mut tree = Tree::new();
        tree.insert_bytes("tmp/x", 0o644, "x").unwrap();
        tree.insert_dir("tmp", 0o1777).unwrap();
        tree.insert_bytes("tmp/y", 0o644, "y").unwrap();
        assert_eq!(tree.get("tmp").unwrap().mode, 0o1777);
    }

    #[test]
    fn taken_paths_and_linked_parents_are_conflicts() {
        let mut tree = Tree::new();
        tree.insert_symlink("lib", "usr/lib").unwrap();
        for path in ["lib", "lib/x"] {
            let error = tree.insert_bytes(path, 0o644, "x").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Conflict);
        }
    }

    #[test]
    fn links_of_links_name_the_file_and_inherit_it() {
        let mut tree = Tree::new();
        tree.insert_bytes("z", 0o600, "x").unwrap();
        tree.insert_hardlink("b", "z").unwrap();
        tree.insert_hardlink("c", "b").unwrap();
        assert!(matches!(&tree.get("c").unwrap().kind, NodeKind::Hardlink(t) if t == "z"));
        assert!(tree.insert_hardlink("d", "missing").is_err());
        assert!(tree.remove("z"));
        assert!(matches!(tree.get("b").unwrap().kind, NodeKind::File(_)));
        assert!(matches!(&tree.get("c").unwrap().kind, NodeKind::Hardlink(t) if t == "b"));
    }

    #[test]
    fn remove_takes_the_subtree_and_nothing_beside_it() {
        let mut tree = Tree::new();
        for path in ["a/x", "a/y/z", "a-b", "ab"] {
            tree.insert_bytes(path, 0o644, "x").unwrap();
        }
        assert!(tree.remove("a"));
        assert!(!tree.remove("a"));
        let paths: Vec<_> = tree.iter().map(|(path, _)| path).collect();
        assert_eq!(paths, ["a-b", "ab"]);
    }

    #[test]
    fn merge_keeps_hard_links_whatever_their_order() {
        let mut other = Tree::new();
        other.insert_bytes("z", 0o644, "x").unwrap();
        other.insert_hardlink("a", "z").unwrap();
        let mut tree = Tree::new();
        tree.merge(other).unwrap();
        assert_eq!(tree.len(), 2);
        let order: Vec<_> = tree
            .into_archive_order()
            .into_iter()
            .map(|(p, _)| p)
            .collect();
        assert_eq!(order, ["z", "a"]);
    }
}
