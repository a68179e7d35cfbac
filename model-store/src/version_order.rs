//! The order of versions: semantic versions by their rules, other names in natural order.

use std::cmp::Ordering;

use crate::names::check_version;

/// So many digits in a row are a date or a timestamp, and no version counts so far.
const TIMESTAMP: usize = 8;

/// How versions are named.
#[derive(Debug, PartialEq, Eq)]
enum Scheme {
    /// `1.4.2`, `v3`: by the rules of semantic versions.
    Numbers,
    /// `2026-01-31` or `run-9`: the same text around numbers, each written `#`.
    Shape(String),
}

/// Whether the versions have a common order: all are numbers, or all have the same shape.
pub(crate) fn is_one_scheme(versions: &[String]) -> bool {
    let mut schemes = versions.iter().map(|version| Key::new(version).scheme());
    let first = schemes.next();
    schemes.all(|scheme| Some(&scheme) == first.as_ref())
}

/// Whether a folder of this name, beside others, is a version and not a part of a model: numbers,
/// dates and timestamps are.
pub(crate) fn looks_like_version(name: &str) -> bool {
    let is_date = || {
        let starts = name.starts_with(|c: char| c.is_ascii_digit());
        starts && shape(name).chars().all(|c| "#-_.+TZ".contains(c))
    };
    check_version(name).is_ok() && (Key::new(name).is_numbered() || is_date())
}

/// A version split for comparison; borrows the text it was made from.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Key<'a> {
    text: &'a str,
    /// `1.4.2` split at the dots; empty when the name does not start with such numbers.
    numbers: Vec<&'a str>,
    pre_release: Option<&'a str>,
}

impl<'a> Key<'a> {
    /// Splits `text`: an optional `v`, dotted numbers, `-pre.release`, `+build`.
    ///
    /// What follows `-` is a pre-release when three numbers stand before it (semver.org section 9)
    /// or when it starts with a letter; so `2026-01-31` is a name in natural order, not a
    /// pre-release of 2026.
    pub(crate) fn new(text: &'a str) -> Self {
        let plain = Self {
            text,
            numbers: Vec::new(),
            pre_release: None,
        };
        let core = text.split_once('+').map_or(text, |(core, _)| core);
        let core = core.strip_prefix(['v', 'V']).unwrap_or(core);
        let (numbers, pre_release) = match core.split_once('-') {
            Some((numbers, pre)) => (numbers, Some(pre)),
            None => (core, None),
        };
        let numbers: Vec<&str> = numbers.split('.').collect();
        let all_digits = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !numbers.iter().all(all_digits) {
            return plain;
        }
        let starts_with_letter = |pre: &str| pre.starts_with(|c: char| c.is_ascii_alphabetic());
        match pre_release {
            Some(pre) if numbers.len() != 3 && !starts_with_letter(pre) => plain,
            _ => Self {
                text,
                numbers,
                pre_release,
            },
        }
    }

    /// Whether the version is numbered, and so has a place in the order of semantic versions.
    fn is_numbered(&self) -> bool {
        !self.numbers.is_empty()
    }

    /// What the version has in common with those it can be compared with.
    fn scheme(&self) -> Scheme {
        match self.numbers.as_slice() {
            [one] if one.len() >= TIMESTAMP => Scheme::Shape("#".into()),
            [] => Scheme::Shape(shape(self.text)),
            _ => Scheme::Numbers,
        }
    }

    /// Whether the version is marked as not yet released, such as `2.0.0-rc.1`.
    pub(crate) fn is_pre_release(&self) -> bool {
        self.pre_release.is_some()
    }
}

impl Ord for Key<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        // Names come before numbers, so that the order is total even for mixed schemes.
        let by_scheme = self.is_numbered().cmp(&other.is_numbered());
        by_scheme
            .then_with(|| compare_numbers(&self.numbers, &other.numbers))
            .then_with(|| match (self.pre_release, other.pre_release) {
                (None, None) => Ordering::Equal,
                (None, Some(_)) => Ordering::Greater,
                (Some(_), None) => Ordering::Less,
                (Some(a), Some(b)) => compare_pre_releases(a, b),
            })
            .then_with(|| compare_natural(self.text, other.text))
            .then_with(|| self.text.cmp(other.text))
    }
}

impl PartialOrd for Key<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Sorts versions from lowest to highest.
pub(crate) fn sort(versions: &mut [String]) {
    versions.sort_by(|a, b| Key::new(a).cmp(&Key::new(b)));
}

/// Compares digits of any length without a number type: by length, then by text.
fn compare_digits(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

/// Compares dotted numbers; a missing one counts as zero, so that `1.2` equals `1.2.0` here.
fn compare_numbers(a: &[&str], b: &[&str]) -> Ordering {
    (0..a.len().max(b.len()))
        .map(|at| compare_digits(a.get(at).unwrap_or(&"0"), b.get(at).unwrap_or(&"0")))
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
}

/// semver.org section 11.4: numbers before letters, numbers by value, letters by ASCII, and a
/// longer list after its own prefix.
fn compare_pre_releases(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.split('.'), b.split('.'));
    loop {
        let order = match (a.next(), b.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(a), Some(b)) => {
                let number =
                    |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
                match (number(a), number(b)) {
                    (true, true) => compare_digits(a, b),
                    (true, false) => Ordering::Less,
                    (false, true) => Ordering::Greater,
                    (false, false) => a.cmp(b),
                }
            }
        };
        if order.is_ne() {
            return order;
        }
    }
}

