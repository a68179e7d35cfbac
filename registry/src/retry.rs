//! When to try again, and how long to wait first.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::time::Duration;

use http::{HeaderMap, StatusCode, header};

use crate::options::RegistryOptions;

/// The longest pause of our own choosing.
const PAUSE_MAX: Duration = Duration::from_secs(20);

/// Whether an answer with this status may be different next time.
pub(crate) fn is_transient(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        408 | 425 | 429 | 500 | 502 | 503 | 504 | 522
    )
}

/// The pause a server asks for (RFC 9110 10.2.3): in seconds, or as a date. A date is measured
/// against the `Date` of the same answer, so that this machine's clock plays no part; without
/// one it is ignored.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
    let asked = text(header::RETRY_AFTER)?;
    if let Ok(seconds) = asked.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(asked).ok()?;
    let now = httpdate::parse_http_date(text(header::DATE)?).ok()?;
    Some(until.duration_since(now).unwrap_or_default())
}

/// The pause after try number `attempt` (from 1), or `None` when there is to be no other try.
pub(crate) fn pause(
    options: &RegistryOptions,
    attempt: u32,
    asked: Option<Duration>,
) -> Option<Duration> {
    pause_at(options, attempt, asked, random())
}

/// [`pause`] with the random number given: half of the pause is fixed, half is chance, so that
/// clients that failed together do not come back together. What the server asks for is a lower
/// bound.
pub(crate) fn pause_at(
    options: &RegistryOptions,
    attempt: u32,
    asked: Option<Duration>,
    random: u32,
) -> Option<Duration> {
    if attempt >= options.tries.max(1) {
        return None;
    }
    let full = options
        .retry_base
        .saturating_mul(1 << (attempt.saturating_sub(1)).min(16))
        .min(PAUSE_MAX);
    let part = |of: Duration| of.mul_f64(f64::from(random) / f64::from(u32::MAX));
    let own = full / 2 + part(full / 2);
    match asked {
        Some(asked) if asked > options.retry_after_max => None,
        Some(asked) => Some(own.max(asked + part(options.retry_base.min(asked)))),
        None => Some(own),
    }
}

/// A number nobody can foresee; the standard library seeds its hash maps with such.
fn random() -> u32 {
    let bits = RandomState::new().build_hasher().finish();
    u32::try_from(bits >> 32).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_are_bounded_and_honour_the_server() {
        let options = RegistryOptions {
            tries: 40,
            ..RegistryOptions::default()
        };
        let secs = Duration::from_secs;
        let most = |attempt, asked| pause_at(&options, attempt, asked, u32::MAX);
        assert_eq!(most(1, None), Some(Duration::from_millis(500)));
        assert_eq!(most(2, None), Some(secs(1)));
        assert_eq!(most(39, None), Some(PAUSE_MAX));
        assert_eq!(most(40, None), None);
        assert_eq!(most(1, Some(secs(61))), None);
        assert_eq!(most(u32::MAX, None), None);
        let least = |attempt, asked| pause_at(&options, attempt, asked, 0);
        assert_eq!(least(2, None), Some(Duration::from_millis(500)));
        assert_eq!(least(1, Some(secs(7))), Some(secs(7)));
        assert_eq!(most(1, Some(secs(7))), Some(Duration::from_millis(7500)));
        assert_eq!(most(1, Some(secs(0))), Some(Duration::from_millis(500)));
    }

    #[test]
    fn chance_differs() {
        let options = RegistryOptions::default();
        let pauses: Vec<_> = (0..20).map(|_| pause(&options, 3, None)).collect();
        assert!(pauses.iter().any(|pause| pause != &pauses[0]));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date_by_the_servers_clock() {
        let mut headers = HeaderMap::new();
        assert_eq!(retry_after(&headers), None);
        headers.insert(header::RETRY_AFTER, "3".parse().unwrap());
        assert_eq!(retry_after(&headers), Some(Duration::from_secs(3)));
        let date = |text: &str| format!("Wed, 21 Oct 2015 {text} GMT").parse().unwrap();
        headers.insert(header::RETRY_AFTER, date("07:28:09"));
        assert_eq!(retry_after(&headers), None, "no clock to measure it by");
        headers.insert(header::DATE, date("07:28:00"));
        assert_eq!(retry_after(&headers), Some(Duration::from_secs(9)));
        headers.insert(header::DATE, date("07:29:00"));
        assert_eq!(retry_after(&headers), Some(Duration::ZERO), "it has passed");
        headers.insert(header::RETRY_AFTER, "-1".parse().unwrap());
        assert_eq!(retry_after(&headers), None);
    }
}
