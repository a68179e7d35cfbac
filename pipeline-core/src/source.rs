//! The app's code as one immutable snapshot: a commit of a git repository, or a folder as it is.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Component, Path, PathBuf};

use gix::bstr::ByteSlice as _;

use crate::Stage;
use crate::config::AppConfig;
use crate::error::{BoxError, Error, ErrorKind, Result};

/// The app's code at one revision, as files on this machine.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Source {
    /// The commit's id, or `None` for a folder that is taken as it is.
    pub commit: Option<String>,
    /// The folder that holds the app's files.
    pub folder: PathBuf,
    /// Where it came from, for people.
    pub origin: String,
    /// What of the folder is not the app's, as `.dockerignore` patterns.
    pub(crate) left_out: Vec<String>,
}

impl Source {
    /// Takes the snapshot that `app` names; commits are checked out below `cache`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for a missing folder, repository or revision, [`ErrorKind::Invalid`]
    /// for a tree that cannot be checked out safely.
    pub fn take(app: &AppConfig, cache: &Path) -> Result<Self> {
        match (&app.path, &app.repository) {
            (Some(path), _) => Self::folder(path),
            (None, Some(repository)) => Self::commit(app, repository, cache),
            (None, None) => Err(Error::new(
                ErrorKind::Invalid,
                Stage::Observe,
                "app.path",
                "names no source",
            )),
        }
    }

    fn folder(path: &Path) -> Result<Self> {
        if !path.is_dir() {
            return Err(Error::new(
                ErrorKind::NotFound,
                Stage::Observe,
                path.display(),
                "the app's folder does not exist",
            )
            .with_hint("set `path` in the [app] section to the folder of the app"));
        }
        Ok(Self {
            commit: None,
            folder: path.to_owned(),
            origin: path.display().to_string(),
            left_out: Vec::new(),
        })
    }

    /// Leaves out those of `paths` that lie in the folder, and the folders that hold nothing
    /// else; the app's folder itself is never left out.
    #[must_use]
    pub(crate) fn without(mut self, paths: &[PathBuf]) -> Self {
        let inside = paths
            .iter()
            .filter_map(|path| path.strip_prefix(&self.folder).ok())
            .filter(|path| path.components().all(|c| matches!(c, Component::Normal(_))))
            .filter(|path| !path.as_os_str().is_empty());
        let mut own: BTreeSet<PathBuf> = inside.map(Path::to_owned).collect();
        for path in own.clone() {
            let above = path.ancestors().skip(1);
            for folder in above.take_while(|folder| !folder.as_os_str().is_empty()) {
                if !holds_only(&self.folder, folder, &own) {
                    break;
                }
                own.insert(folder.to_owned());
            }
        }
        self.left_out = own.iter().filter_map(|p| p.to_str()).map(pattern).collect();
        self
    }

    fn commit(app: &AppConfig, repository: &Path, cache: &Path) -> Result<Self> {
        let repo = open(repository)?;
        let object = format!("{} {}", repository.display(), app.branch);
        let missing = |e: BoxError| {
            Error::new(ErrorKind::NotFound, Stage::Observe, &object, e.to_string()).with_hint(
                "set `branch` in the [app] section to a branch, tag or commit that exists",
            )
        };
        let commit = repo
            .rev_parse_single(app.branch.as_str())
            .map_err(|e| missing(e.into()))?
            .object()
            .map(|o| o.peel_to_kind(gix::object::Kind::Commit))
            .map_err(|e| missing(e.into()))?
            .map_err(|e| missing(e.into()))?
            .into_commit();
        let id = commit.id.to_string();
        let tree = commit.tree().map_err(|e| missing(e.into()))?;
        let tree = match app.folder.as_deref().filter(|f| !f.is_empty() && *f != ".") {
            None => tree,
            Some(folder) => subtree(&tree, folder, &object)?,
        };
        let target = cache.join(tree.id.to_string());
        if !target.is_dir() {
            check_out(&tree, &target, &object)?;
        }
        let origin = format!("{}@{id}", repository.display());
        Ok(Self {
            commit: Some(id),
            folder: target,
            origin,
            left_out: Vec::new(),
        })
    }
}

/// Whether `folder`, below `root`, is there and holds nothing but what `own` names.
fn holds_only(root: &Path, folder: &Path, own: &BTreeSet<PathBuf>) -> bool {
    fs::read_dir(root.join(folder)).is_ok_and(|entries| {
        let mut names = entries
            .flatten()
            .map(|entry| folder.join(entry.file_name()));
        names.all(|name| own.contains(&name))
    })
}

