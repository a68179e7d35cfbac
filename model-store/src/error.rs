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
    /// The named version, alias, file, container or bucket does not exist.
    NotFound,
    /// No credential was found, or the store does not accept it.
    Unauthorized,
    /// The credential is known but may not do this.
    Forbidden,
    /// Someone else published other bytes, or moved the same pointer first.
    Conflict,
    /// An object or local file was replaced while it was in use.
    Changed,
    /// Bytes do not have the digest that was promised.
    DigestMismatch,
    /// The version was retracted by its publisher.
    Retracted,
    /// The admission policy does not let the model's content into an image.
    Unsafe,
    /// Nobody who is trusted enough vouches for the bytes: a signature or checksum is missing or
    /// does not hold.
    Untrusted,
    /// An input breaks a rule of its format.
    Invalid,
    /// The store cannot do what is asked.
    Unsupported,
    /// The store did not answer in time.
    Timeout,
    /// The store could not be reached, broke off, or answered with a server error.
    Unreachable,
    /// The local file system failed.
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

    /// An input that breaks a rule.
    pub(crate) fn invalid(
        stage: &'static str,
        object: impl Into<String>,
        detail: impl Into<String>,
    ) -> Self {
        Self::new(ErrorKind::Invalid, stage, object, detail)
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

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
        matches!(self.0.kind, ErrorKind::Timeout | ErrorKind::Unreachable)
    }

    /// The stage that failed, such as `resolve model`.
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
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_is_one_level_and_the_rest_is_reachable() {
        let error = Error::new(ErrorKind::Timeout, "resolve model", "s3://b/m", "no answer")
            .with_hint("try later")
            .with_source("inner");
        assert_eq!(error.to_string(), "resolve model s3://b/m: no answer");
        assert_eq!(error.hint(), Some("try later"));
        assert_eq!(error.stage(), "resolve model");
        assert!(error.is_retryable());
        assert_eq!(error.source().unwrap().to_string(), "inner");
    }
}
