//! The platform an image is for.

use std::fmt;
use std::str::FromStr;

use serde_json::{Value, json};

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

    /// The same platform in the one form that is compared: other names of an architecture
    /// replaced (`aarch64`, `x86_64`, `armhf`, `armel`), and the variant that a bare name stands
    /// for left out, so that `linux/arm64/v8` is `linux/arm64`.
    #[must_use]
    pub fn normalised(&self) -> Self {
        let (architecture, variant) = match (self.architecture.as_str(), self.variant()) {
            ("aarch64", variant) => ("arm64", variant),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("armhf", None) => ("arm", None),
            ("armel", None) => ("arm", Some("v6")),
            same => same,
        };
        let number = variant.map(|variant| variant.strip_prefix('v').unwrap_or(variant));
        let is_plain = matches!(
            (architecture, number),
            ("arm64", Some("8")) | ("arm", Some("7")) | ("amd64", Some("1"))
        );
        Self {
            os: self.os.clone(),
            architecture: architecture.to_owned(),
            variant: variant.filter(|_| !is_plain).map(str::to_owned),
        }
    }

    /// Whether an image for `offered` runs on this platform: the same system and architecture,
    /// and no newer variant, so that `linux/arm/v7` runs `linux/arm/v6` but not the reverse.
    pub fn runs(&self, offered: &Self) -> bool {
        self.distance(offered).is_some()
    }

    /// How far an image for `offered` is from the best one for this platform; `None` if it does
    /// not run here.
    pub(crate) fn distance(&self, offered: &Self) -> Option<u64> {
        let (ours, theirs) = (self.normalised(), offered.normalised());
        if (&ours.os, &ours.architecture) != (&theirs.os, &theirs.architecture) {
            return None;
        }
        if ours.variant == theirs.variant {
            return Some(0);
        }
        match (ours.generation(), theirs.generation()) {
            (Some(ours), Some(theirs)) => ours.checked_sub(theirs),
            _ => None,
        }
    }

    /// The number of the variant, where the architecture counts them.
    fn generation(&self) -> Option<u64> {
        match (self.architecture.as_str(), self.variant()) {
            ("arm64", None) => Some(8),
            ("arm", None) => Some(7),
            ("amd64", None) => Some(1),
            ("arm64" | "arm" | "amd64", Some(variant)) => {
                variant.strip_prefix('v').unwrap_or(variant).parse().ok()
            }
            _ => None,
        }
    }

    /// The platform as a descriptor of an index states it (image-spec, image-index.md).
    pub(crate) fn to_json(&self) -> Value {
        let mut json = json!({ "architecture": self.architecture, "os": self.os });
        if let Some(variant) = &self.variant {
            json["variant"] = variant.as_str().into();
        }
        json
    }

    /// The platform that a descriptor or a config states, where it is stated in full.
    pub(crate) fn from_json(json: &Value) -> Option<Self> {
        let text = |name: &str| json.get(name).and_then(Value::as_str);
        let (os, architecture) = (text("os")?, text("architecture")?);
        let variant = text("variant").filter(|variant| !variant.is_empty());
        let variant = variant
            .map(|variant| format!("/{variant}"))
            .unwrap_or_default();
        format!("{os}/{architecture}{variant}").parse().ok()
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
    fn older_variants_run_on_newer_machines_and_names_have_one_meaning() {
        let distance = |ours: &str, theirs: &str| {
            let ours: Platform = ours.parse().unwrap();
            ours.distance(&theirs.parse().unwrap())
        };
        for (ours, theirs, expected) in [
            ("linux/arm64", "linux/arm64/v8", Some(0)),
            ("linux/arm64/v8", "linux/aarch64", Some(0)),
            ("linux/arm64/v9", "linux/arm64", Some(1)),
            ("linux/arm64", "linux/arm64/v9", None),
            ("linux/arm", "linux/arm/v7", Some(0)),
            ("linux/arm/v7", "linux/arm/v6", Some(1)),
            ("linux/arm/v6", "linux/arm/v7", None),
            ("linux/arm/v6", "linux/armel", Some(0)),
            ("linux/amd64", "linux/x86_64", Some(0)),
            ("linux/amd64/v3", "linux/amd64", Some(2)),
            ("linux/amd64", "linux/amd64/v2", None),
            ("linux/amd64", "linux/arm64", None),
            ("linux/amd64", "windows/amd64", None),
            ("linux/ppc64le", "linux/ppc64le", Some(0)),
            ("linux/ppc64le", "linux/ppc64le/power9", None),
        ] {
            assert_eq!(distance(ours, theirs), expected, "{ours} {theirs}");
        }
    }

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
