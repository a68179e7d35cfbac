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
    /// The registry, or this machine, does not have the named object.
    NotFound,
    /// The registry does not accept the credentials, or wants some and got none.
    Unauthorized,
    /// The credentials are known but may not do this.
    Forbidden,
    /// Bytes do not have the digest they were announced with.
    DigestMismatch,
    /// A source delivered fewer or more bytes than it declared.
    SizeMismatch,
    /// The source of the bytes failed; the cause is the source's own error.
    Source,
    /// A name, a file or an option breaks a rule.
    Invalid,
    /// The registry does not offer what is needed.
    Unsupported,
    /// No answer in time.
    Timeout,
    /// No connection, or it broke.
    Unreachable,
    /// The server's certificate is not trusted, or it does not speak TLS.
    Untrusted,
    /// The registry asks to slow down (429).
    Throttled,
    /// The registry failed on its side (5xx).
    Server,
    /// The registry's answer breaks the distribution specification.
    Protocol,
    /// A local file or process could not be used.
    Io,
}

/// An error that names the stage, the object, and, where there is one, the next action.
///
/// `Display` prints this level only (`stage object: detail`); causes follow through
/// [`std::error::Error::source`], advice through [`Error::hint`]. No secret is ever part of it:
/// URLs are reduced to host and port, because upload and redirect URLs carry signatures.
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
        matches!(
            self.0.kind,
            ErrorKind::Timeout | ErrorKind::Unreachable | ErrorKind::Throttled | ErrorKind::Server
        )
    }

    /// The stage that failed, such as `push blob`.
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
            .as_ref()
            .map(|source| -> &(dyn StdError + 'static) { source.as_ref() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_is_one_level_and_the_cause_follows() {
        let error = Error::new(ErrorKind::Timeout, "push blob", "h/r", "no answer")
            .with_hint("try again")
            .with_source(std::io::Error::other("inner"));
        assert_eq!(error.to_string(), "push blob h/r: no answer");
        assert_eq!(error.source().unwrap().to_string(), "inner");
        assert_eq!(error.hint(), Some("try again"));
        assert!(error.is_retryable());
    }
}
