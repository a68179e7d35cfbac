//! Reading a directory of the host into a [`Tree`].

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, Metadata};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::content::{Content, Stamp};
use crate::docker_ignore::{DockerIgnore, Parent};
use crate::error::{Error, ErrorKind, Result};
use crate::tree::{Node, NodeKind, Tree};

const STAGE: &str = "read directory";
const IGNORE_FILE: &str = ".dockerignore";
/// The largest ignore file that is read.
const MAX_IGNORE_FILE: u64 = 1024 * 1024;

/// How a directory is read into a [`Tree`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct TreeOptions {
    /// Patterns of what to leave out, in `.dockerignore` syntax, applied after the directory's
    /// own `.dockerignore`.
    pub ignore: Vec<String>,
    /// Keep `__pycache__` and `*.pyc`, which are left out by default.
    pub keep_bytecode: bool,
    /// Do not read the directory's `.dockerignore`.
    pub no_ignore_file: bool,
    /// Store every name of a file that has several as a file of its own, instead of as a hard
    /// link to the first of them.
    pub copy_hard_links: bool,
}

/// What [`Tree::from_dir`] does.
pub(crate) fn read(at: &str, dir: &Path, options: &TreeOptions) -> Result<Tree> {
    let prefix = at.trim_matches('/');
    let mut tree = Tree::new();
    if !prefix.is_empty() {
        tree.insert_dir(prefix, 0o755)?;
    }
    let mut walk = Walk {
        root: dir,
        always: always(options)?,
        rules: rules(dir, options)?,
        found: BTreeMap::new(),
        ahead: Vec::new(),
        walked: Vec::new(),
    };
    walk.run()?;
    let mut files = HashMap::new();
    for (inside, entry) in walk.found {
        let name = match prefix {
            "" => inside,
            prefix => format!("{prefix}/{inside}"),
        };
        let mut node = entry.node;
        if let Some(inode) = entry.inode.filter(|_| !options.copy_hard_links) {
            match files.get(&inode) {
                Some(first) => node.kind = NodeKind::Hardlink(String::clone(first)),
                None => {
                    files.insert(inode, name.clone());
                }
            }
        }
        tree.insert(&name, node)?;
    }
    Ok(tree)
}

/// What never enters, whatever a `.dockerignore` says.
fn always(options: &TreeOptions) -> Result<DockerIgnore> {
    let bytecode = ["**/__pycache__", "**/*.pyc"]
        .into_iter()
        .filter(|_| !options.keep_bytecode);
    DockerIgnore::parse([IGNORE_FILE, "**/.git"].into_iter().chain(bytecode), STAGE)
}

fn rules(dir: &Path, options: &TreeOptions) -> Result<DockerIgnore> {
    let own = dir.join(IGNORE_FILE);
    let mut text = String::new();
    if !options.no_ignore_file && own.is_file() {
        let unreadable = |e| Error::io(STAGE, &own, "cannot read it", e);
        if fs::metadata(&own).map_err(unreadable)?.len() > MAX_IGNORE_FILE {
            let object = own.display().to_string();
            let detail = "it is larger than 1 MiB";
            return Err(Error::new(ErrorKind::Invalid, STAGE, object, detail));
        }
        text = fs::read_to_string(&own).map_err(unreadable)?;
    }
    let lines = text
        .lines()
        .chain(options.ignore.iter().map(String::as_str));
    DockerIgnore::parse(lines, &own.display().to_string())
}

/// A walk in progress. Entries are gathered by path, so the order the file system lists them in
/// cannot show.
struct Walk<'a> {
    root: &'a Path,
    always: DockerIgnore,
    rules: DockerIgnore,
    found: BTreeMap<String, Found>,
    /// The directories still to be listed; a list and not the stack, which deep trees would fill.
    ahead: Vec<Ahead>,
    /// The directories that were listed, as they were before.
    walked: Vec<(PathBuf, Stamp)>,
}

struct Ahead {
    path: PathBuf,
    inside: String,
    parent: Parent,
    /// As the walk found it, so that it is the directory that was found that is listed.
    stamp: Stamp,
}

struct Found {
    node: Node,
    /// The device and inode of a file that has other names, too.
    inode: Option<(u64, u64)>,
}