/// Compares texts with the runs of digits in them taken as numbers: `run9` before `run10`.
fn compare_natural(mut a: &str, mut b: &str) -> Ordering {
    while !a.is_empty() && !b.is_empty() {
        let (run_a, run_b) = (digits(a), digits(b));
        let order = if run_a.is_empty() || run_b.is_empty() {
            let (char_a, char_b) = (a.chars().next(), b.chars().next());
            let step =
                |text: &mut &str| *text = &text[text.chars().next().map_or(0, char::len_utf8)..];
            step(&mut a);
            step(&mut b);
            char_a.cmp(&char_b)
        } else {
            a = &a[run_a.len()..];
            b = &b[run_b.len()..];
            compare_digits(run_a, run_b)
        };
        if order.is_ne() {
            return order;
        }
    }
    a.len().cmp(&b.len())
}

/// A text with every run of digits written as `#`.
fn shape(text: &str) -> String {
    let mut shape = String::new();
    for c in text.chars() {
        let c = if c.is_ascii_digit() { '#' } else { c };
        if c != '#' || !shape.ends_with('#') {
            shape.push(c);
        }
    }
    shape
}

fn digits(text: &str) -> &str {
    let end = text
        .bytes()
        .position(|b| !b.is_ascii_digit())
        .unwrap_or(text.len());
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sorted(mut versions: Vec<&str>) -> Vec<String> {
        versions.reverse();
        let mut versions: Vec<String> = versions.into_iter().map(str::to_owned).collect();
        sort(&mut versions);
        versions
    }

    #[test]
    fn ladders() {
        for ladder in [
            vec!["v1", "v2", "v9", "v10"],
            vec![
                "1.0.0-alpha",
                "1.0.0-alpha.1",
                "1.0.0-beta.2",
                "1.0.0-beta.11",
                "1.0.0-rc.1",
                "1.0.0",
            ],
            vec!["1.2", "1.2.1", "1.10", "2"],
            vec!["2025-12-31", "2026-01-02", "2026-01-10"],
            vec!["run-9", "run-10", "1.0.0"],
            vec!["99999999999999999999998", "99999999999999999999999"],
        ] {
            assert_eq!(sorted(ladder.clone()), ladder);
        }
    }

    #[test]
    fn pre_releases() {
        for (version, pre, numbered) in [
            ("1.0.0", false, true),
            ("1.0.0-rc.1", true, true),
            ("1.0.0-1", true, true),
            ("1.0-rc1", true, true),
            ("v3", false, true),
            ("2026-01-02", false, false),
            ("champion", false, false),
            ("1.0.0+build-5", false, true),
        ] {
            let key = Key::new(version);
            assert_eq!(
                (key.is_pre_release(), key.is_numbered()),
                (pre, numbered),
                "{version}"
            );
        }
    }

    #[test]
    fn only_versions_of_one_scheme_have_an_order() {
        for (versions, one) in [
            (vec!["1.0.0", "v2", "3"], true),
            (vec!["2026-01-31", "2026-02-01"], true),
            (vec!["20260131", "20260201"], true),
            (vec!["20260131T1200", "20260201T0900"], true),
            (vec!["run-9", "run-10"], true),
            (vec!["champion"], true),
            (vec![], true),
            (vec!["1.0.0", "20260131"], false),
            (vec!["20260131", "2026-01-31"], false),
            (vec!["1.0.0", "2026-01-31"], false),
            (vec!["run-9", "run-x"], false),
            (vec!["champion", "baseline"], false),
        ] {
            let names: Vec<String> = versions.iter().map(|&v| v.to_owned()).collect();
            assert_eq!(is_one_scheme(&names), one, "{versions:?}");
        }
    }

    #[test]
    fn folders_that_are_versions() {
        for name in [
            "1",
            "v2",
            "1.4.2",
            "2026-01-31",
            "1.0.0-rc.1",
            "20260131T0100Z",
            "2026-01-31_12-00",
        ] {
            assert!(looks_like_version(name), "{name}");
        }
        for name in [
            "variables",
            "run-9",
            "vocab",
            "",
            "1 2",
            "onnx",
            "v",
            "\u{661}",
        ] {
            assert!(!looks_like_version(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_semver(
            a in "(0|[1-9][0-9]{0,2})\\.(0|[1-9])\\.(0|[1-9][0-9]?)(-(alpha|rc|[1-9])(\\.(x|[1-9][0-9]?))?)?",
            b in "(0|[1-9][0-9]{0,2})\\.(0|[1-9])\\.(0|[1-9][0-9]?)(-(alpha|rc|[1-9])(\\.(x|[1-9][0-9]?))?)?",
        ) {
            let expected = semver::Version::parse(&a).unwrap().cmp(&semver::Version::parse(&b).unwrap());
            prop_assert_eq!(Key::new(&a).cmp(&Key::new(&b)), expected);
        }

        #[test]
        fn is_a_total_order(a in "[v0-9a-b.+-]{0,8}", b in "[v0-9a-b.+-]{0,8}", c in "[v0-9a-b.+-]{0,8}") {
            let (x, y, z) = (Key::new(&a), Key::new(&b), Key::new(&c));
            prop_assert_eq!(x.cmp(&y), y.cmp(&x).reverse());
            prop_assert_eq!(x.cmp(&y).is_eq(), a == b);
            if x <= y && y <= z {
                prop_assert!(x <= z);
            }
        }
    }
}
