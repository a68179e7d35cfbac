//! Compares what a signer stated with what a lock says.

use sha2::{Digest as _, Sha256};

use super::refused::{Refused, listed};
use super::statement::{Statement, is_below};
use crate::model::{Lock, ModelVersion, Trust};

/// What the signing tool leaves out unless it is told not to: no program reads it as a model.
const GIT: [&str; 4] = [".git", ".gitattributes", ".github", ".gitignore"];

/// Which files of a version nobody signed, though the rest is signed.
#[derive(Debug)]
pub(super) struct Coverage {
    pub(super) unsigned: Vec<String>,
}

impl Coverage {
    /// Every file of `model` has to be stated with its digest or be left out by the statement, and
    /// every file that is stated has to be there. The bundle itself is never stated.
    pub(super) fn of(
        model: &ModelVersion,
        statement: &Statement,
        (bundle, accept_ignored): (&[u8], bool),
    ) -> Result<Self, Refused> {
        let bundle = hex::encode(Sha256::digest(bundle));
        let (mut unsigned, mut surplus, mut other) = (Vec::new(), Vec::new(), Vec::new());
        for file in model.files() {
            let path = file.path.as_str();
            match statement.files.get(path) {
                Some(stated) if Some(stated) == file.sha256.as_ref() => {}
                Some(_) => other.push(path),
                None if file.sha256.as_ref() == Some(&bundle) => unsigned.push(path.to_owned()),
                None if statement.ignores(path) && (accept_ignored || is_git(path)) => {
                    unsigned.push(path.to_owned());
                }
                None => surplus.push(path),
            }
        }
        let stated = statement.files.keys().map(String::as_str);
        let missing: Vec<&str> = stated.filter(|path| model.file(path).is_none()).collect();
        let problems: Vec<String> = [
            ("other bytes than were signed", other),
            ("nobody signed", surplus),
            ("signed, but missing", missing),
        ]
        .into_iter()
        .filter(|(_, paths)| !paths.is_empty())
        .map(|(what, paths)| format!("{what}: {}", listed(paths.into_iter())))
        .collect();
        if problems.is_empty() {
            return Ok(Self { unsigned });
        }
        Err(Refused::new(problems.join("; "))
            .with_hint("publish the model as it was signed, or sign what is published"))
    }

    /// The same version, with the signature's trust in the files that it covers.
    pub(super) fn apply(&self, model: &ModelVersion) -> crate::Result<ModelVersion> {
        let mut lock = Lock::from(model.clone());
        for file in &mut lock.files {
            // In the order of the files, which is that of their paths.
            if self.unsigned.binary_search(&file.path).is_err() {
                file.trust = Some(Trust::Signed);
            }
        }
        ModelVersion::try_from(lock)
    }
}

fn is_git(path: &str) -> bool {
    GIT.iter().any(|above| is_below(path, above))
}
