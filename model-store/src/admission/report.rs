//! `Report`: what the checks found, and whether the model is admitted.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::policy::{Action, AdmissionPolicy, Check};
use crate::error::{Error, ErrorKind, Result};

pub(super) const STAGE: &str = "admit model";
/// Findings kept for one file. The worst is among them, because those that deny push out others.
const MAX_FINDINGS: usize = 64;

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Finding {
    /// The file, by its path inside the model; empty where the finding is about all files.
    pub path: String,
    /// The entry of an archive that it is in, outermost first, joined by `!`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    /// Which check found it.
    pub check: Check,
    /// What follows.
    pub action: Action,
    /// What was found, in words. Names that come from the file are escaped and shortened.
    pub detail: String,
    /// Where, as an offset in bytes into the file or, where that is named, the entry; behind
    /// a compression into what it unpacks to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<u64>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            return write!(f, "{}: {}", self.check, self.detail);
        }
        write!(f, "{}", self.path)?;
        if let Some(entry) = &self.entry {
            write!(f, "!{entry}")?;
        }
        write!(f, ": {}: {}", self.check, self.detail)?;
        match self.at {
            Some(at) => write!(f, " at byte {at}"),
            None => Ok(()),
        }
    }
}

/// What the checks found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Report {
    /// What was found, in the order of the files; what the policy allows is left out.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Whether nothing was found that the policy denies.
    pub fn admitted(&self) -> bool {
        self.denied().next().is_none()
    }

    /// What the policy denies.
    pub fn denied(&self) -> impl Iterator<Item = &Finding> {
        let denied = |finding: &&Finding| finding.action == Action::Deny;
        self.findings.iter().filter(denied)
    }

    /// What the policy warns of.
    pub fn warnings(&self) -> impl Iterator<Item = &Finding> {
        let warned = |finding: &&Finding| finding.action == Action::Warn;
        self.findings.iter().filter(warned)
    }

    /// The report of an admitted model.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsafe`] where the policy denies something: it names the file, what was found
    /// and what to do.
    pub fn into_result(self) -> Result<Self> {
        let Some(first) = self.denied().next() else {
            return Ok(self);
        };
        let object = match (&first.entry, first.path.as_str()) {
            (_, "") => "all files".to_owned(),
            (Some(entry), path) => format!("{path}!{entry}"),
            (None, path) => path.to_owned(),
        };
        let at = first.at.map(|at| format!(" at byte {at}"));
        let more = match self.denied().count() - 1 {
            0 => String::new(),
            more => format!(", and {more} more findings that are denied"),
        };
        let at = at.unwrap_or_default();
        let detail = format!("{}: {}{at}{more}", first.check, first.detail);
        Err(Error::new(ErrorKind::Unsafe, STAGE, object, detail).with_hint(advice(first.check)))
    }
}

/// What to do about a finding.
fn advice(check: Check) -> &'static str {
    match check {
        Check::UnsafePickle => {
            "do not load the file; save the model as safetensors, ONNX or with the framework's own \
             types only, or, if you vouch for the named global, add it to allow-globals"
        }
        Check::UnreadablePickle => {
            "do not load the file; save the model again, or as safetensors or ONNX"
        }
        Check::TooLarge | Check::TooManyFiles => {
            "remove what does not belong to the model, or raise the limit in the policy"
        }
        Check::UnreadableArchive => {
            "save it uncompressed or with zlib, gzip or xz, which can be looked into"
        }
        Check::KerasLambda => "replace the Lambda layer by a registered layer of your own package",
        _ => {
            "publish the file again from its source; if you know it to be good, set the check to \
             `warn` in the policy"
        }
    }
}

/// Collects what is found in one file.
pub(super) struct Findings<'a> {
    policy: &'a AdmissionPolicy,
    path: String,
    entry: Option<String>,
    found: Vec<Finding>,
}

