//! How long a token lives, from what its issuer says of it; no clock of this machine is read.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::DateTime;
use serde::Deserialize;

/// A token without a stated life lives this long (distribution token specification).
pub(crate) const DEFAULT: Duration = Duration::from_mins(1);
/// No stated life is believed beyond this.
const MAX: Duration = Duration::from_hours(24);
/// A token is renewed this long before it expires, so that it does not expire on the way.
const SKEW: Duration = Duration::from_secs(30);
/// A longer token is not looked into.
const JWT_MAX: usize = 64 << 10;

/// What the issuer's answer says about time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stated<'a> {
    /// `expires_in`, in seconds since `issued_at`.
    pub(crate) expires_in: Option<u64>,
    /// `issued_at` (RFC 3339); an issuer may hand out a token that is older than its answer.
    pub(crate) issued_at: Option<&'a str>,
    /// The `Date` header of the answer: now, by the clock that `issued_at` was read from.
    pub(crate) date: Option<&'a str>,
}

/// The life `token` has left when its issuer answers, if that is known.
pub(crate) fn left(stated: Stated<'_>, token: &str) -> Option<Duration> {
    // Zero stands for "not stated" at some issuers.
    let whole = stated.expires_in.filter(|seconds| *seconds > 0);
    match whole {
        Some(seconds) => {
            let age = age(stated).unwrap_or_default();
            Some(Duration::from_secs(seconds).min(MAX).saturating_sub(age))
        }
        None => of_jwt(token),
    }
}

/// How long a token that lives `life` may be used: shorter by 30 s, or by half when it lives
/// less than a minute.
pub(crate) fn usable(life: Duration) -> Duration {
    life.saturating_sub(SKEW.min(life / 2))
}

fn age(stated: Stated<'_>) -> Option<Duration> {
    let issued = DateTime::parse_from_rfc3339(stated.issued_at?).ok()?;
    let now = httpdate::parse_http_date(stated.date?).ok()?;
    now.duration_since(issued.into()).ok()
}

#[derive(Deserialize)]
struct Claims {
    exp: f64,
    iat: f64,
}

/// The whole life of a JSON web token, by its own claims (RFC 7519 4.1). They are not verified:
/// a wrong one costs an early or a late renewal, nothing else.
fn of_jwt(token: &str) -> Option<Duration> {
    if token.len() > JWT_MAX {
        return None;
    }
    let payload = token.split('.').nth(1)?;
    let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    let seconds = claims.exp - claims.iat;
    (seconds > 0.0).then(|| Duration::from_secs_f64(seconds.min(MAX.as_secs_f64())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn jwt(claims: &str) -> String {
        format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn short_lives_are_not_taken_for_long_ones() {
        assert_eq!(usable(seconds(20)), seconds(10));
        assert_eq!(usable(seconds(60)), seconds(30));
        assert_eq!(usable(seconds(300)), seconds(270));
        assert_eq!(usable(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn the_answer_comes_before_the_claims() {
        let stated = Stated {
            expires_in: Some(20),
            ..Stated::default()
        };
        let token = jwt(r#"{"iat":1000,"exp":4600}"#);
        assert_eq!(left(stated, &token), Some(seconds(20)));
        assert_eq!(left(Stated::default(), &token), Some(seconds(3600)));
        assert_eq!(left(Stated::default(), "opaque"), None);
        assert_eq!(left(Stated::default(), &jwt(r#"{"iat":9,"exp":1}"#)), None);
        let huge = jwt(r#"{"iat":0,"exp":1e300}"#);
        assert_eq!(left(Stated::default(), &huge), Some(MAX));
    }

    #[test]
    fn an_old_token_has_less_to_live() {
        let stated = Stated {
            expires_in: Some(300),
            issued_at: Some("2026-11-22T10:00:00Z"),
            date: Some("Sun, 22 Nov 2026 10:04:00 GMT"),
        };
        assert_eq!(left(stated, ""), Some(seconds(60)));
        let later = Stated {
            issued_at: Some("2026-11-22T11:00:00Z"),
            ..stated
        };
        assert_eq!(left(later, ""), Some(seconds(300)), "issued in the future");
        let dead = Stated {
            date: Some("Sun, 22 Nov 2026 12:00:00 GMT"),
            ..stated
        };
        assert_eq!(left(dead, ""), Some(Duration::ZERO));
    }

    proptest! {
        #[test]
        fn anything_an_issuer_says_is_bounded(
            expires_in in proptest::option::of(any::<u64>()),
            issued_at in proptest::option::of(".{0,40}"),
            date in proptest::option::of(".{0,40}"),
            claims in ".{0,80}",
        ) {
            let stated = Stated {
                expires_in,
                issued_at: issued_at.as_deref(),
                date: date.as_deref(),
            };
            for token in [jwt(&claims), claims] {
                let life = left(stated, &token).unwrap_or(DEFAULT);
                prop_assert!(life <= MAX && usable(life) <= life);
            }
        }
    }
}
