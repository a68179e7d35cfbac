//! `Selector`: which version of a model.

mod moment;
mod range;
mod reference;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::names::{check_name, check_object_version, check_sha256, check_version};

pub(crate) use moment::Moment;
pub(crate) use range::Range;
pub use reference::ModelRef;

const STAGE: &str = "parse model reference";
const FORMS: &str = "write latest, newest, a version such as 1.4.2, a range such as ^1.4 or 1.*, \
     alias:NAME, before:DATE, sha256:HEX or object:ID";

/// Which version of a model is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum Selector {
    /// `latest`: what a pointer or an index names, else the highest released version.
    #[default]
    Latest,
    /// `newest`: the version that was completed last, whatever it is called. Its time is the last
    /// change of its manifest or marker; where it has neither, of its newest file.
    Newest,
    /// `1.4.2`: exactly this version. A text such as `1.x` that no version has for a name is the
    /// range `1.*`.
    Version(String),
    /// `^1.4`, `~2.0`, `>=1.2,<2`, `1.*`: the highest version in a range of semantic versions, as
    /// Cargo reads it. A pre-release is in it only where the range names one of the same version.
    Range(String),
    /// `alias:prod`: what the alias names.
    Alias(String),
    /// `before:2026-11-01` or `before:2026-11-01T12:00:00+01:00` (RFC 3339; UTC where no zone is
    /// given): the version that was completed last before that moment.
    Before(String),
    /// `sha256:…`: the version whose tree has this digest.
    Digest(String),
    /// `object:ID`: the store's own version of the object, for a model that is one object.
    Object(String),
}

impl Selector {
    /// Checks the text inside, which a caller may have written by hand.
    pub(crate) fn check(&self) -> Result<()> {
        let checked = match self {
            Self::Latest | Self::Newest => Ok(()),
            Self::Version(version) => check_version(version),
            Self::Range(text) => Range::parse(text)
                .and_then(|range| same(text, &range.to_string(), "the range is written")),
            Self::Alias(alias) => check_name(alias),
            Self::Before(text) => Moment::parse(text)
                .and_then(|moment| same(text, &moment.to_string(), "the moment is written")),
            Self::Digest(digest) => digest
                .strip_prefix("sha256:")
                .ok_or_else(|| "a digest starts with `sha256:`".to_owned())
                .and_then(check_sha256),
            Self::Object(id) => check_object_version(id),
        };
        checked.map_err(|detail| Error::invalid(STAGE, self.to_string(), detail).with_hint(FORMS))
    }
}

/// One meaning has one text, so that equal selectors are equal.
fn same(text: &str, canonical: &str, what: &str) -> Result<(), String> {
    if text == canonical {
        Ok(())
    } else {
        Err(format!("{what} {canonical}"))
    }
}

