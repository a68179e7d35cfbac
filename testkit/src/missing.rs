//! What a test needs and this machine lacks, and the one place that decides what follows from it.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Why a service cannot be used here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The service, such as `azurite`.
    pub service: String,
    /// What is lacking, or what went wrong.
    pub reason: String,
    /// Whether the service is installed and does not work, which is never a reason to skip.
    pub broken: bool,
}

impl Missing {
    /// The service is not installed, or this user may not run it.
    pub fn absent(service: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self {
            service: service.into(),
            reason: reason.to_string(),
            broken: false,
        }
    }

    /// The service is installed and failed.
    pub fn broken(service: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self {
            service: service.into(),
            reason: reason.to_string(),
            broken: true,
        }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.broken { "failed" } else { "is missing" };
        write!(f, "{} {verb}: {}", self.service, self.reason)
    }
}

impl std::error::Error for Missing {}

/// Gives the service, or notes that the calling test is skipped and gives `None`.
///
/// # Panics
/// Where `CI` is `true`, so that a skip never passes for a success there; and everywhere when the
/// service is installed and [broken](Missing::broken).
#[track_caller]
pub fn need<T>(what: Result<T, Missing>) -> Option<T> {
    let missing = match what {
        Ok(value) => return Some(value),
        Err(missing) => missing,
    };
    let in_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(!missing.broken && !in_ci, "{missing}");
    let file = skips_file();
    let noted = note_skip(&file, &missing);
    assert!(
        noted.is_ok(),
        "note a skip in {}: {noted:?}",
        file.display()
    );
    None
}

fn skips_file() -> PathBuf {
    if let Some(file) = std::env::var_os("MODELSHIP_SKIPS_FILE") {
        return file.into();
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
        PathBuf::from,
    );
    target.join("testkit-skips.log")
}

/// Appends `TEST<tab>SERVICE<tab>REASON` in one write, so that parallel tests do not mix lines.
fn note_skip(file: &Path, missing: &Missing) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // libtest names the thread of a test after the test.
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("?");
    let reason = missing.reason.replace(['\n', '\t'], " ");
    let line = format!("{test}\t{}\t{reason}\n", missing.service);
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)?
        .write_all(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skip_is_one_line_that_names_test_service_and_reason() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("below/skips.log");
        note_skip(&file, &Missing::absent("a", "no\nluck")).unwrap();
        note_skip(&file, &Missing::absent("b", "none")).unwrap();
        let text = std::fs::read_to_string(file).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(
            lines[0].ends_with("a_skip_is_one_line_that_names_test_service_and_reason\ta\tno luck")
        );
    }

    #[test]
    #[should_panic(expected = "a failed: it fell over")]
    fn a_broken_service_is_never_skipped() {
        need::<()>(Err(Missing::broken("a", "it fell over")));
    }
}
