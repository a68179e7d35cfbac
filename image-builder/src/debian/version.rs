//! Orders Debian version numbers (Debian Policy 5.6.12).

use std::cmp::Ordering;

/// Compares two versions `[epoch:]upstream[-revision]` as dpkg does.
pub(super) fn compare(left: &str, right: &str) -> Ordering {
    let (left, right) = (Parts::of(left), Parts::of(right));
    compare_digits(left.epoch.as_bytes(), right.epoch.as_bytes())
        .then_with(|| compare_part(left.upstream, right.upstream))
        .then_with(|| compare_part(left.revision, right.revision))
}

/// The upstream part of a version: without epoch, revision and repack suffixes.
pub(super) fn upstream(version: &str) -> &str {
    let upstream = Parts::of(version).upstream;
    upstream.split(['+', '~']).next().unwrap_or(upstream)
}

struct Parts<'a> {
    epoch: &'a str,
    upstream: &'a str,
    revision: &'a str,
}

impl<'a> Parts<'a> {
    fn of(version: &'a str) -> Self {
        let (epoch, rest) = version.split_once(':').unwrap_or(("", version));
        // An absent revision equals revision 0, and so does the empty string below.
        let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
        Self {
            epoch,
            upstream,
            revision,
        }
    }
}

/// Compares alternating runs of non-digits (tilde first, then the end, letters, the rest) and
/// digits (by value).
fn compare_part(left: &str, right: &str) -> Ordering {
    let (mut left, mut right) = (left.as_bytes(), right.as_bytes());
    while !left.is_empty() || !right.is_empty() {
        let (left_text, left_rest) = run(left, false);
        let (right_text, right_rest) = run(right, false);
        let (left_digits, left_rest) = run(left_rest, true);
        let (right_digits, right_rest) = run(right_rest, true);
        let order = compare_text(left_text, right_text)
            .then_with(|| compare_digits(left_digits, right_digits));
        if order.is_ne() {
            return order;
        }
        (left, right) = (left_rest, right_rest);
    }
    Ordering::Equal
}

/// Splits off the leading run of digits or of non-digits.
fn run(text: &[u8], digits: bool) -> (&[u8], &[u8]) {
    let end = text
        .iter()
        .position(|byte| byte.is_ascii_digit() != digits)
        .unwrap_or(text.len());
    text.split_at(end)
}

fn compare_text(left: &[u8], right: &[u8]) -> Ordering {
    (0..left.len().max(right.len()))
        .map(|at| weight(left.get(at)).cmp(&weight(right.get(at))))
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
}

fn weight(byte: Option<&u8>) -> i32 {
    match byte {
        None => 0,
        Some(b'~') => -1,
        Some(letter) if letter.is_ascii_alphabetic() => i32::from(*letter),
        Some(other) => i32::from(*other) + 256,
    }
}

/// Compares by value without a limit on the number of digits.
fn compare_digits(left: &[u8], right: &[u8]) -> Ordering {
    let (left, right) = (significant(left), significant(right));
    left.len().cmp(&right.len()).then_with(|| left.cmp(right))
}

fn significant(digits: &[u8]) -> &[u8] {
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    &digits[zeros..]
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn policy_examples() {
        for (left, right) in [
            ("~~", "~~a"),
            ("~~a", "~"),
            ("~", ""),
            ("", "a"),
            ("1.0~rc1", "1.0"),
            ("1.0", "1.0-1"),
            ("1.9", "1.10"),
            ("9.9", "1:0.1"),
            ("2.36-9+deb12u9", "2.36-9+deb12u10"),
            ("1.0a", "1.0+"),
        ] {
            assert_eq!(compare(left, right), Ordering::Less, "{left} < {right}");
            assert_eq!(compare(right, left), Ordering::Greater, "{right} > {left}");
        }
        assert_eq!(compare("1.0-0", "0:1.00"), Ordering::Equal);
        assert_eq!(upstream("3.11.2-6+deb12u6"), "3.11.2");
        assert_eq!(upstream("1:3.0.11~repack-1"), "3.0.11");
    }

    fn version() -> impl Strategy<Value = String> {
        "([0-9]{1,2}:)?[0-9][0-9a-c.+~]{0,6}(-[0-9a-c.+~]{1,4})?"
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn agrees_with_dpkg(left in version(), right in version()) {
            let operator = match compare(&left, &right) {
                Ordering::Less => "lt",
                Ordering::Equal => "eq",
                Ordering::Greater => "gt",
            };
            // Where there is no dpkg, the property has no reference to agree with.
            if let Ok(status) = Command::new("dpkg").args(["--compare-versions", &left, operator, &right]).status() {
                prop_assert!(status.success(), "{left} {operator} {right}");
            }
        }

        #[test]
        fn is_antisymmetric(left in any::<String>(), right in any::<String>()) {
            prop_assert_eq!(compare(&left, &right), compare(&right, &left).reverse());
        }
    }
}
