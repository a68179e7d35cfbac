//! `Range`: a range of semantic versions, over version names as people write them.

use std::fmt;

use semver::{Version, VersionReq};

/// A range of semantic versions, in the syntax and with the meaning of Cargo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Range(VersionReq);

impl Range {
    /// Whether `text` can only be a range: it has a character that no version has.
    pub(crate) fn is_meant(text: &str) -> bool {
        text.contains(['^', '~', '<', '>', '=', '*', ','])
    }

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        // An empty requirement would be any version, which has a name: `*`.
        if text.trim().is_empty() {
            return Err("the range is empty".into());
        }
        VersionReq::parse(text)
            .map(Self)
            .map_err(|error| format!("the range cannot be read: {error}"))
    }

    /// The range in `1.x` or `1.2.x`, which could be the name of a version.
    pub(crate) fn of_name(text: &str) -> Option<Self> {
        let (numbers, last) = text.rsplit_once('.')?;
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let wild = matches!(last, "x" | "X") && numbers.split('.').all(digits);
        wild.then(|| Self::parse(text).ok()).flatten()
    }

    /// Whether the version called `name` is in the range. Names that are no semantic versions are
    /// in no range.
    pub(crate) fn contains(&self, name: &str) -> bool {
        semantic(name).is_some_and(|version| self.0.matches(&version))
    }
}

/// The semantic version in a name: `v` before it and missing numbers are allowed, `1.2` is `1.2.0`.
fn semantic(name: &str) -> Option<Version> {
    let name = name.strip_prefix(['v', 'V']).unwrap_or(name);
    let end = name.find(['-', '+']).unwrap_or(name.len());
    let (core, rest) = name.split_at(end);
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let mut numbers: Vec<u64> = core
        .split('.')
        .map(|part| part.parse().ok().filter(|_| digits(part)))
        .collect::<Option<_>>()?;
    if numbers.len() > 3 {
        return None;
    }
    numbers.resize(3, 0);
    Version::parse(&format!(
        "{}.{}.{}{rest}",
        numbers[0], numbers[1], numbers[2]
    ))
    .ok()
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_string().replace(", ", ","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_over_names() {
        for (range, inside, outside) in [
            (
                "^1.4",
                vec!["1.4.0", "v1.9", "1.4.0+b1"],
                vec!["2.0.0", "1.3.9", "1.5.0-rc.1"],
            ),
            ("~2.0", vec!["2.0", "2.0.9"], vec!["2.1.0", "run-2"]),
            (">=1.2,<2", vec!["1.2", "1.99.0"], vec!["2", "1.1.9"]),
            (
                "1.*",
                vec!["1", "1.7.3"],
                vec!["2.0.0", "champion", "1.2.3.4"],
            ),
            (
                ">=2.0.0-rc.1",
                vec!["2.0.0-rc.2", "2.0.0"],
                vec!["2.1.0-rc.1", "2.0.0-beta"],
            ),
            ("*", vec!["0.1.0"], vec!["1.0.0-a", "2026-01-02"]),
        ] {
            let range = Range::parse(range).unwrap();
            for name in inside {
                assert!(range.contains(name), "{range} {name}");
            }
            for name in outside {
                assert!(!range.contains(name), "{range} {name}");
            }
        }
    }

    #[test]
    fn a_name_may_be_a_range() {
        assert_eq!(Range::of_name("1.x").unwrap().to_string(), "1.*");
        assert_eq!(Range::of_name("1.2.X").unwrap().to_string(), "1.2.*");
        for name in ["1.2", "x", "v1.x", "1.xx", "x.1"] {
            assert_eq!(Range::of_name(name), None, "{name}");
        }
    }
}