impl FromStr for Selector {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = |why| Error::invalid(STAGE, text, why).with_hint(FORMS);
        let selector = if text == "latest" {
            Self::Latest
        } else if text == "newest" {
            Self::Newest
        } else if let Some(alias) = text.strip_prefix("alias:") {
            Self::Alias(alias.to_owned())
        } else if let Some(date) = text.strip_prefix("before:") {
            Self::Before(Moment::parse(date).map_err(refuse)?.to_string())
        } else if let Some(id) = text.strip_prefix("object:") {
            Self::Object(id.to_owned())
        } else if text.starts_with("sha256:") {
            Self::Digest(text.to_owned())
        } else if Range::is_meant(text) {
            Self::Range(Range::parse(text).map_err(refuse)?.to_string())
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
            Self::Newest => f.write_str("newest"),
            Self::Alias(alias) => write!(f, "alias:{alias}"),
            Self::Before(moment) => write!(f, "before:{moment}"),
            Self::Object(id) => write!(f, "object:{id}"),
            Self::Version(text) | Self::Range(text) | Self::Digest(text) => f.write_str(text),
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_form_has_its_meaning() {
        for (text, selector) in [
            ("latest", Selector::Latest),
            ("newest", Selector::Newest),
            ("1.4.2", Selector::Version("1.4.2".into())),
            // A name that no range syntax takes away.
            ("1.x", Selector::Version("1.x".into())),
            ("1.4", Selector::Version("1.4".into())),
            ("^1.4", Selector::Range("^1.4".into())),
            ("~2.0", Selector::Range("~2.0".into())),
            (">=1.2,<2", Selector::Range(">=1.2,<2".into())),
            (">=1.2, <2", Selector::Range(">=1.2,<2".into())),
            ("1.*", Selector::Range("1.*".into())),
            ("*", Selector::Range("*".into())),
            ("=1.2.3", Selector::Range("=1.2.3".into())),
            ("^2.0.0-rc.1", Selector::Range("^2.0.0-rc.1".into())),
            ("alias:prod", Selector::Alias("prod".into())),
            ("object:null", Selector::Object("null".into())),
            (
                "before:2026-11-01",
                Selector::Before("2026-11-01T00:00:00Z".into()),
            ),
            (
                "before:2026-11-01T12:30:00+02:00",
                Selector::Before("2026-11-01T10:30:00Z".into()),
            ),
        ] {
            let parsed: Selector = text.parse().unwrap();
            assert_eq!(parsed, selector, "{text}");
            assert_eq!(parsed.to_string().parse::<Selector>().unwrap(), parsed);
        }
    }

    #[test]
    fn what_is_none_is_refused_with_the_forms() {
        for text in [
            "",
            "^",
            "^x",
            ">=1.2,",
            ">=1 <2",
            "before:",
            "before:tomorrow",
            "before:2026-13-01",
            "before:+12026-01-01",
            "object:",
            "object:a b",
            "alias:",
            "sha256:",
            "a b",
            "../x",
        ] {
            let error = text.parse::<Selector>().unwrap_err();
            assert!(error.hint().unwrap().contains("alias:NAME"), "{text}");
        }
        let by_hand = Selector::Range(">=1.2, <2".into());
        assert!(
            by_hand
                .check()
                .unwrap_err()
                .to_string()
                .contains(">=1.2,<2")
        );
        assert!(Selector::Before("2026-11-01".into()).check().is_err());
        assert!(Selector::Version("newest".into()).check().is_err());
    }

    /// Any selector that can be written.
    pub(crate) fn selectors() -> impl Strategy<Value = Selector> {
        let parsed = |text: String| text.parse::<Selector>().ok();
        prop_oneof![
            Just(Selector::Latest),
            Just(Selector::Newest),
            "[a-zA-Z0-9][a-zA-Z0-9._+-]{0,20}"
                .prop_filter("reserved", |v| check_version(v).is_ok())
                .prop_map(Selector::Version),
            "[a-zA-Z0-9][a-zA-Z0-9._+-]{0,20}".prop_map(Selector::Alias),
            "[0-9a-f]{64}".prop_map(|hex| Selector::Digest(format!("sha256:{hex}"))),
            "(\\^|~|=|>=|<|>|<=) ?[0-9]{1,3}(\\.[0-9]{1,2}){0,2}(, ?<[0-9]{1,5})?"
                .prop_filter_map("range", parsed),
            "[0-9]{1,3}(\\.[0-9]{1,2})?\\.\\*".prop_filter_map("range", parsed),
            "before:20[0-9]{2}-[01][0-9]-[0-3][0-9](T[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]0[0-9]:30)?)?"
                .prop_filter_map("moment", parsed),
            "object:[!$-+\\--.0-9:;A-Z_a-z~=]{1,40}".prop_filter_map("object", parsed),
        ]
    }

    proptest! {
        #[test]
        fn round_trip(selector in selectors()) {
            prop_assert_eq!(&selector.to_string().parse::<Selector>().unwrap(), &selector);
            let json = serde_json::to_string(&selector).unwrap();
            prop_assert_eq!(serde_json::from_str::<Selector>(&json).unwrap(), selector);
        }

        #[test]
        fn what_is_read_is_written_the_same(
            text in "(before:|object:|alias:|[\\^~<>=*]{0,2})(\\PC{0,30}|[\\^~<>=*, .0-9xXva+:TZ-]{0,16})"
        ) {
            if let Ok(selector) = text.parse::<Selector>() {
                prop_assert_eq!(selector.to_string().parse::<Selector>().ok(), Some(selector));
            }
        }
    }
}