impl<'a> Findings<'a> {
    pub(super) fn new(path: &str, policy: &'a AdmissionPolicy) -> Self {
        Self {
            policy,
            path: path.to_owned(),
            entry: None,
            found: Vec::new(),
        }
    }

    pub(super) fn policy(&self) -> &'a AdmissionPolicy {
        self.policy
    }

    /// Notes a finding, unless the policy allows it or the same is noted already.
    pub(super) fn add(&mut self, check: Check, at: Option<u64>, detail: impl Into<String>) {
        let action = self.policy.action(check);
        let detail = detail.into();
        let same = |f: &Finding| f.check == check && f.detail == detail && f.entry == self.entry;
        if action == Action::Allow || self.found.iter().any(same) {
            return;
        }
        if self.found.len() >= MAX_FINDINGS {
            if action != Action::Deny {
                return;
            }
            match self.found.iter().position(|f| f.action != Action::Deny) {
                Some(place) => drop(self.found.remove(place)),
                None => return,
            }
        }
        self.found.push(Finding {
            path: self.path.clone(),
            entry: self.entry.clone(),
            check,
            action,
            detail,
            at,
        });
    }

    /// Enters an entry of an archive; gives what to leave it with.
    pub(super) fn enter(&mut self, name: &str) -> Option<String> {
        let name = quote(name);
        let inner = match &self.entry {
            Some(outer) => format!("{outer}!{name}"),
            None => name,
        };
        self.entry.replace(inner)
    }

    pub(super) fn leave(&mut self, outer: Option<String>) {
        self.entry = outer;
    }

    pub(super) fn into_found(self) -> Vec<Finding> {
        self.found
    }
}

/// A name from outside, safe to print: escaped, and shortened to what a line can hold.
pub(super) fn quote(name: &str) -> String {
    const LONGEST: usize = 120;
    let mut out: String = name
        .chars()
        .take(LONGEST)
        .flat_map(char::escape_debug)
        .collect();
    if name.chars().nth(LONGEST).is_some() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_names_file_finding_and_next_step() {
        let policy = AdmissionPolicy::default();
        let mut findings = Findings::new("model.pt", &policy);
        findings.add(Check::TorchScript, None, "TorchScript code");
        let outer = findings.enter("archive/data.pkl");
        findings.add(Check::UnsafePickle, Some(7), "imports os.system");
        findings.add(Check::UnsafePickle, Some(9), "imports os.system");
        findings.leave(outer);
        let report = Report {
            findings: findings.into_found(),
        };
        assert!(!report.admitted());
        assert_eq!(report.warnings().count(), 1);
        let error = report.into_result().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsafe);
        assert_eq!(
            error.to_string(),
            "admit model model.pt!archive/data.pkl: unsafe-pickle: imports os.system at byte 7"
        );
        assert!(error.hint().unwrap().contains("allow-globals"));
    }

    #[test]
    fn what_denies_pushes_out_what_warns() {
        let policy = AdmissionPolicy::default();
        let mut findings = Findings::new("m", &policy);
        for number in 0..200 {
            findings.add(Check::TorchScript, None, format!("{number}"));
        }
        findings.add(Check::UnsafePickle, None, "os.system");
        let found = findings.into_found();
        assert_eq!(found.len(), MAX_FINDINGS);
        assert!(found.iter().any(|f| f.action == Action::Deny));
    }

    #[test]
    fn what_is_allowed_is_left_out() {
        let policy = AdmissionPolicy::default().with_action(Check::UnsafePickle, Action::Allow);
        let mut findings = Findings::new("m", &policy);
        findings.add(Check::UnsafePickle, None, "os.system");
        assert!(findings.into_found().is_empty());
    }

    #[test]
    fn hostile_names_are_escaped_and_cut() {
        assert_eq!(quote("a\n\u{1b}[31m"), "a\\n\\u{1b}[31m");
        assert!(quote(&"x".repeat(1000)).len() < 130);
    }
}
