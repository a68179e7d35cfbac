//! Times as text (RFC 3339, section 5.6).

use chrono::DateTime;

/// Whether `text` is a date and time with its offset, such as `1970-01-01T00:00:01Z`. The `T` is
/// wanted, although RFC 3339 lets applications agree on a space: registries and readers do not.
pub(crate) fn is_rfc3339(text: &str) -> bool {
    matches!(text.as_bytes().get(10), Some(b'T' | b't'))
        && DateTime::parse_from_rfc3339(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_from_others() {
        for text in [
            "1970-01-01T00:00:01Z",
            "2024-02-29t23:59:60.123456789z",
            "2026-11-22T04:00:00+05:30",
        ] {
            assert!(is_rfc3339(text), "{text}");
        }
        for text in [
            "",
            "1970-01-01",
            "1970-01-01T00:00:01",
            "1970-01-01 00:00:01Z",
            "2023-02-29T00:00:00Z",
            "1970-13-01T00:00:00Z",
            "1970-01-01T24:00:00Z",
            "1970-01-01T00:00:00.Z",
            "1970-01-01T00:00:00+0530",
            "1970-01-01T00:00:00Zx",
            "+970-01-01T00:00:00Z",
        ] {
            assert!(!is_rfc3339(text), "{text}");
        }
    }
}
