//! `Selector` and `ModelRef`: which version of which model.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::names::{check_name, check_sha256, check_version};
use crate::store_url::{StoreUrl, redact};

const STAGE: &str = "parse model reference";

/// Which version of a model is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum Selector {
    /// `latest`: what `latest.json` names, else the highest released version.
    #[default]
    Latest,
    /// `1.4.2`: exactly this version.
    Version(String),
    /// `alias:prod`: what the alias names.
    Alias(String),
    /// `sha256:…`: the version whose tree has this digest.
    Digest(String),
}

impl Selector {
    /// Checks the text inside, which a caller may have written by hand.
    pub(crate) fn check(&self) -> Result<()> {
        let checked = match self {
            Self::Latest => Ok(()),
            Self::Version(version) => check_version(version),
            Self::Alias(alias) => check_name(alias),
            Self::Digest(digest) => digest
                .strip_prefix("sha256:")
                .ok_or_else(|| "a digest starts with `sha256:`".to_owned())
                .and_then(check_sha256),
        };
        checked.map_err(|detail| {
            Error::invalid(STAGE, self.to_string(), detail)
                .with_hint("write latest, a version such as 1.4.2, alias:NAME or sha256:HEX")
        })
    }
}

impl FromStr for Selector {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let selector = if text == "latest" {
            Self::Latest
        } else if let Some(alias) = text.strip_prefix("alias:") {
            Self::Alias(alias.to_owned())
        } else if text.starts_with("sha256:") {
            Self::Digest(text.to_owned())
        } else {
            Self::Version(text.to_owned())
        };
        selector.check()?;
        Ok(selector)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Alias(alias) => write!(f, "alias:{alias}"),
            Self::Version(text) | Self::Digest(text) => f.write_str(text),
        }
    }
}

impl TryFrom<String> for Selector {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Selector> for String {
    fn from(selector: Selector) -> Self {
        selector.to_string()
    }
}

/// A model and a version of it, as a person writes it: `az://models.acme/digits@1.4.2`.
///
/// Without `@…` the latest version is meant. A literal `@` in a path is written `%40`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModelRef {
    /// Where the model's versions live.
    pub url: StoreUrl,
    /// Which of them is meant.
    pub selector: Selector,
}

impl FromStr for ModelRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let start = text.find("://").map_or(0, |at| at + 3);
        // An `@` before the first slash is user info, which the url parser refuses by name. Only
        // `memory://` has its path right there.
        let path = if text.starts_with("memory://") {
            start
        } else {
            start + text[start..].find('/').unwrap_or(0)
        };
        match text[path..].find('@') {
            Some(at) => {
                let (url, selector) = (&text[..path + at], &text[path + at + 1..]);
                if selector.contains(['@', '?', '#', '/']) {
                    return Err(Error::invalid(
                        STAGE,
                        redact(url),
                        "what follows `@` is not a selector",
                    )
                    .with_hint("write latest, a version such as 1.4.2, alias:NAME or sha256:HEX"));
                }
                Ok(Self {
                    url: url.parse()?,
                    selector: selector.parse()?,
                })
            }
            None => Ok(Self {
                url: text.parse()?,
                selector: Selector::Latest,
            }),
        }
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.url, self.selector)
    }
}

impl TryFrom<String> for ModelRef {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<ModelRef> for String {
    fn from(reference: ModelRef) -> Self {
        reference.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn references() {
        for (text, selector) in [
            ("az://models.acme/digits", Selector::Latest),
            ("az://models.acme/digits@latest", Selector::Latest),
            ("memory://digits@1.4.2", Selector::Version("1.4.2".into())),
            (
                "file:///srv/digits@alias:prod",
                Selector::Alias("prod".into()),
            ),
        ] {
            let reference: ModelRef = text.parse().unwrap();
            assert_eq!(reference.selector, selector, "{text}");
            assert_eq!(reference.url.model_name(), "digits");
        }
    }

    #[test]
    fn bad_references() {
        for text in [
            "az://models.acme/digits@",
            "az://models.acme/digits@alias:",
            "az://models.acme/digits@sha256:xyz",
            "az://models.acme/digits@1@2",
            "az://models.acme/digits@../x",
            "az://models.acme@latest",
        ] {
            assert!(text.parse::<ModelRef>().is_err(), "{text}");
        }
        let error = "az://me:SECRET@models.acme/digits@1"
            .parse::<ModelRef>()
            .unwrap_err();
        assert!(!format!("{error:?}").contains("SECRET"));
        let error = "az://models.acme/digits@1?sig=SECRET"
            .parse::<ModelRef>()
            .unwrap_err();
        assert!(!format!("{error:?}").contains("SECRET"));
    }

    fn selectors() -> impl Strategy<Value = Selector> {
        prop_oneof![
            Just(Selector::Latest),
            "[a-zA-Z0-9][a-zA-Z0-9._+-]{0,20}"
                .prop_filter("reserved", |v| v != "latest")
                .prop_map(Selector::Version),
            "[a-zA-Z0-9][a-zA-Z0-9._+-]{0,20}".prop_map(Selector::Alias),
            "[0-9a-f]{64}".prop_map(|hex| Selector::Digest(format!("sha256:{hex}"))),
        ]
    }

    proptest! {
        #[test]
        fn round_trip(selector in selectors(), name in "[a-z0-9]{1,8}") {
            let url: StoreUrl = format!("s3://bucket/{name}").parse().unwrap();
            let reference = ModelRef { url, selector };
            prop_assert_eq!(&reference.to_string().parse::<ModelRef>().unwrap(), &reference);
            let json = serde_json::to_string(&reference).unwrap();
            prop_assert_eq!(serde_json::from_str::<ModelRef>(&json).unwrap(), reference);
        }

        #[test]
        fn never_panics(text in "\\PC{0,40}") {
            let _ = text.parse::<Selector>();
            let _ = text.parse::<ModelRef>();
            let _ = format!("memory://{text}").parse::<ModelRef>();
        }
    }
}
