//! Folders in which the programs run: an app, its configuration, and the base that all tests share.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use modelship_testkit::{Missing, Scratch, need};

use crate::program::{MODELSHIP, QUICKSTART, Said, program, said, words};

/// The example app, as it is in the repository.
pub(crate) const APP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/flask-app");

/// A configuration with everything on this machine; tests replace lines of it.
const TOML: &str = r#"state = "state"
[app]
name = "digits"
path = "app"
tests = []
[model]
url = "file://store/digits@latest"
[base]
lock = "base.lock"
[registry]
layout = "image"
[deploy]
manifests = "manifests"
"#;

/// A folder with a copy of the app and a `modelship.toml`, and nothing else.
#[derive(Debug)]
pub(crate) struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    /// Makes the folder; each pair replaces a line of the configuration.
    #[track_caller]
    pub(crate) fn new(changes: &[(&str, &str)]) -> Self {
        let site = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        copy(Path::new(APP), &site.path("app"));
        let mut text = TOML.to_owned();
        for (from, to) in changes {
            assert!(text.contains(from), "{from}");
            text = text.replace(from, to);
        }
        fs::write(site.path("modelship.toml"), text).unwrap();
        site
    }

    /// The path of `name` in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `modelship` with these words as its arguments.
    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = program(MODELSHIP, self.folder.path());
        command.args(words(arguments));
        command
    }

    /// Runs `modelship` with these words as its arguments.
    pub(crate) fn modelship(&self, arguments: &str) -> Said {
        said(&mut self.command(arguments))
    }

    /// Publishes a version of the example model.
    #[track_caller]
    pub(crate) fn publish(&self, version: &str) {
        self.modelship(&format!(
            "publish app/models/digits/{version} digits {version}"
        ))
        .succeeded();
    }

    /// Gives it the shared base, as if this site had made it: packages and unpacked layers.
    pub(crate) fn adopt(&self, base: &SharedBase) {
        self.adopt_at("state", "base.lock", base);
    }

    /// As [`Site::adopt`], for a configuration that keeps state and lock elsewhere.
    pub(crate) fn adopt_at(&self, state: &str, lock: &str, base: &SharedBase) {
        fs::copy(base.0.join("modelship.lock"), self.path(lock)).unwrap();
        let (from, to) = (base.0.join("state/cache"), self.path(state).join("cache"));
        fs::create_dir_all(to.join("rootfs")).unwrap();
        symlink(from.join("layers"), to.join("layers")).unwrap();
        // One link for each: a run trims this folder, and must trim links only.
        for entry in fs::read_dir(from.join("rootfs")).unwrap() {
            let entry = entry.unwrap();
            symlink(entry.path(), to.join("rootfs").join(entry.file_name())).unwrap();
        }
    }

    /// Neither image nor tag nor manifests nor record of a release.
    #[track_caller]
    pub(crate) fn released_nothing(&self) {
        for name in ["image/index.json", "manifests", "state/releases"] {
            assert!(!self.path(name).exists(), "{name} was written");
        }
    }
}

/// What the first quickstart of this process left: its base serves all other tests.
#[derive(Debug)]
pub(crate) struct SharedBase(PathBuf);

impl SharedBase {
    /// The folder.
    pub(crate) fn folder(&self) -> &Path {
        &self.0
    }
}

/// A finished quickstart, and what it said; `None` where this machine has no package sources.
pub(crate) fn quickstarted() -> Option<&'static (SharedBase, Said)> {
    static DONE: OnceLock<(Scratch, (SharedBase, Said))> = OnceLock::new();
    need(apt_sources())?;
    let (_, done) = DONE.get_or_init(|| {
        let scratch = Scratch::new().unwrap();
        let out = scratch.join("out");
        let said = said(
            program(QUICKSTART, scratch.path())
                .args(["--json", "--out"])
                .arg(&out),
        );
        said.succeeded();
        (scratch, (SharedBase(out), said))
    });
    Some(done)
}

/// The shared base; `None` where this machine has no package sources.
pub(crate) fn shared_base() -> Option<&'static SharedBase> {
    quickstarted().map(|(base, _)| base)
}

/// Whether this machine has a package source that could be used.
pub(crate) fn apt_sources() -> Result<(), Missing> {
    let apt = Path::new("/etc/apt");
    let files = fs::read_dir(apt.join("sources.list.d"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|e| e == "list" || e == "sources")
        })
        .chain([apt.join("sources.list")]);
    let names_one = |text: String| {
        text.lines()
            .any(|line| line.starts_with("deb ") || line.starts_with("URIs:"))
    };
    files
        .filter_map(|path| fs::read_to_string(path).ok())
        .any(names_one)
        .then_some(())
        .ok_or_else(|| Missing::absent("apt sources", "none are configured in /etc/apt"))
}

/// Copies a tree of files.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// Every file below `folder` with its content, for comparisons.
pub(crate) fn snapshot(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                all.push((path.clone(), fs::read(&path).unwrap()));
            }
        }
    }
    all.sort();
    all
}