/// The `.gitignore` pattern of exactly this path.
fn pattern(path: &str) -> String {
    let mut pattern = String::from("/");
    for c in path.chars() {
        // White space at an end of a pattern would be trimmed, escaped or not.
        if c.is_whitespace() {
            pattern.extend(['[', c, ']']);
            continue;
        }
        if "\\*?[]".contains(c) {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

/// The commit that `app`'s branch points to now; `None` for a folder source.
///
/// # Errors
/// As [`Source::take`].
pub(crate) fn head(app: &AppConfig) -> Result<Option<String>> {
    let Some(repository) = &app.repository else {
        return Ok(None);
    };
    let repo = open(repository)?;
    let id = repo.rev_parse_single(app.branch.as_str()).map_err(|e| {
        let object = format!("{} {}", repository.display(), app.branch);
        Error::new(ErrorKind::NotFound, Stage::Watch, object, e.to_string())
    })?;
    Ok(Some(id.to_string()))
}

fn open(repository: &Path) -> Result<gix::Repository> {
    gix::open(repository).map_err(|e| {
        Error::new(
            ErrorKind::NotFound,
            Stage::Observe,
            repository.display(),
            e.to_string(),
        )
        .with_hint("set `repository` in the [app] section to a git repository on this machine")
    })
}

fn subtree<'r>(tree: &gix::Tree<'r>, folder: &str, object: &str) -> Result<gix::Tree<'r>> {
    let absent = |detail: String| {
        Error::new(ErrorKind::NotFound, Stage::Observe, object, detail)
            .with_hint("set `folder` in the [app] section to a folder of that revision")
    };
    let entry = tree
        .lookup_entry_by_path(folder)
        .map_err(|e| absent(e.to_string()))?
        .ok_or_else(|| absent(format!("holds no folder `{folder}`")))?;
    entry
        .object()
        .map_err(|e| absent(e.to_string()))?
        .try_into_tree()
        .map_err(|_| absent(format!("`{folder}` is not a folder")))
}

/// Writes `tree` to `target`, through a temporary folder and a rename, so that a killed run
/// leaves no half of it.
fn check_out(tree: &gix::Tree<'_>, target: &Path, object: &str) -> Result<()> {
    let io = |e: std::io::Error| Error::io(Stage::Observe, target, e);
    let parent = target.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(io)?;
    let temporary = tempfile::tempdir_in(parent).map_err(io)?;
    write_tree(tree, temporary.path(), object, 0)?;
    match fs::rename(temporary.keep(), target) {
        Err(_) if target.is_dir() => Ok(()), // another run was faster; content-addressed, so the same
        other => other.map_err(io),
    }
}

/// Deeper trees than this are taken for an attack on the stack.
const DEEPEST: usize = 64;

fn write_tree(tree: &gix::Tree<'_>, target: &Path, object: &str, depth: usize) -> Result<()> {
    let invalid = |detail: String| Error::new(ErrorKind::Invalid, Stage::Observe, object, detail);
    if depth > DEEPEST {
        return Err(invalid(format!(
            "folders are nested more than {DEEPEST} deep"
        )));
    }
    for entry in tree.iter() {
        let entry = entry.map_err(|e| invalid(e.to_string()))?;
        let name = entry
            .filename()
            .to_str()
            .map_err(|e| invalid(format!("a file name is not UTF-8: {e}")))?;
        if name.is_empty()
            || name == "."
            || name == ".."
            || name.contains(['/', '\0'])
            || name.eq_ignore_ascii_case(".git")
        {
            return Err(invalid(format!(
                "the file name `{}` is not safe to check out",
                name.escape_debug()
            )));
        }
        let path = target.join(name);
        let io = |e: std::io::Error| Error::io(Stage::Observe, &path, e);
        let found = entry
            .object()
            .map_err(|e| invalid(format!("{name}: {e}")))?;
        let mode = entry.mode();
        if mode.is_tree() {
            fs::create_dir(&path).map_err(io)?;
            write_tree(&found.into_tree(), &path, object, depth + 1)?;
        } else if mode.is_link() {
            let link = found
                .data
                .to_str()
                .map_err(|_| invalid(format!("the link {name} is not UTF-8")))?;
            std::os::unix::fs::symlink(link, &path).map_err(io)?;
        } else if mode.is_blob() {
            write_file(&path, &found.data, mode.is_executable()).map_err(io)?;
        } else {
            return Err(
                invalid(format!("`{name}` is a submodule, which is not supported"))
                    .with_hint("vendor the submodule's files, or name a folder without it"),
            );
        }
    }
    Ok(())
}

fn write_file(path: &Path, data: &[u8], executable: bool) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mode = if executable { 0o755 } else { 0o644 };
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?
        .write_all(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_road_writes_into_the_app_s_folder_is_not_the_app_s() {
        let folder = tempfile::tempdir().unwrap();
        for file in [
            "app.py",
            "out/a/image/x",
            "out/manifests/x",
            "state/x",
            "out [1]/x",
            "end /x",
            "sub/state/x",
            "kubeconfig",
        ] {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let inside = |name: &str| folder.path().join(name);
        let own = [
            inside("out/a/image"),
            inside("out/manifests"),
            inside("state"),
            inside("out [1]"),
            inside("end "),
            inside("./kubeconfig"),
            inside(""),
        ];
        let elsewhere = [PathBuf::from("/elsewhere"), folder.path().join("..")];
        let source = Source::folder(&inside("."))
            .unwrap()
            .without(&[&own[..], &elsewhere[..]].concat());
        let mut options = modelship_image_builder::TreeOptions::default();
        options.ignore = source.left_out;
        let tree = modelship_image_builder::Tree::from_dir("/app", &source.folder, &options);
        let tree = tree.unwrap();
        let names: Vec<_> = tree.iter().map(|(name, _)| name.to_string()).collect();
        let files = [
            "app",
            "app/app.py",
            "app/sub",
            "app/sub/state",
            "app/sub/state/x",
        ];
        assert_eq!(names, files);
    }
}
