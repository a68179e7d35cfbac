//! Where packages come from: the machine's apt sources, or values given in their place.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use url::Url;

use super::apt_files;
use super::trust::SignedBy;
use crate::error::{Error, ErrorKind, Result};

pub(super) const STAGE: &str = "read apt sources";
pub(super) const HINT: &str =
    "add a `deb` line or a `.sources` file there, or configure the sources of the base explicitly";

/// One suite of one archive.
#[derive(Clone, PartialEq, Eq)]
pub struct Source {
    pub(super) uri: Url,
    pub(super) suite: String,
    pub(super) components: Vec<String>,
    pub(super) architectures: Vec<String>,
    pub(super) signed_by: SignedBy,
    pub(super) check_time: bool,
}

impl Source {
    /// The suite `suite` of the archive at `uri` with these components.
    ///
    /// A suite that ends in `/` is a directory of a flat repository and has no components.
    ///
    /// # Errors
    /// `Invalid` for a URI that does not parse or a suite without components, `Unsupported` for
    /// a scheme other than `http`, `https` and `file`.
    pub fn new(
        uri: &str,
        suite: impl Into<String>,
        components: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Self> {
        let suite = suite.into();
        let components: Vec<String> = components.into_iter().map(Into::into).collect();
        if components.is_empty() != suite.ends_with('/') || suite.is_empty() {
            let detail = "a suite needs components, and only a flat one (`dir/`) has none";
            return Err(Error::new(ErrorKind::Invalid, STAGE, suite, detail));
        }
        if suite
            .split('/')
            .chain(components.iter().flat_map(|one| one.split('/')))
            .any(|name| name == "..")
        {
            let detail = "the suite or a component leaves the archive";
            return Err(Error::new(ErrorKind::Invalid, STAGE, suite, detail));
        }
        Ok(Self {
            uri: parse_uri(uri)?,
            suite,
            components,
            architectures: Vec::new(),
            signed_by: SignedBy::Machine,
            check_time: true,
        })
    }

    /// The same source, signed by these keys.
    #[must_use]
    pub fn with_signed_by(mut self, signed_by: SignedBy) -> Self {
        self.signed_by = signed_by;
        self
    }

    /// The same source, used only for these architectures (empty: for all).
    #[must_use]
    pub fn with_architectures(
        mut self,
        architectures: impl IntoIterator<Item = impl Into<String>>,
    ) -> Self {
        self.architectures = architectures.into_iter().map(Into::into).collect();
        self
    }

    /// The same source, whose `Valid-Until` is (not) checked: a snapshot is always past it.
    #[must_use]
    pub fn with_time_checked(mut self, check: bool) -> Self {
        self.check_time = check;
        self
    }

    /// The suite's name.
    pub fn suite(&self) -> &str {
        &self.suite
    }

    /// Whether the source has packages for `architecture`.
    pub(super) fn serves(&self, architecture: &str) -> bool {
        self.architectures.is_empty() || self.architectures.iter().any(|one| one == architecture)
    }

    /// The URL of a path below the archive.
    pub(super) fn url(&self, path: &str) -> Result<Url> {
        let joined = format!(
            "{}/{}",
            self.uri.as_str().trim_end_matches('/'),
            path.trim_start_matches("./")
        );
        Url::parse(&joined).map_err(|error| {
            Error::new(
                ErrorKind::Invalid,
                "fetch",
                path,
                "it is no path of an archive",
            )
            .with_source(error)
        })
    }

    /// The path of the suite's directory below the archive, without a trailing slash.
    pub(super) fn directory(&self) -> String {
        if self.suite.ends_with('/') {
            self.suite
                .trim_start_matches("./")
                .trim_end_matches('/')
                .to_owned()
        } else {
            format!("dists/{}", self.suite)
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("uri", &redact(&self.uri))
            .field("suite", &self.suite)
            .field("components", &self.components)
            .field("architectures", &self.architectures)
            .field("signed_by", &self.signed_by)
            .finish_non_exhaustive()
    }
}

/// The archives packages may come from, and how to reach and trust them.
///
/// There is no built-in archive. [`Sources::from_apt`] takes those of the machine.
#[derive(Clone, Default)]
pub struct Sources {
    pub(super) entries: Vec<Source>,
    pub(super) machine_keys: Vec<PathBuf>,
    pub(super) http_proxy: Option<Url>,
    pub(super) https_proxy: Option<Url>,
    pub(super) now: Option<SystemTime>,
}

impl Sources {
    /// No source yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The sources below `etc_apt` (normally `/etc/apt`): `sources.list`, `sources.list.d`, the
    /// keys apt trusts, and a proxy set in `apt.conf`. Pins and credentials are not read.
    ///
    /// # Errors
    /// `NotFound` when there is no enabled source, `Invalid` for a malformed one, `Unsupported`
    /// for a scheme other than `http`, `https` and `file`.
    pub fn from_apt(etc_apt: &Path) -> Result<Self> {
        apt_files::read(etc_apt)
    }

    /// These sources and one more.
    #[must_use]
    pub fn with_source(mut self, source: Source) -> Self {
        self.entries.push(source);
        self
    }

    /// The same sources, read through this HTTP proxy.
    ///
    /// # Errors
    /// `Invalid` for a proxy that is no URL.
    pub fn with_proxy(mut self, proxy: &str) -> Result<Self> {
        let proxy = parse_uri(proxy)?;
        self.http_proxy = Some(proxy.clone());
        self.https_proxy = Some(proxy);
        Ok(self)
    }

    /// The same sources, whose releases and keys must not have expired at `now`. Without it no
    /// expiry is checked.
    #[must_use]
    pub fn with_time(mut self, now: SystemTime) -> Self {
        self.now = Some(now);
        self
    }

    /// The sources in the order they are asked.
    pub fn iter(&self) -> impl Iterator<Item = &Source> {
        self.entries.iter()
    }

    /// The archives that may hold a package of `suite`: those with that suite first, then the
    /// others, since a mirror may carry it under another name. Content is checked either way.
    pub(super) fn candidates<'a>(&'a self, suite: &'a str) -> Vec<&'a Source> {
        let mut all: Vec<&Source> = self
            .entries
            .iter()
            .filter(|source| source.suite == suite)
            .collect();
        for source in &self.entries {
            if all.iter().all(|known| known.uri != source.uri) {
                all.push(source);
            }
        }
        all
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("entries", &self.entries)
            .finish_non_exhaustive()
    }
}

/// Parses an archive's or a proxy's address.
pub(super) fn parse_uri(text: &str) -> Result<Url> {
    let scheme = text.split(':').next().unwrap_or_default();
    if !matches!(scheme, "http" | "https" | "file") {
        let detail = "only http, https and file sources can be read";
        return Err(
            Error::new(ErrorKind::Unsupported, STAGE, format!("{scheme}:"), detail)
                .with_hint("name the archive by its http, https or file address"),
        );
    }
    Url::parse(text).map_err(|error| {
        Error::new(
            ErrorKind::Invalid,
            STAGE,
            format!("{scheme}:"),
            "the address does not parse",
        )
        .with_source(error)
    })
}

/// The address without user, password and query.
pub(super) fn redact(url: &Url) -> String {
    let mut url = url.clone();
    // Both fail only for addresses that cannot hold a user.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_and_suites_are_checked() {
        let kind = |uri: &str, suite: &str, components: &[&str]| {
            Source::new(uri, suite, components.iter().copied()).map_err(|error| error.kind())
        };
        assert!(kind("http://a.invalid/debian", "bookworm", &["main"]).is_ok());
        assert!(kind("file:///srv/repo", "./", &[]).is_ok());
        assert_eq!(
            kind("mirror+file:/etc/x", "a", &["b"]),
            Err(ErrorKind::Unsupported)
        );
        assert_eq!(
            kind("http://a.invalid", "bookworm", &[]),
            Err(ErrorKind::Invalid)
        );
        assert_eq!(
            kind("http://a.invalid", "../x", &["main"]),
            Err(ErrorKind::Invalid)
        );
        assert_eq!(kind("http://", "x", &["main"]), Err(ErrorKind::Invalid));
    }

    #[test]
    fn debug_output_has_no_credentials() {
        let source = Source::new("https://me:secret@a.invalid/x?sig=1", "s", ["main"]).unwrap();
        let shown = format!("{source:?}");
        assert!(
            !shown.contains("secret") && !shown.contains("sig=1"),
            "{shown}"
        );
    }

    #[test]
    fn paths_join_below_the_archive() {
        let source = Source::new("http://a.invalid/debian/", "bookworm", ["main"]).unwrap();
        let url = source.url("pool/main/a_1+b~c.deb").unwrap();
        assert_eq!(
            url.as_str(),
            "http://a.invalid/debian/pool/main/a_1+b~c.deb"
        );
        let flat = Source::new("http://a.invalid/r", "./", [""; 0]).unwrap();
        assert_eq!(flat.directory(), "");
    }
}
