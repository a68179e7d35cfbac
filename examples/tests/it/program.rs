//! Runs a program in an environment that the test wrote, and checks how it refused.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

pub(crate) const MODELSHIP: &str = env!("CARGO_BIN_EXE_modelship");
pub(crate) const EMBED: &str = env!("CARGO_BIN_EXE_embed");
pub(crate) const QUICKSTART: &str = env!("CARGO_BIN_EXE_quickstart");

/// `program`, with `home` as its home and working folder, and no other variable than the path.
pub(crate) fn program(program: &str, home: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .current_dir(home);
    command
}

/// What a program said and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Runs `command` to its end.
pub(crate) fn said(command: &mut Command) -> Said {
    let output = command.output().expect("the program starts");
    Said {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).expect("its output is text"),
        err: String::from_utf8(output.stderr).expect("its output is text"),
    }
}

impl Said {
    /// Its output, when it succeeded.
    #[track_caller]
    pub(crate) fn succeeded(&self) -> &str {
        assert_eq!(self.code, Some(0), "{self:#?}");
        &self.out
    }

    /// Its output as one JSON object on one line, when it succeeded.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        let text = self.succeeded().trim_end();
        assert_eq!(text.lines().count(), 1, "{text}");
        serde_json::from_str(text).expect("the output is JSON")
    }

    /// It failed with one error of `stage` that holds each of `words`, and said what to do next.
    #[track_caller]
    pub(crate) fn refused(&self, stage: &str, words: &[&str]) -> &Self {
        assert_eq!(self.code, Some(1), "{self:#?}");
        let errors = self.lines("error: ");
        let [error] = errors[..] else {
            panic!("not one error line: {self:#?}")
        };
        assert!(error.starts_with(&format!("{stage} ")), "{error}");
        for word in words {
            assert!(error.contains(word), "`{word}` is not named: {error}");
        }
        let next = self.lines("  next: ");
        assert!(matches!(next[..], [text] if !text.is_empty()), "{self:#?}");
        self
    }

    /// What it said to do next holds `words`.
    #[track_caller]
    pub(crate) fn next(&self, words: &str) -> &Self {
        let next = self.lines("  next: ");
        assert!(next.iter().any(|line| line.contains(words)), "{self:#?}");
        self
    }

    /// It told nobody any of `secrets`.
    #[track_caller]
    pub(crate) fn keeps(&self, secrets: &[&str]) -> &Self {
        for secret in secrets {
            let told = self.out.contains(secret) || self.err.contains(secret);
            assert!(!told, "a secret was told: {self:#?}");
        }
        self
    }

    /// The error that it printed as one JSON object on one line.
    #[track_caller]
    pub(crate) fn error_json(&self) -> Value {
        assert_eq!(self.out.lines().count(), 1, "{self:#?}");
        serde_json::from_str(&self.out).expect("the error is JSON")
    }

    /// The output that is meant for people.
    pub(crate) fn err(&self) -> &str {
        &self.err
    }

    fn lines(&self, prefix: &str) -> Vec<&str> {
        self.err
            .lines()
            .filter_map(|line| line.strip_prefix(prefix))
            .collect()
    }
}

/// The arguments of `modelship`, as words.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &OsStr> {
    text.split_whitespace().map(OsStr::new)
}
