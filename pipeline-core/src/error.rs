//! The crate's one error type: opaque, with the stage of the road it ended and a hint to print.

use std::error::Error as StdError;
use std::fmt;

use crate::Stage;

/// A boxed error of any origin, kept as a source.
pub type BoxError = Box<dyn StdError + Send + Sync + 'static>;

/// The result of this crate's fallible operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, by meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A named object does not exist: a file, a model, a revision.
    NotFound,
    /// The configuration or an input breaks a rule.
    Invalid,
    /// The app's own tests, or the smoke test of the image, said no.
    TestsFailed,
    /// The release did not become available and was rolled back, or could not be.
    RolloutFailed,
    /// The model may not enter an image: nobody who is trusted signed it, or its files hold what
    /// the policy denies.
    ModelRefused,
    /// A step of one of the crates below failed; its error is the source.
    Step,
    /// Reading or writing local files failed.
    Io,
}

/// An error that names the stage, the object and, where there is one, the next action.
///
/// `Display` prints this level only (`stage object: detail`); causes follow through
/// [`std::error::Error::source`], advice through [`Error::hint`].
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    stage: Stage,
    object: String,
    detail: String,
    hint: Option<String>,
    retryable: bool,
    source: Option<BoxError>,
}

impl Error {
    /// Makes an error of `kind` in `stage` about `object`.
    pub(crate) fn new(
        kind: ErrorKind,
        stage: Stage,
        object: impl fmt::Display,
        detail: impl Into<String>,
    ) -> Self {
        Self(Box::new(Inner {
            kind,
            stage,
            object: object.to_string(),
            detail: detail.into(),
            hint: None,
            retryable: false,
            source: None,
        }))
    }

    /// A local file or directory could not be read or written.
    pub(crate) fn io(stage: Stage, path: &std::path::Path, source: std::io::Error) -> Self {
        let kind = match source.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Io,
        };
        let mut error = Self::new(kind, stage, path.display(), source.to_string());
        error.0.source = Some(source.into());
        error
    }

    /// A step below failed; `source` says what, and brings its own advice.
    pub(crate) fn step(stage: Stage, object: impl fmt::Display, source: impl Into<Below>) -> Self {
        let below = source.into();
        let mut error = Self::new(ErrorKind::Step, stage, object, "failed");
        error.0.detail = below.text;
        error.0.hint = below.hint;
        error.0.retryable = below.retryable;
        error.0.source = below.source;
        error
    }

    /// The same error, of another meaning.
    pub(crate) fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Adds what to do next.
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// What went wrong, by meaning.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The stage of the road that ended here.
    pub fn stage(&self) -> Stage {
        self.0.stage
    }

    /// The object it is about: a file, a model, a reference, a release.
    pub fn object(&self) -> &str {
        &self.0.object
    }

    /// Whether the same run may succeed later without a change by the caller.
    pub fn is_retryable(&self) -> bool {
        self.0.retryable
    }

    /// What to do next, where that is known.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
}

/// An error of a crate below, with what this crate keeps of it.
pub(crate) struct Below {
    text: String,
    hint: Option<String>,
    retryable: bool,
    source: Option<BoxError>,
}

#[cfg(test)]
impl Below {
    /// A fault that may pass.
    pub(crate) fn passing(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            hint: None,
            retryable: true,
            source: None,
        }
    }
}

/// Leaf errors all have the same shape, so they bend into [`Below`] the same way.
macro_rules! below {
    ($($krate:ident),*) => {$(
        impl From<$krate::Error> for Below {
            fn from(error: $krate::Error) -> Self {
                Self {
                    text: error.to_string(),
                    hint: error.hint().map(str::to_owned),
                    retryable: error.is_retryable(),
                    source: std::error::Error::source(&error).map(|s| BoxError::from(s.to_string())),
                }
            }
        }
    )*};
}

below!(
    modelship_model_store,
    modelship_image_builder,
    modelship_registry,
    modelship_sandbox,
    modelship_deployer
);

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
            .map(|s| &**s as &(dyn StdError + 'static))
    }
}
