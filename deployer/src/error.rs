//! The crate's one error type: opaque, with a kind to match on and a hint to print.

use std::error::Error as StdError;
use std::fmt;

/// A boxed error of any origin, kept as a source.
pub type BoxError = Box<dyn StdError + Send + Sync + 'static>;

/// The result of this crate's fallible operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, by meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The named object does not exist.
    NotFound,
    /// The cluster does not know who asks (HTTP 401).
    Unauthorized,
    /// The cluster knows who asks and says no (HTTP 403).
    Forbidden,
    /// Somebody else owns the field, the object or the lock.
    Conflict,
    /// The input breaks a rule, ours or the cluster's.
    Invalid,
    /// It did not happen within the time allowed.
    Timeout,
    /// The API server could not be reached.
    Unreachable,
    /// The API server failed or asked to come back later.
    Unavailable,
    /// A file could not be read.
    Io,
}

/// An error that names the stage, the object, and, where there is one, the next action.
///
/// `Display` prints this level only (`stage object: detail`); causes follow through
/// [`std::error::Error::source`], advice through [`Error::hint`].
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    stage: &'static str,
    object: String,
    detail: String,
    hint: Option<String>,
    source: Option<BoxError>,
}

impl Error {
    /// Makes an error of `kind` in `stage` about `object`.
    pub(crate) fn new(
        kind: ErrorKind,
        stage: &'static str,
        object: impl Into<String>,
        detail: impl Into<String>,
    ) -> Self {
        Self(Box::new(Inner {
            kind,
            stage,
            object: object.into(),
            detail: detail.into(),
            hint: None,
            source: None,
        }))
    }

    /// Adds the next action.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Keeps the cause.
    pub(crate) fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What went wrong, by meaning.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same call may succeed later without a change by the caller.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.0.kind,
            ErrorKind::Timeout | ErrorKind::Unreachable | ErrorKind::Unavailable
        )
    }

    /// The stage that failed, such as `apply`.
    pub fn stage(&self) -> &'static str {
        self.0.stage
    }

    /// What to do next, where that is known.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.0.stage, self.0.object, self.0.detail)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("stage", &self.0.stage)
            .field("object", &self.0.object)
            .field("detail", &self.0.detail)
            .field("hint", &self.0.hint)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0
            .source
            .as_deref()
            .map(|source| source as &(dyn StdError + 'static))
    }
}
