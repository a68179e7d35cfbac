//! Reading a directory of the host into a [`Tree`].

use std::fs::Metadata;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use ignore::{DirEntry, WalkBuilder};

use crate::content::Content;
use crate::error::{Error, ErrorKind, Result};
use crate::tree::{Node, Tree};

const STAGE: &str = "read directory";
const IGNORE_FILE: &str = ".dockerignore";

/// How a directory is read into a [`Tree`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct TreeOptions {
    /// Patterns of what to leave out, in `.gitignore` syntax, applied after the directory's own
    /// `.dockerignore`.
    pub ignore: Vec<String>,
    /// Keep `__pycache__` and `*.pyc`, which are left out by default.
    pub keep_bytecode: bool,
    /// Do not read the directory's `.dockerignore`.
    pub no_ignore_file: bool,
}

/// What [`Tree::from_dir`] does.
pub(crate) fn read(at: &str, dir: &Path, options: &TreeOptions) -> Result<Tree> {
    let prefix = at.trim_matches('/');
    let mut tree = Tree::new();
    if !prefix.is_empty() {
        tree.insert_dir(prefix, 0o755)?;
    }
    let rules = rules(dir, options)?;
    let walk = WalkBuilder::new(dir)
        .standard_filters(false)
        .follow_links(false)
        .filter_entry(move |entry| entry.depth() == 0 || !is_ignored(&rules, entry))
        .build();
    for entry in walk {
        let entry = entry.map_err(|e| unreadable(dir, e))?;
        if entry.depth() > 0 {
            add(&mut tree, prefix, dir, &entry)?;
        } else if !dir.is_dir() {
            let object = dir.display().to_string();
            let detail = "it is not a directory";
            return Err(Error::new(ErrorKind::Invalid, STAGE, object, detail));
        }
    }
    Ok(tree)
}

fn is_ignored(rules: &Gitignore, entry: &DirEntry) -> bool {
    let is_dir = entry.file_type().is_some_and(|kind| kind.is_dir());
    rules.matched(entry.path(), is_dir).is_ignore()
}

fn rules(dir: &Path, options: &TreeOptions) -> Result<Gitignore> {
    let mut rules = GitignoreBuilder::new(dir);
    let own = dir.join(IGNORE_FILE);
    if !options.no_ignore_file
        && own.is_file()
        && let Some(error) = rules.add(&own)
    {
        return Err(bad_pattern(&own, error));
    }
    let always = ["/.dockerignore", ".git"].into_iter();
    let bytecode = ["__pycache__", "*.pyc"]
        .into_iter()
        .filter(|_| !options.keep_bytecode);
    let given = options.ignore.iter().map(String::as_str);
    // The fixed rules come last, so that no negated pattern brings `.git` back.
    for pattern in given.chain(always).chain(bytecode) {
        rules
            .add_line(None, pattern)
            .map_err(|e| bad_pattern(dir, e))?;
    }
    rules.build().map_err(|e| bad_pattern(&own, e))
}

fn bad_pattern(path: &Path, source: ignore::Error) -> Error {
    let object = path.display().to_string();
    Error::new(
        ErrorKind::Invalid,
        STAGE,
        object,
        "an ignore pattern is broken",
    )
    .with_source(source)
}

fn unreadable(dir: &Path, source: ignore::Error) -> Error {
    let kind = match source.io_error().map(std::io::Error::kind) {
        Some(std::io::ErrorKind::NotFound) => ErrorKind::NotFound,
        _ => ErrorKind::Io,
    };
    let object = dir.display().to_string();
    Error::new(kind, STAGE, object, "cannot read it").with_source(source)
}

fn add(tree: &mut Tree, prefix: &str, dir: &Path, entry: &DirEntry) -> Result<()> {
    let path = entry.path();
    let inside = path.strip_prefix(dir).unwrap_or(path);
    let inside = inside.to_str().ok_or_else(|| not_utf8(path))?;
    let name = match prefix {
        "" => inside.to_owned(),
        prefix => format!("{prefix}/{inside}"),
    };
    let meta = entry.metadata().map_err(|e| unreadable(path, e))?;
    tree.insert(&name, node(path, &meta)?)
}

fn node(path: &Path, meta: &Metadata) -> Result<Node> {
    let kind = meta.file_type();
    if kind.is_dir() {
        Ok(Node::dir(0o755))
    } else if kind.is_file() {
        let executable = meta.permissions().mode() & 0o100 != 0;
        let mode = if executable { 0o755 } else { 0o644 };
        Ok(Node::file(mode, Content::range(path, 0, meta.len())))
    } else if kind.is_symlink() {
        let target = std::fs::read_link(path)
            .map_err(|e| Error::io(STAGE, path, "cannot read the symlink", e))?;
        let target = target.to_str().ok_or_else(|| not_utf8(path))?;
        Ok(Node::symlink(target))
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
    use crate::tree::NodeKind;
    use std::os::unix::fs::symlink;

    fn sample() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        };
        for path in [
            "app.py",
            "run.sh",
            ".git/config",
            "pkg/__pycache__/a.pyc",
            "pkg/b.pyc",
            "pkg/b.py",
            "secret/key",
            "notes.md",
            "keep.md",
            ".hidden",
        ] {
            put(path);
        }
        let exec = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(dir.path().join("run.sh"), exec).unwrap();
        symlink("/etc/shadow", dir.path().join("link")).unwrap();
        std::fs::write(
            dir.path().join(".dockerignore"),
            "secret/\n*.md\n!keep.md\n!.git\n",
        )
        .unwrap();
        dir
    }

    #[test]
    fn ignored_and_derived_files_stay_out_and_modes_are_normal() {
        let dir = sample();
        let tree = Tree::from_dir("/app", dir.path(), &TreeOptions::default()).unwrap();
        let paths: Vec<_> = tree.iter().map(|(path, _)| path).collect();
        let expected = [
            "app",
            "app/.hidden",
            "app/app.py",
            "app/keep.md",
            "app/link",
            "app/pkg",
            "app/pkg/b.py",
            "app/run.sh",
        ];
        assert_eq!(paths, expected);
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
            ignore: vec!["app.py".to_owned()],
        };
        let tree = Tree::from_dir("/", dir.path(), &options).unwrap();
        assert!(tree.get("app.py").is_none());
        assert!(tree.get("pkg/b.pyc").is_some());
        assert!(tree.get("secret/key").is_some());
    }

    #[test]
    fn a_missing_directory_and_a_socket_are_errors() {
        let dir = sample();
        let options = TreeOptions::default();
        let missing = Tree::from_dir("/", &dir.path().join("none"), &options).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap();
        let socket = Tree::from_dir("/", dir.path(), &options).unwrap_err();
        assert_eq!(socket.kind(), ErrorKind::Invalid);
    }
}
