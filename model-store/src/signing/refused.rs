//! Why a signature does not hold, before it is known of which model.

use crate::error::{Error, ErrorKind};

pub(super) const STAGE: &str = "verify signature";

/// A reason to trust nothing, in words, and what to do next.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) detail: String,
    pub(super) hint: Option<&'static str>,
}

impl Refused {
    pub(super) fn new(detail: impl Into<String>) -> Self {
        Self {
            detail: detail.into(),
            hint: None,
        }
    }

    pub(super) const fn with_hint(mut self, hint: &'static str) -> Self {
        self.hint = Some(hint);
        self
    }

    /// The error about `object`.
    pub(super) fn about(self, kind: ErrorKind, object: impl Into<String>) -> Error {
        let error = Error::new(kind, STAGE, object, self.detail);
        match self.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

/// Up to eight names, as they are written in Rust, so that no name can forge another line.
pub(super) fn listed<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 8;
    let more = names.len().saturating_sub(SHOWN);
    let shown: Vec<String> = names.take(SHOWN).map(|name| format!("{name:?}")).collect();
    let shown = shown.join(", ");
    if more == 0 {
        shown
    } else {
        format!("{shown} and {more} more")
    }
}
