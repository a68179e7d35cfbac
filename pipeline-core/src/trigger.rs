//! What starts a run: a person, a new commit, a new model version, the schedule.

use std::fmt;
use std::str::FromStr as _;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use croner::Cron;
use serde::{Deserialize, Serialize};

use crate::config::WatchConfig;

/// What started a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Trigger {
    /// A person or a pipeline asked.
    Manual {
        /// Whether a release that failed before is tried again.
        retry: bool,
    },
    /// The branch points to this commit now.
    Commit(String),
    /// The selector points to this model version now.
    Model(String),
    /// The schedule came due at this moment.
    Schedule(DateTime<Utc>),
}

impl Trigger {
    /// A run that is asked for now.
    pub const fn now() -> Self {
        Self::Manual { retry: false }
    }

    /// A run that is asked for now and tries a release again that failed before.
    pub const fn retry() -> Self {
        Self::Manual { retry: true }
    }

    pub(crate) const fn retries(&self) -> bool {
        matches!(self, Self::Manual { retry: true })
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manual { .. } => f.write_str("asked for"),
            Self::Commit(id) => write!(f, "new commit {}", id.get(..12).unwrap_or(id)),
            Self::Model(version) => write!(f, "new model version {version}"),
            Self::Schedule(at) => write!(f, "schedule of {at}"),
        }
    }
}

/// A cron expression in a time zone (crontab(5): five fields; days are matched by local time).
#[derive(Clone, Debug)]
pub struct Schedule {
    cron: Cron,
    zone: Tz,
}

impl Schedule {
    /// Parses `cron` for `zone`, an IANA name; UTC where there is none.
    ///
    /// # Errors
    /// What is wrong with the expression or the zone, in words.
    pub fn parse(cron: &str, zone: Option<&str>) -> Result<Self, String> {
        let zone = zone.unwrap_or("UTC");
        Ok(Self {
            cron: Cron::from_str(cron)
                .map_err(|e| format!("`{cron}` is not a cron expression: {e}"))?,
            zone: zone
                .parse()
                .map_err(|_| format!("`{zone}` is not an IANA time zone such as Europe/Berlin"))?,
        })
    }

    /// The schedule of a configuration, where it has one.
    ///
    /// # Errors
    /// As [`Schedule::parse`].
    pub fn from_config(watch: &WatchConfig) -> Result<Option<Self>, String> {
        match &watch.schedule {
            None => Ok(None),
            Some(cron) => Self::parse(cron, watch.timezone.as_deref()).map(Some),
        }
    }

    /// The first moment after `after` that the schedule names. A local time that a change of
    /// the clocks skips or repeats comes due once.
    pub fn next(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let local = after.with_timezone(&self.zone);
        self.cron
            .find_next_occurrence(&local, false)
            .ok()
            .map(|next| next.with_timezone(&Utc))
    }
}

/// What is wrong with the schedule of a configuration.
pub(crate) fn schedule_problem(watch: &WatchConfig) -> Option<(&'static str, String)> {
    if watch.schedule.is_none() && watch.timezone.is_some() {
        return Some((
            "watch.timezone",
            "a time zone needs a `schedule`".to_owned(),
        ));
    }
    Schedule::from_config(watch)
        .err()
        .map(|problem| ("watch.schedule", problem))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn a_nightly_schedule_follows_its_time_zone() {
        let nightly = Schedule::parse("0 2 * * *", Some("Europe/Berlin")).unwrap();
        assert_eq!(
            nightly.next(at("2026-01-10T12:00:00Z")),
            Some(at("2026-01-11T01:00:00Z"))
        );
        assert_eq!(
            nightly.next(at("2026-07-10T12:00:00Z")),
            Some(at("2026-07-11T00:00:00Z"))
        );
        assert_eq!(
            nightly.next(at("2026-07-11T00:00:00Z")),
            Some(at("2026-07-12T00:00:00Z"))
        );
    }

    #[test]
    fn the_night_the_clocks_change_has_one_run() {
        // 2026-03-29 02:00 to 03:00 does not exist in Berlin; on 2026-10-25 it exists twice.
        for day in ["2026-03-28T12:00:00Z", "2026-10-24T12:00:00Z"] {
            let nightly = Schedule::parse("30 2 * * *", Some("Europe/Berlin")).unwrap();
            let first = nightly.next(at(day)).unwrap();
            let second = nightly.next(first).unwrap();
            assert!(
                second - first > chrono::TimeDelta::hours(12),
                "{first} {second}"
            );
        }
    }

    #[test]
    fn nonsense_is_refused_in_words() {
        assert!(
            Schedule::parse("every night", None)
                .unwrap_err()
                .contains("cron")
        );
        assert!(
            Schedule::parse("0 2 * * *", Some("Nowhere"))
                .unwrap_err()
                .contains("IANA")
        );
    }

    proptest! {
        #[test]
        fn the_next_moment_lies_ahead(seconds in 0i64..4_000_000_000, minute in 0u8..60, hour in 0u8..24) {
            let schedule = Schedule::parse(&format!("{minute} {hour} * * *"), Some("America/New_York")).unwrap();
            let now = DateTime::from_timestamp(seconds, 0).unwrap();
            let next = schedule.next(now).unwrap();
            prop_assert!(next > now);
            prop_assert!(next - now < chrono::TimeDelta::hours(50));
        }
    }
}
