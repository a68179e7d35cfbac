//! The gate between the store and the image: who signed the model, and what its files hold.

use std::fmt;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use modelship_model_store::admission::{AdmissionPolicy, Report, check};
use modelship_model_store::signing::{SignaturePolicy, Signer, Verified, Verifier};
use modelship_model_store::{self as model_store, ModelStore, ModelVersion};
use serde::{Deserialize, Serialize};

use crate::Stage;
use crate::cache::{self, Cache};
use crate::config::ModelConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::event::StageTimer;
use crate::recipe::sha256;

/// Lines that a record keeps; a note says every warning.
const RECORDED: usize = 20;

/// What was said of a model before it entered an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Admission {
    /// Who signed the model; absent where no signature was asked for, or none was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<Signer>,
    /// Files of a signed model that its signature does not cover, the signature itself among them;
    /// twenty at the most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unsigned: Vec<String>,
    /// What the policy warns of, twenty lines at the most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl fmt::Display for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.signer {
            Some(signer) => write!(f, "signed by {signer}, ")?,
            None => f.write_str("unsigned, ")?,
        }
        match self.warnings.len() {
            0 => f.write_str("no warning"),
            1 => f.write_str("1 warning"),
            many => write!(f, "{many} warnings"),
        }
    }
}

/// The rules of the gate, as configured.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    admission: AdmissionPolicy,
    signature: SignaturePolicy,
    trusted: Option<Trusted>,
    file: Option<String>,
    accept_ignored: bool,
}

/// Who may sign, as PEM.
#[derive(Clone, Debug)]
enum Trusted {
    Key(Vec<u8>),
    Roots(Vec<u8>),
}

/// A fetched model at the gate.
pub(crate) struct Candidate<'a> {
    pub(crate) store: &'a ModelStore,
    pub(crate) model: &'a ModelVersion,
    /// Where its files are on this machine.
    pub(crate) folder: &'a Path,
    pub(crate) cache: &'a Cache,
}

/// What the checks found in a tree of files, kept with who looked.
#[derive(Serialize, Deserialize)]
struct Remembered {
    version: String,
    report: Report,
}

impl Gate {
    /// Reads the keys or certificates that the configuration names.
    pub(crate) fn from_config(config: &ModelConfig, now: DateTime<Utc>) -> Result<Self> {
        let signature = &config.signature;
        let trusted = match (&signature.key, &signature.roots) {
            (Some(path), _) => Some(Trusted::Key(read("key", path)?)),
            (None, Some(path)) => Some(Trusted::Roots(read("roots", path)?)),
            (None, None) => None,
        };
        let gate = Self {
            admission: config.admission.clone(),
            signature: signature.policy(),
            trusted,
            file: signature.file.clone(),
            accept_ignored: signature.accept_ignored,
        };
        // Whoever mistypes a key learns of it before anything is built.
        let path = signature.key.as_ref().or(signature.roots.as_ref());
        gate.verifier(now).map_err(|error| {
            let path = path.map(|path| path.display().to_string());
            Error::step(Stage::Configure, path.unwrap_or_default(), error)
        })?;
        Ok(gate)
    }

    /// The digest of these rules: an image that was let through by others is another release.
    pub(crate) fn digest(&self) -> String {
        let (kind, pem) = match &self.trusted {
            Some(Trusted::Key(pem)) => ("key", sha256(pem)),
            Some(Trusted::Roots(pem)) => ("roots", sha256(pem)),
            None => ("nobody", String::new()),
        };
        let signature = match self.signature {
            SignaturePolicy::Off => serde_json::json!("off"),
            policy => serde_json::json!([policy, kind, pem, self.file, self.accept_ignored]),
        };
        let text = serde_json::json!({ "admission": self.admission, "signature": signature });
        sha256(text.to_string().as_bytes())
    }

    /// Verifies the signature, then looks into the files; the first time for these files and rules,
    /// that is.
    pub(crate) async fn admit(
        &self,
        candidate: &Candidate<'_>,
        now: DateTime<Utc>,
        timer: &StageTimer,
    ) -> Result<Admission> {
        let verified = self.verify(candidate, now).await?;
        self.tell(verified.as_ref(), timer);
        let report = self.look(candidate, timer).await?;
        for finding in report.warnings() {
            timer.note(format!("warning: {finding}"));
        }
        let object = object(candidate.model);
        let report = report.into_result().map_err(|e| refused(&object, e))?;
        let mut warnings: Vec<String> = report.warnings().map(ToString::to_string).collect();
        if warnings.len() > RECORDED {
            let more = warnings.len() - (RECORDED - 1);
            warnings.truncate(RECORDED - 1);
            warnings.push(format!("and {more} more"));
        }
        Ok(Admission {
            signer: verified.as_ref().map(|found| found.signer().clone()),
            unsigned: verified.map_or_else(Vec::new, |found| {
                let names = found.unsigned().iter();
                names.take(RECORDED).cloned().collect()
            }),
            warnings,
        })
    }

