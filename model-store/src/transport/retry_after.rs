//! How long a store asks to be left alone.

use std::time::Duration;

use http::HeaderMap;
use http::header::{DATE, RETRY_AFTER};

/// The longest pause that is obeyed; after it the store is asked again.
const LONGEST: Duration = Duration::from_mins(1);

/// The pause that an answer asks for: `x-ms-retry-after-ms`, else `Retry-After` in seconds or as a
/// date (RFC 9110, section 10.2.3), which counts from the answer's own `Date`.
pub(super) fn parse(headers: &HeaderMap) -> Option<Duration> {
    let text = |name: &str| headers.get(name)?.to_str().ok().map(str::trim);
    let exact = text("x-ms-retry-after-ms").and_then(|text| text.parse().ok());
    let pause = exact.map(Duration::from_millis).or_else(|| {
        let after = text(RETRY_AFTER.as_str())?;
        let seconds = after.parse().ok().map(Duration::from_secs);
        seconds.or_else(|| {
            let until = httpdate::parse_http_date(after).ok()?;
            let now = httpdate::parse_http_date(text(DATE.as_str())?).ok()?;
            // A moment that has passed asks for nothing.
            Some(until.duration_since(now).unwrap_or_default())
        })
    });
    pause.map(|pause| pause.min(LONGEST))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pause(headers: &[(&'static str, &str)]) -> Option<Duration> {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        parse(&headers.collect())
    }

    #[test]
    fn every_form_is_understood_and_bounded() {
        let seconds = |n| Some(Duration::from_secs(n));
        assert_eq!(pause(&[("retry-after", "7")]), seconds(7));
        assert_eq!(pause(&[("retry-after", "86400")]), seconds(60));
        let both = [("retry-after", "7"), ("x-ms-retry-after-ms", "1500")];
        assert_eq!(pause(&both), Some(Duration::from_millis(1500)));
        let date = ("date", "Sun, 22 Nov 2026 08:00:00 GMT");
        let later = ("retry-after", "Sun, 22 Nov 2026 08:00:09 GMT");
        assert_eq!(pause(&[date, later]), seconds(9));
        let earlier = ("retry-after", "Sun, 22 Nov 2026 07:00:00 GMT");
        assert_eq!(pause(&[date, earlier]), seconds(0));
        assert_eq!(pause(&[later]), None, "no clock to compare it with");
        assert_eq!(pause(&[("retry-after", "soon")]), None);
        assert_eq!(pause(&[]), None);
    }
}
