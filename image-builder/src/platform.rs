//! The platform an image is for.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};

/// An operating system, an architecture and perhaps its variant, in Go's names, as image-spec's
/// config.md asks; written `linux/arm64/v8`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

impl Platform {
    /// Linux on this architecture, such as `amd64`.
    ///
    /// # Errors
    /// `Invalid` for a name with other characters than letters, digits, `_`, `.` and `-`.
    pub fn linux(architecture: &str) -> Result<Self> {
        format!("linux/{architecture}").parse()
    }

    /// The operating system.
    pub fn os(&self) -> &str {
        &self.os
    }

    /// The architecture.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// The variant of the architecture.
    pub fn variant(&self) -> Option<&str> {
        self.variant.as_deref()
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let is_name = |part: &&str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        };
        let parts: Vec<&str> = text.split('/').take_while(is_name).collect();
        let whole = parts.len() == text.split('/').count();
        let (os, architecture, variant) = match parts[..] {
            [os, architecture] if whole => (os, architecture, None),
            [os, architecture, variant] if whole => (os, architecture, Some(variant)),
            _ => {
                let detail = "it is not of the form os/architecture or os/architecture/variant";
                return Err(
                    Error::new(ErrorKind::Invalid, "parse platform", text, detail)
                        .with_hint("write for example linux/amd64"),
                );
            }
        };
        Ok(Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_nonsense_is_refused() {
        for text in ["linux/amd64", "linux/arm64/v8"] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), text);
        }
        for text in ["", "linux", "linux/", "linux/a/b/c", "linux/a b", "/amd64"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }
}
