//! Time as the caller gives it, and as Kubernetes writes it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, SecondsFormat, Utc};

/// Where the time of day comes from.
pub(crate) type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// RFC 3339 in UTC with microseconds: the MicroTime of the Kubernetes API.
pub(crate) fn format(time: SystemTime) -> String {
    DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// Whether the RFC 3339 `text` plus `length` lies before `now`; text that is no time has passed.
pub(crate) fn has_passed(text: &str, length: Duration, now: SystemTime) -> bool {
    let Ok(start) = DateTime::parse_from_rfc3339(text) else {
        return true;
    };
    SystemTime::from(start)
        .checked_add(length)
        .is_none_or(|end| end < now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_trip_and_pass() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_000_001);
        let text = format(start);
        assert_eq!(text, "2023-11-14T22:13:20.000001Z");
        let minute = Duration::from_mins(1);
        assert!(!has_passed(&text, minute, start + minute));
        assert!(has_passed(
            &text,
            minute,
            start + minute + Duration::from_micros(1)
        ));
        assert!(has_passed("yesterday", minute, start));
    }
}