impl Walk<'_> {
    fn run(&mut self) -> Result<()> {
        let meta = fs::metadata(self.root)
            .map_err(|e| Error::io(STAGE, self.root, "cannot read it", e))?;
        if !meta.is_dir() {
            let object = self.root.display().to_string();
            let detail = "it is not a directory";
            return Err(Error::new(ErrorKind::Invalid, STAGE, object, detail));
        }
        self.ahead.push(Ahead {
            path: self.root.to_owned(),
            inside: String::new(),
            parent: Parent::default(),
            stamp: Stamp::of(&meta),
        });
        while let Some(dir) = self.ahead.pop() {
            let unreadable = |e| Error::io(STAGE, &dir.path, "cannot read it", e);
            for entry in fs::read_dir(&dir.path).map_err(unreadable)? {
                let path = entry.map_err(unreadable)?.path();
                self.entry(&path, &dir)?;
            }
            self.walked.push((dir.path, dir.stamp));
        }
        self.check_unchanged()
    }

    /// Takes one entry of the directory `above`.
    fn entry(&mut self, path: &Path, above: &Ahead) -> Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let inside = match above.inside.as_str() {
            "" => name.into_owned(),
            above => format!("{above}/{name}"),
        };
        if self.always.decide(&inside, &Parent::default()).ignored {
            return Ok(());
        }
        let decision = self.rules.decide(&inside, &above.parent);
        let meta = fs::symlink_metadata(path).map_err(|e| gone(path, e))?;
        if !decision.ignored {
            self.check_utf8(path)?;
            let (node, inode) = node(path, &meta)?;
            self.found.insert(inside.clone(), Found { node, inode });
        }
        if meta.is_dir() && (!decision.ignored || self.rules.may_keep_below(&inside)) {
            self.ahead.push(Ahead {
                path: path.to_owned(),
                inside,
                parent: decision.parent,
                stamp: Stamp::of(&meta),
            });
        }
        Ok(())
    }

    fn check_utf8(&self, path: &Path) -> Result<()> {
        let inside = path.strip_prefix(self.root).unwrap_or(path);
        match inside.to_str() {
            Some(_) => Ok(()),
            None => Err(not_utf8(path)),
        }
    }

    /// A directory that gained or lost an entry during the walk may have been seen half.
    fn check_unchanged(&self) -> Result<()> {
        for (path, before) in &self.walked {
            let meta = fs::metadata(path).map_err(|e| gone(path, e))?;
            if Stamp::of(&meta) != *before {
                return Err(changed(path.display().to_string()));
            }
        }
        Ok(())
    }
}

fn changed(object: String) -> Error {
    let detail = "it changed while it was read";
    Error::new(ErrorKind::Changed, STAGE, object, detail)
        .with_hint("do not change the directory while the image is built, then build again")
}

/// What was listed a moment ago and cannot be found now has changed.
fn gone(path: &Path, source: std::io::Error) -> Error {
    match source.kind() {
        std::io::ErrorKind::NotFound => changed(path.display().to_string()).with_source(source),
        _ => Error::io(STAGE, path, "cannot read it", source),
    }
}

/// The node of an entry, and its inode if that has other names, too.
fn node(path: &Path, meta: &Metadata) -> Result<(Node, Option<(u64, u64)>)> {
    let kind = meta.file_type();
    if kind.is_dir() {
        Ok((Node::dir(0o755), None))
    } else if kind.is_file() {
        let executable = meta.permissions().mode() & 0o100 != 0;
        let mode = if executable { 0o755 } else { 0o644 };
        let inode = (meta.nlink() > 1).then(|| (meta.dev(), meta.ino()));
        Ok((Node::file(mode, Content::whole(path, meta)), inode))
    } else if kind.is_symlink() {
        let target = fs::read_link(path)
            .map_err(|e| Error::io(STAGE, path, "cannot read the symlink", e))?;
        let target = target.to_str().ok_or_else(|| not_utf8(path))?;
        Ok((Node::symlink(target), None))
    } else {
        let object = path.display().to_string();
        let detail = "a socket, pipe or device cannot be part of an image";
        Err(Error::new(ErrorKind::Invalid, STAGE, object, detail)
            .with_hint("name it in `.dockerignore`"))
    }
}

