//! The lock: exactly which packages, with digests, so that a rebuild needs no index and no choice.

use oci_spec::image::Digest;
use serde::{Deserialize, Serialize};

use super::release::is_sha256;
use crate::error::{Error, ErrorKind, Result};
use crate::hash;

const STAGE: &str = "read debian lock";

/// The form of the lock this version writes.
const FORMAT: u32 = 1;

/// A resolved set of packages. It names no mirror: where the files are fetched from is decided by
/// the [`Sources`](super::Sources) at the time, and what they must contain by the digests here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct DebianLock {
    format: u32,
    architecture: String,
    slim: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    on: Option<String>,
    requested: Vec<String>,
    packages: Vec<LockedPackage>,
}

/// One package of a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LockedPackage {
    /// The package's name.
    pub name: String,
    /// Its full version, with epoch and revision.
    pub version: String,
    /// The architecture it is built for, or `all`.
    pub architecture: String,
    /// The suite it was found in, as the sources name it.
    pub suite: String,
    /// The path of its file below the archive.
    pub filename: String,
    /// The size of its file in bytes.
    pub size: u64,
    /// The SHA-256 of its file in lower-case hexadecimal.
    pub sha256: String,
}

/// A lock as read, before its fields may name files.
#[derive(Deserialize)]
struct Unchecked {
    format: u32,
    architecture: String,
    slim: bool,
    on: Option<String>,
    requested: Vec<String>,
    packages: Vec<LockedPackage>,
}

impl DebianLock {
    /// Makes a lock; packages and requests are sorted by name.
    pub(super) fn new(
        architecture: &str,
        slim: bool,
        on: Option<&Self>,
        requested: &[String],
        mut packages: Vec<LockedPackage>,
    ) -> Result<Self> {
        let mut requested = requested.to_vec();
        requested.sort();
        requested.dedup();
        packages.sort_by(|left, right| left.name.cmp(&right.name));
        Unchecked {
            format: FORMAT,
            architecture: architecture.to_owned(),
            slim,
            on: on.map(|lock| lock.digest().to_string()),
            requested,
            packages,
        }
        .try_into()
    }

    /// The packages, sorted by name.
    pub fn packages(&self) -> &[LockedPackage] {
        &self.packages
    }

    /// The names that were asked for, sorted.
    pub fn requested(&self) -> &[String] {
        &self.requested
    }

    /// The Debian name of the architecture.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// Whether documentation and translations are left out of the tree.
    pub fn is_slim(&self) -> bool {
        self.slim
    }

    /// The digest of the lock this one adds to, when it is not a base of its own.
    pub fn on(&self) -> Option<&str> {
        self.on.as_deref()
    }

    /// The bytes to download for all packages.
    pub fn total_size(&self) -> u64 {
        self.packages.iter().map(|package| package.size).sum()
    }

    /// The lock as JSON text for a file under version control: stable, one field a line.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// Reads a lock back.
    ///
    /// # Errors
    /// `Invalid` for text that is no lock, or one that names files outside of an archive.
    pub fn from_json(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|error| {
            Error::new(ErrorKind::Invalid, STAGE, "lock", "it is not a valid lock")
                .with_hint("resolve the packages again")
                .with_source(error)
        })
    }

    /// The lock's identity: the SHA-256 of its JSON text.
    pub fn digest(&self) -> Digest {
        hash::digest(self.to_json().as_bytes())
    }

    /// The package called `name`.
    pub fn get(&self, name: &str) -> Option<&LockedPackage> {
        let at = self
            .packages
            .binary_search_by(|package| package.name.as_str().cmp(name))
            .ok()?;
        self.packages.get(at)
    }
}

impl TryFrom<Unchecked> for DebianLock {
    type Error = Error;

    fn try_from(lock: Unchecked) -> Result<Self> {
        if lock.format != FORMAT {
            let detail = format!("format {} is not known, only {FORMAT}", lock.format);
            return Err(Error::new(ErrorKind::Unsupported, STAGE, "lock", detail));
        }
        for package in &lock.packages {
            check(package)?;
        }
        if !lock
            .packages
            .is_sorted_by(|left, right| left.name < right.name)
        {
            return Err(Error::new(
                ErrorKind::Invalid,
                STAGE,
                "lock",
                "the packages are not sorted",
            ));
        }
        Ok(Self {
            format: lock.format,
            architecture: lock.architecture,
            slim: lock.slim,
            on: lock.on,
            requested: lock.requested,
            packages: lock.packages,
        })
    }
}

/// Checks what becomes a file name or a path later (Debian Policy 5.6.1 for names).
fn check(package: &LockedPackage) -> Result<()> {
    let refuse = |why: &str| {
        let shown: String = package.name.chars().take(80).collect();
        Err(Error::new(ErrorKind::Invalid, STAGE, shown, why))
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._".contains(&byte);
    if package.name.is_empty() || package.name.starts_with('.') || !package.name.bytes().all(plain)
    {
        return refuse("it is no package name");
    }
    if !is_sha256(&package.sha256) || package.sha256.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return refuse("its digest is no lower-case SHA-256");
    }
    let outside = package.filename.starts_with('/')
        || package.filename.contains(['\\', '\0', '?', '#'])
        || package.filename.split('/').any(|name| name == "..");
    if package.filename.is_empty() || outside {
        return refuse("its file lies outside of the archive");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str) -> LockedPackage {
        LockedPackage {
            name: name.to_owned(),
            version: "1:1.0-1".to_owned(),
            architecture: "all".to_owned(),
            suite: "bookworm".to_owned(),
            filename: format!("pool/{name}.deb"),
            size: 7,
            sha256: "0a".repeat(32),
        }
    }

    #[test]
    fn text_and_digest_are_stable() {
        let requested = ["b".to_owned(), "a".to_owned()];
        let lock = DebianLock::new(
            "amd64",
            true,
            None,
            &requested,
            vec![package("b"), package("a")],
        )
        .unwrap();
        let again = DebianLock::from_json(&lock.to_json()).unwrap();
        assert_eq!(lock, again);
        assert_eq!(lock.digest(), again.digest());
        assert_eq!(lock.get("b").unwrap().name, "b");
        assert_eq!(lock.total_size(), 14);
        let on = DebianLock::new("amd64", true, Some(&lock), &[], vec![package("c")]).unwrap();
        assert_eq!(on.on().unwrap(), lock.digest().to_string());
    }

    #[test]
    fn hostile_locks_are_refused() {
        let good = DebianLock::new("amd64", true, None, &[], vec![package("a")])
            .unwrap()
            .to_json();
        for (from, to) in [
            ("pool/a.deb", "../../etc/passwd"),
            ("pool/a.deb", "/etc/passwd"),
            ("\"name\": \"a\"", "\"name\": \"../a\""),
            (&*"0a".repeat(32), "../../../x"),
            ("\"format\": 1", "\"format\": 2"),
        ] {
            let bad = good.replace(from, to);
            assert_ne!(good, bad);
            assert_eq!(
                DebianLock::from_json(&bad).unwrap_err().kind(),
                ErrorKind::Invalid
            );
        }
    }
}
