//! Admission checks: what a model's files hold, looked at before they enter an image, and never
//! loaded.
//!
//! [`check`] looks at files on disk, [`check_bytes`] at bytes in memory; both give a [`Report`] of
//! what an [`AdmissionPolicy`] denies or warns of. What each check means is told at [`Check`].

mod gguf;
mod globals;
mod inspect;
mod npy;
mod onnx;
mod pickle;
mod policy;
mod report;
mod safetensors;
mod source;
mod tar;
#[cfg(test)]
mod tests;
mod zip;

pub use policy::{Action, AdmissionPolicy, Check};
pub use report::{Finding, Report};

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::{StreamExt, TryStreamExt, stream};

use crate::error::{Error, ErrorKind, Result};
use inspect::{Model, Place};
use report::{Findings, STAGE};
use source::{Content, Failure, Packing, Source};

/// Files that are looked at at the same time.
const FILES_AT_ONCE: usize = 2;

/// Looks at files, each given as its path inside the model and where it lies on disk.
///
/// Nothing is unpickled, imported or run. Files are read as streams, and what a pickle builds is
/// kept in arenas of a fixed size, so that memory is bounded whatever the files hold: each of two
/// files at a time takes a few MiB, a pickle of millions of objects some hundred, and one made to
/// fill every arena less than 1 GiB. Dropping the future stops the work.
///
/// # Errors
///
/// [`ErrorKind::Io`] where a file cannot be read, [`ErrorKind::Invalid`] where one is no ordinary
/// file. What the policy denies is no error here but in [`Report::into_result`].
pub async fn check(files: &[(String, PathBuf)], policy: &AdmissionPolicy) -> Result<Report> {
    let cancelled = Arc::new(AtomicBool::new(false));
    let _guard = CancelOnDrop(Arc::clone(&cancelled));
    let policy = Arc::new(policy.clone());
    let mut limits = Findings::new("", &policy);
    if files.len() as u64 > policy.max_files {
        let detail = format!("{} files are more than {}", files.len(), policy.max_files);
        limits.add(Check::TooManyFiles, None, detail);
        return Ok(Report {
            findings: limits.into_found(),
        });
    }
    let model = Arc::new(Model {
        sizes: sizes(files.to_vec()).await?,
    });
    let total = model
        .sizes
        .values()
        .fold(0_u64, |sum, size| sum.saturating_add(*size));
    if total > policy.max_total_bytes {
        let detail = format!("{total} bytes are more than {}", policy.max_total_bytes);
        limits.add(Check::TooLarge, None, detail);
    }
    let mut findings = limits.into_found();
    // Owned, because a closure over borrowed files would keep the future from changing threads.
    let owned = files.to_vec();
    let work = owned.into_iter().map(|(path, local)| {
        let (policy, model) = (Arc::clone(&policy), Arc::clone(&model));
        let cancelled = Arc::clone(&cancelled);
        blocking(move || check_file(&path, &local, &model, (&policy, &cancelled)))
    });
    let looked: Vec<_> = stream::iter(work)
        .buffered(FILES_AT_ONCE)
        .try_collect()
        .await?;
    let external: BTreeSet<_> = looked.iter().flat_map(|(_, external)| external).collect();
    for (found, _) in &looked {
        // What an ONNX model keeps its tensors in has no format of its own.
        let known = |f: &&Finding| f.check != Check::UnknownFormat || !external.contains(&f.path);
        findings.extend(found.iter().filter(known).cloned());
    }
    Ok(Report { findings })
}

/// Looks at the bytes of one file, given with its path inside the model. The file counts as the
/// only one: what it refers to is missing.
pub fn check_bytes(path: &str, bytes: &[u8], policy: &AdmissionPolicy) -> Report {
    let live = AtomicBool::new(false);
    let model = Model {
        sizes: BTreeMap::from([(path.to_owned(), bytes.len() as u64)]),
    };
    let looked = look(path, Source::bytes(bytes, &live), &model, policy);
    // Memory is read without errors.
    Report {
        findings: looked.map(|(found, _)| found).unwrap_or_default(),
    }
}

/// Sets the flag that ends the work when the one who waits for it goes away.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    crate::blocking::blocking((STAGE, "the model"), work).await
}

async fn sizes(files: Vec<(String, PathBuf)>) -> Result<BTreeMap<String, u64>> {
    blocking(move || {
        let size = |(path, local): (String, PathBuf)| {
            let metadata = std::fs::metadata(&local).map_err(|error| unreadable(&path, error))?;
            if !metadata.is_file() {
                return Err(Error::invalid(STAGE, path, "it is no ordinary file"));
            }
            Ok((path, metadata.len()))
        };
        files.into_iter().map(size).collect()
    })
    .await
}

fn unreadable(path: &str, error: io::Error) -> Error {
    Error::new(ErrorKind::Io, STAGE, path, "the file cannot be read").with_source(error)
}

/// What was found in a file, and the files that it refers to.
type Looked = (Vec<Finding>, BTreeSet<String>);

fn check_file(
    path: &str,
    local: &Path,
    model: &Model,
    (policy, cancelled): (&AdmissionPolicy, &AtomicBool),
) -> Result<Looked> {
    let file = File::open(local).map_err(|error| unreadable(path, error))?;
    let len = file
        .metadata()
        .map_err(|error| unreadable(path, error))?
        .len();
    look(path, Source::file(&file, len, cancelled), model, policy)
        .map_err(|error| unreadable(path, error))
}

fn look(
    path: &str,
    source: Source<'_>,
    model: &Model,
    policy: &AdmissionPolicy,
) -> io::Result<Looked> {
    let mut findings = Findings::new(path, policy);
    let external = RefCell::new(BTreeSet::new());
    if source.len() > policy.max_file_bytes {
        let detail = format!(
            "{} bytes are more than {}",
            source.len(),
            policy.max_file_bytes
        );
        findings.add(Check::TooLarge, None, detail);
    }
    let budget = Rc::new(Cell::new(policy.max_unpacked_bytes));
    let content = Content::new(source, Packing::None, budget);
    let place = Place::new(model, path, &external);
    let done = inspect::inspect(&content, &mut findings, place);
    match inspect::judge(done, Check::UnreadableArchive, &mut findings) {
        Err(Failure::Io(error)) => Err(error),
        _ => Ok((findings.into_found(), external.into_inner())),
    }
}
