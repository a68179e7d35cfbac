//! A Python base image out of Debian packages: no registry, no root, no daemon, and no maintainer
//! script run.
//!
//! Packages come from the machine's own apt sources, or from sources given in their place; no
//! archive is built in. Two steps, of which the second needs neither index nor choice:
//!
//! 1. [`DebianBase::lock`] verifies each suite's `InRelease` against its keys, the package
//!    indexes against the release, and closes the wanted packages over their dependencies. The
//!    [`DebianLock`] belongs under version control.
//! 2. [`DebianBase::assemble`] fetches each package the lock names, checks its digest, unpacks it
//!    into the cache and gives a [`Tree`](crate::Tree) that is the same on every host. With a full
//!    cache it needs no network.
//!
//! What maintainer scripts would have done and an image needs is written instead: accounts with a
//! `nonroot` user (65532), name service and temporary directories, the links of merged `/usr`,
//! the certificate bundle, the BLAS and LAPACK links, and a record of each package for scanners
//! below `/var/lib/dpkg/status.d`.
//!
//! Known limits: pins and credentials of apt are not read; `Recommends` and `Conflicts` are not
//! looked at; other alternatives and diversions are not made.
//!
//! ```no_run
//! # async fn example() -> modelship_image_builder::Result<()> {
//! use std::path::Path;
//! use modelship_image_builder::debian::{DebianBase, Sources, debian_architecture};
//!
//! let sources = Sources::from_apt(Path::new("/etc/apt"))?;
//! let architecture = debian_architecture(std::env::consts::ARCH).unwrap_or("amd64");
//! let base = DebianBase::python(architecture, "cache");
//! let lock = base.lock(&sources, &|_| {}).await?;
//! let base_tree = base.assemble(&lock, &sources, &|_| {}).await?;
//! println!("{} packages, {:?}", lock.packages().len(), base_tree.python());
//!
//! // What only the tests need goes into a layer of its own.
//! let extra = base.lock_layered(&lock, ["python3-pytest"], &sources, &|_| {}).await?;
//! let tests_tree = base.assemble(&extra, &sources, &|_| {}).await?;
//! # Ok(()) }
//! ```

mod apt;
mod apt_files;
mod ar;
mod assemble;
mod catalog;
mod count;
mod deb;
mod deb822;
mod fetch;
mod index;
mod lock;
mod place;
mod relation;
mod release;
mod resolve;
mod synthesize;
mod trust;
mod version;

use std::collections::BTreeSet;
use std::path::PathBuf;

pub use apt::{Source, Sources};
pub use assemble::{DebianTree, PythonInfo};
pub use lock::{DebianLock, LockedPackage};
use resolve::Request;
pub use trust::SignedBy;

use crate::error::Result;
use crate::progress::Progress;

/// What a Flask model server runs on.
const PYTHON: [&str; 7] = [
    "base-files",
    "ca-certificates",
    "gunicorn",
    "netbase",
    "python3",
    "python3-flask",
    "python3-numpy",
];

/// Packages that others depend on only for their maintainer scripts or for administration, none
/// of which happens in an image: leaving them out also leaves out perl and the shell tools.
const EXCLUDED: [&str; 8] = [
    "adduser",
    "awk",
    "debconf",
    "debconf-2.0",
    "dpkg",
    "openssl",
    "perl-base",
    "ucf",
];

/// A base to make: which packages, for which architecture, and where to keep what was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DebianBase {
    /// The packages wanted; their dependencies follow.
    pub packages: Vec<String>,
    /// Names whose dependencies count as met, unless they are wanted themselves.
    pub exclude: BTreeSet<String>,
    /// The Debian name of the architecture, such as `amd64`.
    pub architecture: String,
    /// The directory that keeps indexes and packages, by digest; several processes may
    /// share it.
    pub cache: PathBuf,
    /// Whether to leave out documentation (not licences), manuals and translations.
    pub slim: bool,
}

