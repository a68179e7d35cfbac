//! When to try again, and how long to wait first.

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

/// The pause a server asks for, in the form of seconds (RFC 9110 10.2.3). A date is not
/// followed: it would tie the pause to this machine's clock.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

/// The pause after try number `attempt` (from 1), or `None` when there is to be no other try.
pub(crate) fn pause(
    options: &RegistryOptions,
    attempt: u32,
    asked: Option<Duration>,
) -> Option<Duration> {
    if attempt >= options.tries.max(1) {
        return None;
    }
    let own = options
        .retry_base
        .saturating_mul(1 << (attempt.saturating_sub(1)).min(16))
        .min(PAUSE_MAX);
    match asked {
        Some(asked) if asked > options.retry_after_max => None,
        Some(asked) => Some(asked.max(own)),
        None => Some(own),
    }
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
        assert_eq!(pause(&options, 1, None), Some(Duration::from_millis(500)));
        assert_eq!(pause(&options, 2, None), Some(secs(1)));
        assert_eq!(pause(&options, 39, None), Some(PAUSE_MAX));
        assert_eq!(pause(&options, 40, None), None);
        assert_eq!(pause(&options, 1, Some(secs(7))), Some(secs(7)));
        assert_eq!(pause(&options, 1, Some(secs(61))), None);
        assert_eq!(pause(&options, u32::MAX, None), None);
    }

    #[test]
    fn retry_after_is_seconds() {
        let mut headers = HeaderMap::new();
        assert_eq!(retry_after(&headers), None);
        headers.insert(header::RETRY_AFTER, "3".parse().unwrap());
        assert_eq!(retry_after(&headers), Some(Duration::from_secs(3)));
        headers.insert(
            header::RETRY_AFTER,
            "Wed, 21 Oct 2015 07:28:00 GMT".parse().unwrap(),
        );
        assert_eq!(retry_after(&headers), None);
    }
}
