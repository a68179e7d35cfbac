//! `ModelRef`: a model and a version of it, as a person writes it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{FORMS, STAGE, Selector};
use crate::error::{Error, Result};
use crate::store_url::{StoreUrl, redact};

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
        // An `@` before the first slash is user info, which the url parser refuses by name, or the
        // container of `abfss://`. Only `memory://` has its path right there.
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
                    .with_hint(FORMS));
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
    use crate::selector::tests::selectors;
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
            (
                "abfss://models@acme.dfs.core.windows.net/digits@^1.4",
                Selector::Range("^1.4".into()),
            ),
            (
                "https://acme.blob.core.windows.net/models/digits@before:2026-11-01T01:00:00+01:00",
                Selector::Before("2026-11-01T00:00:00Z".into()),
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
            let _ = text.parse::<ModelRef>();
            let _ = format!("memory://{text}").parse::<ModelRef>();
        }
    }
}
