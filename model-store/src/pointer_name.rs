//! `PointerName`: which pointer is meant, `latest` or an alias.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::names::check_name;
use crate::resolve::{LATEST, alias_path};
use crate::selector::Selector;

const STAGE: &str = "name pointer";

/// A pointer to a version: it moves, and every move is in its history.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PointerName {
    /// `latest`.
    Latest,
    /// `alias:NAME`.
    Alias(String),
}

impl PointerName {
    /// The alias `name`.
    ///
    /// # Errors
    /// `Invalid` for a name that breaks a rule.
    pub fn alias(name: &str) -> Result<Self> {
        check_name(name).map_err(|why| {
            Error::invalid(STAGE, format!("alias {name:?}"), why)
                .with_hint("a name has letters, digits and . _ + - only")
        })?;
        Ok(Self::Alias(name.to_owned()))
    }

    /// The path of the document.
    pub(crate) fn path(&self) -> String {
        match self {
            Self::Latest => LATEST.to_owned(),
            Self::Alias(alias) => alias_path(alias),
        }
    }

    /// What to resolve for the version that it names.
    pub fn selector(&self) -> Selector {
        match self {
            Self::Latest => Selector::Latest,
            Self::Alias(alias) => Selector::Alias(alias.clone()),
        }
    }
}

/// Reads `latest`, `alias:NAME`, or the alias's name alone.
impl FromStr for PointerName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text == "latest" {
            return Ok(Self::Latest);
        }
        Self::alias(text.strip_prefix("alias:").unwrap_or(text))
    }
}

impl fmt::Display for PointerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Alias(alias) => write!(f, "alias:{alias}"),
        }
    }
}

impl TryFrom<String> for PointerName {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<PointerName> for String {
    fn from(name: PointerName) -> Self {
        name.to_string()
    }
}
