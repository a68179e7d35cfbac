//! A git repository with the example app, as app developers would have it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use modelship_testkit::Missing;
use tempfile::TempDir;

/// The example app.
pub(crate) fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/flask-app")
}

/// The golden request of the app.
pub(crate) fn golden() -> PathBuf {
    example().join("smoke/score.json")
}

/// A repository of its own, gone when dropped.
#[derive(Debug)]
pub(crate) struct Repository {
    folder: TempDir,
}

impl Repository {
    /// Makes a repository whose first commit holds the example app.
    pub(crate) fn with_example() -> Result<Self, Missing> {
        let asked = Command::new("git")
            .arg("--version")
            .stdout(Stdio::null())
            .status();
        asked.map_err(|error| Missing::absent("git", error))?;
        let repository = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        repository.git(&["init", "--quiet", "--initial-branch=main"]);
        copy(&example(), repository.path());
        repository.commit("The example app");
        Ok(repository)
    }

    /// Its folder.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The text of a file in the working tree.
    pub(crate) fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.path().join(file)).unwrap()
    }

    /// Commits `text` as the whole of `file`; the commit's id.
    pub(crate) fn change(&self, file: &str, text: &str) -> String {
        std::fs::write(self.path().join(file), text).unwrap();
        self.commit(&format!("Change {file}"))
    }

    /// The id of the newest commit.
    pub(crate) fn head(&self) -> String {
        self.git(&["rev-parse", "HEAD"]).trim().to_owned()
    }

    fn commit(&self, message: &str) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", message]);
        self.head()
    }

    /// Runs git without the configuration of this machine or user.
    fn git(&self, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .current_dir(self.path())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .args(["-c", "user.name=Ada", "-c", "user.email=ada@app.invalid"])
            .args(arguments)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "git {arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// Copies a folder without its models, which data scientists keep elsewhere.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if entry.file_name() == "models" || entry.file_name() == "__pycache__" {
            continue;
        }
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}
