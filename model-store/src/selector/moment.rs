//! `Moment`: a point in time that a person writes as a date or as a date with a time.

use std::fmt;

use chrono::{DateTime, NaiveDate, NaiveDateTime, SecondsFormat, Utc};

/// A point in time, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(pub(crate) DateTime<Utc>);

impl Moment {
    /// Reads RFC 3339, section 5.6; a date alone is its first moment, and where no zone is given
    /// UTC is meant.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let refuse =
            || "the moment is not a date such as 2026-11-01 or 2026-11-01T12:00:00Z".to_owned();
        // Four digits for the year: the library would take any number of them, and signs.
        let bytes = text.as_bytes();
        let year = bytes.len() >= 10 && bytes[..4].iter().all(u8::is_ascii_digit);
        if !year || bytes[4] != b'-' {
            return Err(refuse());
        }
        let local = |format: &str| NaiveDateTime::parse_from_str(text, format).ok();
        let moment = NaiveDate::parse_from_str(text, "%Y-%m-%d")
            .ok()
            .and_then(|date| date.and_hms_opt(0, 0, 0))
            .or_else(|| local("%Y-%m-%dT%H:%M:%S%.f"))
            .or_else(|| local("%Y-%m-%dT%H:%M"))
            .map(|local| local.and_utc())
            .or_else(|| Some(DateTime::parse_from_rfc3339(text).ok()?.to_utc()));
        moment.map(Self).ok_or_else(refuse)
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_rfc3339_opts(SecondsFormat::AutoSi, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        for (text, canonical) in [
            ("2026-11-01", "2026-11-01T00:00:00Z"),
            ("2026-11-01T05:06", "2026-11-01T05:06:00Z"),
            ("2026-11-01T05:06:07", "2026-11-01T05:06:07Z"),
            ("2026-11-01T05:06:07.5", "2026-11-01T05:06:07.500Z"),
            ("2026-11-01T05:06:07+02:00", "2026-11-01T03:06:07Z"),
            ("2024-02-29", "2024-02-29T00:00:00Z"),
        ] {
            assert_eq!(Moment::parse(text).unwrap().to_string(), canonical);
        }
        for bad in [
            "",
            "2026",
            "2026-02-29",
            "12026-11-01",
            "2026-11-01 05:06:07 x",
            "é2026-11-01",
        ] {
            assert!(Moment::parse(bad).is_err(), "{bad}");
        }
    }
}
