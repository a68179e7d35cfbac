//! The crate's one error type: opaque, with a kind to match on and a hint to print.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::Path;

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
    /// The input breaks a rule of its format, or of this crate.
    Invalid,
    /// Two inputs claim the same place.
    Conflict,
    /// A source gave other bytes, or another number of bytes, than it had announced.
    Changed,
    /// Content does not have the digest or the size its descriptor states.
    DigestMismatch,
    /// A signature is missing, broken or by a key that is not trusted.
    Unverified,
    /// The input is valid, but outside of what this crate handles.
    Unsupported,
    /// A server could not be reached or refused to serve.
    Unreachable,
    /// A server took too long to answer.
    Timeout,
    /// The operating system refused a file operation.
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

    /// Makes an error about a file operation: `NotFound` where the system says so, else `Io`.
    pub(crate) fn io(
        stage: &'static str,
        path: &Path,
        detail: impl Into<String>,
        source: io::Error,
    ) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Io,
        };
        Self::new(kind, stage, path.display().to_string(), detail).with_source(source)
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    pub(crate) fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Takes an error out of a byte stream: one of ours passes unchanged, a foreign one becomes
    /// the source of a new error of kind `Io`.
    pub(crate) fn from_stream(
        stage: &'static str,
        object: impl Into<String>,
        error: BoxError,
    ) -> Self {
        match error.downcast::<Self>() {
            Ok(own) => *own,
            Err(other) => {
                Self::new(ErrorKind::Io, stage, object, "the byte source failed").with_source(other)
            }
        }
    }

    /// What went wrong, by meaning.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same call may succeed later without a change by the caller.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.0.kind,
            ErrorKind::Changed | ErrorKind::Unreachable | ErrorKind::Timeout
        )
    }

    /// The stage that failed, such as `build layer`.
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
        let Inner {
            stage,
            object,
            detail,
            ..
        } = &*self.0;
        write!(f, "{stage} `{object}`: {detail}")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_level_is_shown_and_the_rest_is_reachable() {
        let error = Error::io(
            "read file",
            Path::new("a/b"),
            "cannot open it",
            io::Error::from(io::ErrorKind::NotFound),
        )
        .with_hint("create it");
        assert_eq!(error.to_string(), "read file `a/b`: cannot open it");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.hint(), Some("create it"));
        assert!(error.source().is_some());
        assert!(!error.is_retryable());
    }

    #[test]
    fn an_own_error_crosses_a_stream_unchanged() {
        let own: BoxError = Error::new(ErrorKind::Changed, "read", "x", "short").into();
        assert_eq!(Error::from_stream("s", "o", own).kind(), ErrorKind::Changed);
        assert_eq!(
            Error::from_stream("s", "o", "foreign".into()).kind(),
            ErrorKind::Io
        );
    }
}
