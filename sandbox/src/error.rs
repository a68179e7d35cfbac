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
    /// A root layer, the program, its interpreter or the working directory does not exist.
    NotFound,
    /// The description of the sandbox breaks a rule.
    Invalid,
    /// This host does not let the caller make the namespaces the sandbox is built of.
    Forbidden,
    /// The kernel lacks something the sandbox needs.
    Unsupported,
    /// Nothing accepted the connection inside the sandbox.
    Unreachable,
    /// The process has ended.
    NotRunning,
    /// Any other failure of the operating system.
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

    /// Makes an [`ErrorKind::Io`] error whose detail and source are `source`.
    pub(crate) fn io(
        stage: &'static str,
        object: impl Into<String>,
        source: impl Into<BoxError>,
    ) -> Self {
        let source = source.into();
        Self::new(
            ErrorKind::Io,
            stage,
            object,
            "the operating system refused it",
        )
        .with_source(source)
    }

    /// Adds what to do next.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    pub(crate) fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// What went wrong, by meaning.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same call may succeed later without a change by the caller.
    ///
    /// True for [`ErrorKind::Unreachable`]: a server that is still starting does not listen yet.
    pub fn is_retryable(&self) -> bool {
        self.0.kind == ErrorKind::Unreachable
    }

    /// The stage that failed, such as `mount overlay`.
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