impl DebianBase {
    /// A base with Python, Flask, gunicorn, NumPy and certificates, slim.
    pub fn python(architecture: impl Into<String>, cache: impl Into<PathBuf>) -> Self {
        Self::new(PYTHON, architecture, cache)
    }

    /// A slim base of these packages.
    pub fn new(
        packages: impl IntoIterator<Item = impl Into<String>>,
        architecture: impl Into<String>,
        cache: impl Into<PathBuf>,
    ) -> Self {
        Self {
            packages: packages.into_iter().map(Into::into).collect(),
            exclude: EXCLUDED.into_iter().map(ToOwned::to_owned).collect(),
            architecture: architecture.into(),
            cache: cache.into(),
            slim: true,
        }
    }

    /// The same base with more packages.
    #[must_use]
    pub fn with_packages(mut self, packages: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.packages.extend(packages.into_iter().map(Into::into));
        self
    }

    /// The same base, slim or with everything its packages have.
    #[must_use]
    pub fn with_slim(mut self, slim: bool) -> Self {
        self.slim = slim;
        self
    }

    /// The same base with other names left out of the dependencies.
    #[must_use]
    pub fn with_exclude(mut self, exclude: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.exclude = exclude.into_iter().map(Into::into).collect();
        self
    }

    /// Resolves the packages against the current state of the sources.
    ///
    /// An index that has not changed is not downloaded again.
    ///
    /// # Errors
    /// `Unverified` for a release that no trusted key signed, that is for another suite or has
    /// expired; `DigestMismatch` for an index that is not the signed one; `NotFound` for an
    /// unknown package or suite; `Unreachable` or `Timeout` when an archive does not answer.
    pub async fn lock(&self, sources: &Sources, progress: Progress<'_>) -> Result<DebianLock> {
        self.resolve(None, &self.packages, sources, progress).await
    }

    /// Resolves `packages` to a layer on top of `on`: only what is not already in there.
    ///
    /// # Errors
    /// As [`DebianBase::lock`], and `Conflict` when a package needs another version of one that
    /// is in `on`.
    pub async fn lock_layered(
        &self,
        on: &DebianLock,
        packages: impl IntoIterator<Item = impl Into<String>>,
        sources: &Sources,
        progress: Progress<'_>,
    ) -> Result<DebianLock> {
        let packages: Vec<String> = packages.into_iter().map(Into::into).collect();
        self.resolve(Some(on), &packages, sources, progress).await
    }

    /// Makes the tree of a lock, from the cache and, for what is missing there, from `sources`.
    ///
    /// A layered lock gives only the files of its own packages.
    ///
    /// # Errors
    /// `DigestMismatch` for a package that is not the locked one, `NotFound` when no source has
    /// it any more, `Invalid` or `Unsupported` for a malformed one, `Conflict` when two packages
    /// install the same file, `Unreachable` or `Timeout` when an archive does not answer.
    pub async fn assemble(
        &self,
        lock: &DebianLock,
        sources: &Sources,
        progress: Progress<'_>,
    ) -> Result<DebianTree> {
        assemble::assemble(lock, sources, &self.cache, progress).await
    }

    async fn resolve(
        &self,
        on: Option<&DebianLock>,
        packages: &[String],
        sources: &Sources,
        progress: Progress<'_>,
    ) -> Result<DebianLock> {
        let fetcher = fetch::Fetcher::new(sources)?;
        let architecture = on.map_or(self.architecture.as_str(), DebianLock::architecture);
        let index = catalog::load(&fetcher, sources, architecture, &self.cache, progress).await?;
        let installed = on.map(DebianLock::packages).unwrap_or_default();
        let request = Request {
            packages,
            exclude: &self.exclude,
            installed,
        };
        let found = resolve::resolve(&index, &request)?;
        DebianLock::new(architecture, self.slim, on, packages, found)
    }
}

/// The Debian name of an architecture as Rust or OCI name it; `None` for one not supported.
pub fn debian_architecture(name: &str) -> Option<&'static str> {
    match name {
        "x86_64" | "amd64" => Some("amd64"),
        "aarch64" | "arm64" => Some("arm64"),
        _ => None,
    }
}
