//! Reads the signed `Release` text of a suite: what it is called, how long it holds, and the
//! digests of its package indexes.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use super::deb822;
use crate::error::{Error, ErrorKind, Result};

const STAGE: &str = "verify release";

/// The facts of a `Release` file that matter here.
#[derive(Debug)]
pub(super) struct Release {
    names: Vec<String>,
    valid_until: Option<String>,
    /// Whether indexes are to be fetched under their digest, which no mirror update can break.
    pub(super) by_hash: bool,
    /// How willingly packages are taken from here: 1 normally, 0 for suites apt never installs
    /// from by itself (`NotAutomatic`).
    pub(super) rank: u8,
    /// Whether packages for all architectures have an index of their own that is to be read too.
    pub(super) separate_all: bool,
    files: HashMap<String, IndexFile>,
}

/// The size and SHA-256 of one index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IndexFile {
    pub(super) path: String,
    pub(super) size: u64,
    pub(super) sha256: String,
}

impl Release {
    /// Parses the text that was signed. `object` names the suite in errors.
    pub(super) fn parse(text: &str, object: &str) -> Result<Self> {
        let invalid = |detail: &str| Error::new(ErrorKind::Invalid, STAGE, object, detail);
        let fields = deb822::parse(text)
            .map_err(|error| invalid("the release text is malformed").with_source(error))?
            .into_iter()
            .next()
            .ok_or_else(|| invalid("the release text is empty"))?;
        let sums = fields
            .get("SHA256")
            .ok_or_else(|| invalid("the release lists no SHA-256 digests"))?;
        let files = sums
            .lines()
            .filter_map(index_file)
            .map(|file| (file.path.clone(), file));
        let no_separate_all = fields
            .words("No-Support-for-Architecture-all")
            .any(|index| index == "Packages");
        Ok(Self {
            names: ["Suite", "Codename"]
                .iter()
                .filter_map(|name| fields.get(name).map(ToOwned::to_owned))
                .collect(),
            valid_until: fields.get("Valid-Until").map(ToOwned::to_owned),
            by_hash: fields.flag("Acquire-By-Hash") == Some(true),
            rank: u8::from(fields.flag("NotAutomatic") != Some(true)),
            separate_all: !no_separate_all
                && fields.words("Architectures").any(|name| name == "all"),
            files: files.collect(),
        })
    }

    /// Checks that this is the suite that was asked for, so that one validly signed suite cannot
    /// be served in place of another.
    pub(super) fn check_name(&self, suite: &str) -> Result<()> {
        let asked = suite.trim_end_matches('/');
        let first = asked.split('/').next().unwrap_or(asked);
        // A flat repository is addressed by directory and need not name itself.
        if suite.ends_with('/') || self.names.iter().any(|name| name == asked || name == first) {
            return Ok(());
        }
        let detail = format!(
            "the signed release calls itself {}",
            self.names.join(" and ")
        );
        Err(Error::new(ErrorKind::Unverified, STAGE, suite, detail)
            .with_hint("name the suite by its `Suite` or `Codename` in the apt sources"))
    }

    /// Checks that the release has not expired at `now`.
    pub(super) fn check_time(&self, suite: &str, now: SystemTime) -> Result<()> {
        let Some(until) = &self.valid_until else {
            return Ok(());
        };
        match parse_date(until) {
            Some(end) if now <= end => Ok(()),
            Some(_) => Err(Error::new(
                ErrorKind::Unverified,
                STAGE,
                suite,
                format!("the release was valid until {until}"),
            )
            .with_hint(
                "use a mirror that is up to date, or set `Check-Valid-Until: no` for a snapshot",
            )),
            None => Err(Error::new(
                ErrorKind::Invalid,
                STAGE,
                suite,
                "`Valid-Until` is no date",
            )),
        }
    }

    /// The smallest form of the index `base` (such as `main/binary-amd64/Packages`) on offer.
    pub(super) fn index(&self, base: &str) -> Option<&IndexFile> {
        [".xz", ".gz", ""]
            .iter()
            .find_map(|suffix| self.files.get(&format!("{base}{suffix}")))
    }
}

fn index_file(line: &str) -> Option<IndexFile> {
    let mut words = line.split_whitespace();
    let (sha256, size, path) = (words.next()?, words.next()?, words.next()?);
    Some(IndexFile {
        path: path.to_owned(),
        size: size.parse().ok()?,
        sha256: is_sha256(sha256).then(|| sha256.to_ascii_lowercase())?,
    })
}