    fn verifier(&self, now: DateTime<Utc>) -> model_store::Result<Option<Verifier>> {
        let verifier = match &self.trusted {
            None => return Ok(None),
            Some(Trusted::Key(pem)) => Verifier::from_public_key_pem(pem)?,
            Some(Trusted::Roots(pem)) => Verifier::from_certificates_pem(pem, now.into())?,
        };
        let verifier = match &self.file {
            None => verifier,
            Some(file) => verifier.with_signature_file(file),
        };
        Ok(Some(if self.accept_ignored {
            verifier.with_ignored_files()
        } else {
            verifier
        }))
    }

    async fn verify(
        &self,
        candidate: &Candidate<'_>,
        now: DateTime<Utc>,
    ) -> Result<Option<Verified>> {
        if self.signature == SignaturePolicy::Off {
            return Ok(None);
        }
        let object = object(candidate.model);
        let verifier = self.verifier(now).map_err(|e| refused(&object, e))?;
        let Some(verifier) = verifier else {
            let detail = "a signature is asked for, and nobody is trusted to sign";
            return Err(Error::new(ErrorKind::Invalid, Stage::Admit, object, detail));
        };
        let found = candidate
            .store
            .verify_signature(candidate.model, &verifier, self.signature);
        found.await.map_err(|e| refused(&object, e))
    }

    fn tell(&self, verified: Option<&Verified>, timer: &StageTimer) {
        match verified {
            Some(found) => {
                timer.note(format!("signed by {}", found.signer()));
                // Quoted, so that no name can forge a line.
                for path in found.unsigned().iter().take(RECORDED) {
                    timer.note(format!("not signed: {path:?}"));
                }
            }
            None if self.signature == SignaturePolicy::Off => {}
            None => timer.note("not signed by anybody"),
        }
    }

    /// What the checks find, or found before in the same bytes by the same rules and program.
    async fn look(&self, candidate: &Candidate<'_>, timer: &StageTimer) -> Result<Report> {
        let known = self.memory(candidate)?;
        if let Some(path) = &known
            && let Some(found) = cache::read_json::<Remembered>(path)
            && found.version == env!("CARGO_PKG_VERSION")
        {
            timer.note("the same files were looked into before");
            return Ok(found.report);
        }
        let file = |path: &str| (path.to_owned(), candidate.folder.join(path));
        let files: Vec<(String, PathBuf)> = candidate
            .model
            .files()
            .iter()
            .map(|found| file(&found.path))
            .collect();
        let report = check(&files, &self.admission)
            .await
            .map_err(|e| refused(&object(candidate.model), e))?;
        if let Some(path) = &known {
            let version = env!("CARGO_PKG_VERSION").to_owned();
            let found = Remembered { version, report };
            cache::write_json(Stage::Admit, path, &found)?;
            return Ok(found.report);
        }
        Ok(report)
    }

    /// Where the verdict on these files by these rules is kept; nowhere for files that are known by
    /// their tags only.
    fn memory(&self, candidate: &Candidate<'_>) -> Result<Option<PathBuf>> {
        if !candidate.model.is_sealed() {
            return Ok(None);
        }
        let rules = serde_json::json!(self.admission).to_string();
        let name = format!("{} {rules}", candidate.model.tree_digest());
        let name = sha256(name.as_bytes());
        let folder = candidate.cache.folder(Stage::Admit, "admitted")?;
        let name = name.trim_start_matches("sha256:");
        Ok(Some(folder.join(format!("{name}.json"))))
    }
}

fn object(model: &ModelVersion) -> String {
    format!("{} {}", model.name(), model.version())
}

/// What the store's checks refuse is no fault of a step.
fn refused(object: &str, error: model_store::Error) -> Error {
    use model_store::ErrorKind::{Unsafe, Untrusted};
    let refuses = matches!(error.kind(), Unsafe | Untrusted);
    let error = Error::step(Stage::Admit, object, error);
    if refuses {
        error.with_kind(ErrorKind::ModelRefused)
    } else {
        error
    }
}

fn read(key: &str, path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|error| {
        let hint = format!("set `{key}` in the [model.signature] section to a PEM file");
        Error::io(Stage::Configure, path, error).with_hint(hint)
    })
}

#[cfg(test)]
mod tests;
