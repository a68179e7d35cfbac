//! When to try again, and when to give up: only after several tries in a row without progress.

use std::time::Duration;

use crate::error::Result;
use crate::read::source::Failure;

/// Failures in a row after which a part is given up.
const TRIES: u32 = 6;
/// Refusals in a row, because of too many requests, after which a part is given up.
const REFUSALS: u32 = 20;
/// What a request must have brought to count as progress, in bytes, or an eighth of a smaller
/// part: a store that sends one byte per request is not asked for ever.
const PROGRESS: u64 = 16 << 10;
/// The longest pause between two tries.
const LONGEST: Duration = Duration::from_secs(10);

/// The failures of one part since something came.
pub(super) struct Patience {
    failures: u32,
    refusals: u32,
    progress: u64,
    /// Spreads the tries of parts that failed together.
    number: u64,
}

impl Patience {
    /// For part `number`, of `length` bytes.
    pub(super) fn new(number: u64, length: u64) -> Self {
        Self {
            failures: 0,
            refusals: 0,
            progress: PROGRESS.min(length / 8).max(1),
            number,
        }
    }

    /// The pause before the next try, after a request that brought `gained` bytes and then failed.
    pub(super) fn after(&mut self, failure: Failure, gained: u64) -> Result<Duration> {
        if !failure.error.is_retryable() {
            return Err(failure.error);
        }
        if gained >= self.progress {
            (self.failures, self.refusals) = (0, 0);
        }
        if failure.throttled {
            self.refusals += 1;
        } else {
            self.failures += 1;
        }
        if self.failures >= TRIES || self.refusals >= REFUSALS {
            return Err(failure.error);
        }
        let before = self.failures + self.refusals - 1;
        let pause = Duration::from_millis(100) * 2_u32.pow(before.min(10));
        let spread = u32::try_from(self.number % 8).unwrap_or(0);
        Ok(pause.min(LONGEST) / 16 * (16 + spread))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, ErrorKind};

    fn failure(kind: ErrorKind, throttled: bool) -> Failure {
        Failure {
            error: Error::new(kind, "read", "object", "failed"),
            throttled,
        }
    }

    #[test]
    fn progress_makes_good_for_failures_and_final_errors_are_final() {
        let mut patience = Patience::new(0, 1 << 20);
        let lost = || failure(ErrorKind::Unreachable, false);
        for _ in 0..1000 {
            assert!(patience.after(lost(), PROGRESS).is_ok());
        }
        let tries = (0..100)
            .take_while(|_| patience.after(lost(), PROGRESS - 1).is_ok())
            .count();
        assert_eq!(tries, 4);
        let mut patience = Patience::new(7, 0);
        let refused = || failure(ErrorKind::Unreachable, true);
        let tries = (0..100)
            .take_while(|_| patience.after(refused(), 0).is_ok())
            .count();
        assert_eq!(tries, 19);
        let changed = failure(ErrorKind::Changed, false);
        assert!(Patience::new(0, 1).after(changed, u64::MAX).is_err());
    }
}
