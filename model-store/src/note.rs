//! `Note`: who moved, retracted or held something, when and why, as the caller says it.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Longest text of a note, in bytes.
const MAX_TEXT: usize = 4096;

/// Who did something, when and why. All of it is the caller's word: the library reads no clock
/// and knows no user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Note {
    /// When, such as `2026-11-22T08:00:00Z`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// Who: a person, or a job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Note {
    /// Sets when.
    #[must_use]
    pub fn at(mut self, at: impl Into<String>) -> Self {
        self.at = Some(at.into());
        self
    }

    /// Sets who.
    #[must_use]
    pub fn by(mut self, by: impl Into<String>) -> Self {
        self.by = Some(by.into());
        self
    }

    /// Sets why.
    #[must_use]
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    /// Checks the texts' lengths.
    pub(crate) fn check(&self, stage: &'static str) -> Result<()> {
        let texts = [&self.at, &self.by, &self.reason];
        if texts
            .into_iter()
            .flatten()
            .any(|text| text.len() > MAX_TEXT)
        {
            let detail = format!("a text of it is longer than {MAX_TEXT} bytes");
            return Err(Error::invalid(stage, "note", detail).with_hint("shorten it"));
        }
        Ok(())
    }
}