fn not_utf8(path: &Path) -> Error {
    let object = path.display().to_string();
    Error::new(
        ErrorKind::Invalid,
        STAGE,
        object,
        "its name or target is not UTF-8",
    )
    .with_hint("rename it, or name it in `.dockerignore`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::collect;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    fn put(dir: &Path, path: &str) {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }

    fn sample() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for path in [
            "app.py",
            "run.sh",
            ".git/config",
            "sub/.git",
            "pkg/__pycache__/a.pyc",
            "pkg/b.pyc",
            "pkg/b.py",
            "pkg/notes.md",
            "secret/key",
            "notes.md",
            "keep.md",
            ".hidden",
        ] {
            put(dir.path(), path);
        }
        let exec = fs::Permissions::from_mode(0o700);
        fs::set_permissions(dir.path().join("run.sh"), exec).unwrap();
        symlink("/etc/shadow", dir.path().join("link")).unwrap();
        let ignore = "secret/\n*.md\n!keep.md\n!**/.git\n";
        fs::write(dir.path().join(".dockerignore"), ignore).unwrap();
        dir
    }

    fn paths(tree: &Tree) -> Vec<&str> {
        tree.iter().map(|(path, _)| path).collect()
    }

    #[test]
    fn ignored_and_derived_files_stay_out_and_modes_are_normal() {
        let dir = sample();
        let tree = Tree::from_dir("/app", dir.path(), &TreeOptions::default()).unwrap();
        let expected = [
            "app",
            "app/.hidden",
            "app/app.py",
            "app/keep.md",
            "app/link",
            "app/pkg",
            "app/pkg/b.py",
            "app/pkg/notes.md",
            "app/run.sh",
            "app/sub",
        ];
        assert_eq!(paths(&tree), expected);
        assert_eq!(tree.get("app/run.sh").unwrap().mode, 0o755);
        assert_eq!(tree.get("app/app.py").unwrap().mode, 0o644);
        let link = &tree.get("app/link").unwrap().kind;
        assert!(matches!(link, NodeKind::Symlink(target) if target == "/etc/shadow"));
    }

    #[test]
    fn options_widen_and_narrow() {
        let dir = sample();
        let options = TreeOptions {
            keep_bytecode: true,
            no_ignore_file: true,
            ignore: vec!["app.py".to_owned(), "pkg".to_owned(), "!pkg/*.pyc".into()],
            ..TreeOptions::default()
        };
        let tree = Tree::from_dir("/", dir.path(), &options).unwrap();
        assert!(tree.get("app.py").is_none());
        assert!(tree.get("pkg/b.py").is_none());
        assert!(tree.get("pkg/b.pyc").is_some());
        assert!(tree.get("secret/key").is_some());
    }

    #[test]
    fn an_excluded_directory_is_not_even_read() {
        let dir = sample();
        let locked = dir.path().join("secret");
        let name = std::ffi::OsStr::from_bytes(b"\xff");
        fs::write(locked.join(name), "not UTF-8, so reading it would fail").unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(locked.join("s")).unwrap();
        Tree::from_dir("/", dir.path(), &TreeOptions::default()).unwrap();
    }

    #[test]
    fn names_of_one_inode_are_one_file_and_links_to_it() {
        let dir = sample();
        let at = |name: &str| dir.path().join(name);
        fs::hard_link(at("pkg/b.py"), at("pkg-b.py")).unwrap();
        fs::hard_link(at("pkg/b.py"), at("z.py")).unwrap();
        fs::hard_link(at("app.py"), at("secret/app.py")).unwrap();
        let tree = Tree::from_dir("/app", dir.path(), &TreeOptions::default()).unwrap();
        let kind = |path: &str| tree.get(path).unwrap().kind.clone();
        assert!(matches!(kind("app/pkg-b.py"), NodeKind::File(_)));
        for link in ["app/pkg/b.py", "app/z.py"] {
            assert!(matches!(kind(link), NodeKind::Hardlink(to) if to == "app/pkg-b.py"));
        }
        assert!(matches!(kind("app/app.py"), NodeKind::File(_)));
        let options = TreeOptions {
            copy_hard_links: true,
            ..TreeOptions::default()
        };
        let copied = Tree::from_dir("/app", dir.path(), &options).unwrap();
        assert!(
            copied
                .iter()
                .all(|(_, node)| !matches!(node.kind, NodeKind::Hardlink(_)))
        );
    }

    #[tokio::test]
    async fn a_file_replaced_after_the_walk_is_an_error() {
        let dir = sample();
        let tree = Tree::from_dir("/", dir.path(), &TreeOptions::default()).unwrap();
        let NodeKind::File(content) = &tree.get("app.py").unwrap().kind else {
            panic!("a file is a file");
        };
        assert!(collect(content.open(0), 9, "f").await.is_ok());
        fs::write(dir.path().join("new"), "y").unwrap();
        fs::rename(dir.path().join("new"), dir.path().join("app.py")).unwrap();
        let error = collect(content.open(0), 9, "f").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Changed);
    }

    #[test]
    fn a_missing_directory_and_a_socket_are_errors() {
        let dir = sample();
        let options = TreeOptions::default();
        let missing = Tree::from_dir("/", &dir.path().join("none"), &options).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        let file = Tree::from_dir("/", &dir.path().join("app.py"), &options).unwrap_err();
        assert_eq!(file.kind(), ErrorKind::Invalid);
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap();
        let socket = Tree::from_dir("/", dir.path(), &options).unwrap_err();
        assert_eq!(socket.kind(), ErrorKind::Invalid);
    }
}