/// Whether `text` is a SHA-256 in hexadecimal, and with that also a safe file name.
pub(super) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Reads `Sat, 10 May 2025 10:01:53 UTC`, the one form of dates in release files.
fn parse_date(text: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let words: Vec<&str> = text.split_whitespace().collect();
    let [_, day, month, year, time, zone] = words[..] else {
        return None;
    };
    if !matches!(zone, "UTC" | "GMT" | "+0000" | "Z") {
        return None;
    }
    let month = MONTHS.iter().position(|name| *name == month)?;
    let (day, year): (u64, u64) = (day.parse().ok()?, year.parse().ok()?);
    if !(1970..=9999).contains(&year) || !(1..=31).contains(&day) {
        return None;
    }
    let clock: Vec<u64> = time
        .split(':')
        .map(str::parse)
        .collect::<Result<_, _>>()
        .ok()?;
    let [hours, minutes, seconds] = clock[..] else {
        return None;
    };
    if hours > 23 || minutes > 59 || seconds > 60 {
        return None;
    }
    let days = days_before(year, month) + day - 1;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(
        days * 86_400 + hours * 3600 + minutes * 60 + seconds,
    ))
}

/// Days from 1970-01-01 to the first of the month (0 is January) in the Gregorian calendar.
fn days_before(year: u64, month: usize) -> u64 {
    const BEFORE: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let leaps = |year: u64| year / 4 - year / 100 + year / 400;
    let leap_day = u64::from(month > 1 && leaps(year) != leaps(year - 1));
    (year - 1970) * 365 + leaps(year - 1) - leaps(1969) + BEFORE[month] + leap_day
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(text: &str) -> Option<u64> {
        Some(
            parse_date(text)?
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap()
                .as_secs(),
        )
    }

    #[test]
    fn dates_count_leap_years() {
        assert_eq!(seconds("Thu, 01 Jan 1970 00:00:01 UTC"), Some(1));
        assert_eq!(
            seconds("Thu, 29 Feb 2024 12:00:00 UTC"),
            Some(1_709_208_000)
        );
        assert_eq!(
            seconds("Sat, 10 May 2025 10:01:53 UTC"),
            Some(1_746_871_313)
        );
        assert_eq!(
            seconds("Tue, 01 Mar 2100 00:00:00 UTC"),
            Some(4_107_542_400)
        );
        assert_eq!(seconds("Sat, 10 May 2025 10:01:53 PST"), None);
    }

    fn release() -> Release {
        let sum = "ab".repeat(32);
        let text = format!(
            "Suite: oldstable\nCodename: bookworm\nArchitectures: all amd64\n\
             No-Support-for-Architecture-all: Packages\nAcquire-By-Hash: yes\n\
             Valid-Until: Sat, 10 May 2025 10:01:53 UTC\n\
             SHA256:\n {sum} 10 main/binary-amd64/Packages\n {sum} 5 main/binary-amd64/Packages.xz\n"
        );
        Release::parse(&text, "bookworm").unwrap()
    }

    #[test]
    fn the_smallest_index_is_taken() {
        let release = release();
        assert!(release.by_hash && !release.separate_all);
        assert_eq!(release.rank, 1);
        assert_eq!(release.index("main/binary-amd64/Packages").unwrap().size, 5);
        assert!(release.index("contrib/binary-amd64/Packages").is_none());
    }

    #[test]
    fn another_suite_and_an_expired_one_are_refused() {
        let release = release();
        for suite in ["bookworm", "oldstable", "bookworm/updates", "./"] {
            release.check_name(suite).unwrap();
        }
        assert_eq!(
            release.check_name("trixie").unwrap_err().kind(),
            ErrorKind::Unverified
        );
        let at = |secs| SystemTime::UNIX_EPOCH + Duration::from_secs(secs);
        release.check_time("bookworm", at(1_746_871_313)).unwrap();
        let late = release
            .check_time("bookworm", at(1_746_871_314))
            .unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Unverified);
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<String>(), date in "[A-Z][a-z]{2}, [0-9]{1,3} [A-Z][a-z]{2} [0-9]{1,5} [0-9:]{1,9} UTC") {
            let _ = Release::parse(&text, "x");
            let _ = parse_date(&date);
        }
    }
}
