//! From a lock to a tree: fetches what is missing, unpacks it, places it, completes it.

use std::path::{Path, PathBuf};

use futures::{FutureExt, StreamExt, TryStreamExt};
use url::Url;

use super::apt::Sources;
use super::count::Counter;
use super::deb::{self, Kind, Unpacked};
use super::fetch::{Expected, Fetcher, blocking};
use super::lock::{DebianLock, LockedPackage};
use super::place::{Package, Placed, place};
use super::synthesize;
use super::version::upstream;
use crate::content::Content;
use crate::error::{Error, ErrorKind, Result};
use crate::progress::Progress;
use crate::tree::{Node, NodeKind, Tree};

const PARALLEL: usize = 6;

/// The file tree of a lock. File contents are read from the cache when the tree becomes a layer,
/// so the cache must stay until then.
#[derive(Clone, Debug)]
pub struct DebianTree {
    tree: Tree,
    python: Option<PythonInfo>,
}

/// The Python interpreter of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PythonInfo {
    /// The full version, such as `3.11.2`.
    pub version: String,
    /// The interpreter's path in the image, such as `/usr/bin/python3.11`.
    pub interpreter: String,
}

impl PythonInfo {
    /// Major and minor version, such as `3.11`.
    pub fn minor(&self) -> &str {
        self.interpreter.trim_start_matches("/usr/bin/python")
    }
}

impl DebianTree {
    /// The tree.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// The tree, to make a layer of.
    pub fn into_tree(self) -> Tree {
        self.tree
    }

    /// The Python that `/usr/bin/python3` is; `None` when there is none.
    pub fn python(&self) -> Option<&PythonInfo> {
        self.python.as_ref()
    }
}

/// Makes the tree of `lock`, fetching through `sources` only what `cache` lacks.
pub(super) async fn assemble(
    lock: &DebianLock,
    sources: &Sources,
    cache: &Path,
    progress: Progress<'_>,
) -> Result<DebianTree> {
    let fetcher = Fetcher::new(sources)?;
    let counter = Counter::new(progress, "debian packages", lock.total_size());
    let received = |more| counter.add(more);
    let work = Work {
        fetcher: &fetcher,
        sources,
        dir: cache.join("packages"),
        received: &received,
    };
    let work = &work;
    // Order is kept, so that the result depends on the lock alone.
    // Boxed, since a stream of closures over borrowed packages is not `Send` for every lifetime.
    let unpacking = lock
        .packages()
        .iter()
        .map(|package| {
            async move {
                Ok::<_, Error>(Package {
                    name: package.name.clone(),
                    unpacked: work.unpacked(package).await?,
                })
            }
            .boxed()
        })
        .collect::<Vec<_>>();
    let packages: Vec<Package> = futures::stream::iter(unpacking)
        .buffered(PARALLEL)
        .try_collect()
        .await?;
    let lock = lock.clone();
    blocking(move || build(&lock, &packages)).await
}

struct Work<'a> {
    fetcher: &'a Fetcher,
    sources: &'a Sources,
    dir: PathBuf,
    received: &'a (dyn Fn(i64) + Send + Sync),
}

impl Work<'_> {
    /// The package unpacked in the cache, made there if need be.
    async fn unpacked(&self, package: &LockedPackage) -> Result<Unpacked> {
        if let Some(ready) = self.load(&package.sha256).await? {
            (self.received)(i64::try_from(package.size).unwrap_or(i64::MAX));
            return Ok(ready);
        }
        let file = self.dir.join(format!("{}.deb", package.sha256));
        let expected = Expected {
            sha256: package.sha256.clone(),
            size: package.size,
        };
        let urls = self.urls(package)?;
        self.fetcher
            .file(&urls, &expected, &file, self.received)
            .await?;
        let (dir, sha256) = (self.dir.clone(), package.sha256.clone());
        blocking(move || deb::unpack(&file, &dir, &sha256)).await?;
        self.load(&package.sha256).await?.ok_or_else(|| {
            let detail = "the cache changed while the package was unpacked";
            Error::new(ErrorKind::Changed, "unpack package", &package.name, detail)
        })
    }

    async fn load(&self, sha256: &str) -> Result<Option<Unpacked>> {
        let (dir, sha256) = (self.dir.clone(), sha256.to_owned());
        blocking(move || deb::load(&dir, &sha256)).await
    }

    fn urls(&self, package: &LockedPackage) -> Result<Vec<Url>> {
        let candidates = self.sources.candidates(&package.suite);
        candidates
            .into_iter()
            .map(|source| source.url(&package.filename))
            .collect()
    }
}

/// Puts everything into a tree.
fn build(lock: &DebianLock, packages: &[Package]) -> Result<DebianTree> {
    let mut tree = Tree::new();
    for (path, placed) in place(packages, lock.is_slim())? {
        if let Some(node) = node(&placed, packages) {
            tree.insert(&path, node)?;
        }
    }
    for package in packages {
        synthesize::status(&mut tree, &package.name, &package.unpacked.control)?;
    }
    synthesize::alternatives(&mut tree)?;
    if lock.on().is_none() {
        synthesize::base(&mut tree)?;
    }
    let python = python(&tree, lock);
    Ok(DebianTree { tree, python })
}

/// The node of a placed entry. A hard link becomes a file of its own, since its other name may
/// have been left out; packages have very few.
fn node(placed: &Placed<'_>, packages: &[Package]) -> Option<Node> {
    let (entry, unpacked) = (placed.entry, &packages[placed.package].unpacked);
    let file = |offset, len| Node::file(entry.mode, Content::range(&unpacked.tar, offset, len));
    match &entry.kind {
        Kind::Dir => Some(Node::dir(entry.mode)),
        Kind::Symlink(target) => Some(Node::symlink(target)),
        Kind::File { offset, len } => Some(file(*offset, *len)),
        Kind::Hardlink(target) => unpacked
            .entries
            .iter()
            .find(|one| one.path == *target)
            .and_then(|one| match one.kind {
                Kind::File { offset, len } => Some(file(offset, len)),
                _ => None,
            }),
    }
}

/// Finds what `/usr/bin/python3` leads to, and the version of the package it is from.
fn python(tree: &Tree, lock: &DebianLock) -> Option<PythonInfo> {
    let NodeKind::Symlink(target) = &tree.get("usr/bin/python3")?.kind else {
        return None;
    };
    let name = target.rsplit('/').next()?;
    let is_file = matches!(
        tree.get(&format!("usr/bin/{name}"))?.kind,
        NodeKind::File(_)
    );
    let package = [
        format!("{name}-minimal"),
        name.to_owned(),
        "python3".to_owned(),
    ]
    .iter()
    .find_map(|package| lock.get(package))
    .filter(|_| is_file)?;
    Some(PythonInfo {
        version: upstream(&package.version).to_owned(),
        interpreter: format!("/usr/bin/{name}"),
    })
}
