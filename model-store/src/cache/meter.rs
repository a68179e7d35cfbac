//! Counts the bytes of a fetch, and tells of them now and then.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::options::{FetchEvent, FetchProgress};

/// The time between two reports.
const EVERY: Duration = Duration::from_millis(200);
/// The time over which the rate is smoothed, in seconds.
const SMOOTH: f64 = 3.0;

/// Counts what all files of one fetch do together.
pub(super) struct Meter<'a> {
    sink: &'a (dyn Fn(FetchEvent) + Send + Sync),
    total: u64,
    count: Mutex<Count>,
}

struct Count {
    done: u64,
    /// What came from the store since the last report.
    moved: u64,
    reported: Instant,
    rate: Option<f64>,
    complete: bool,
}

impl<'a> Meter<'a> {
    pub(super) fn new(total: u64, sink: &'a (dyn Fn(FetchEvent) + Send + Sync)) -> Self {
        let count = Count {
            done: 0,
            moved: 0,
            reported: Instant::now(),
            rate: None,
            complete: false,
        };
        let count = Mutex::new(count);
        Self { sink, total, count }
    }

    pub(super) fn tell(&self, event: FetchEvent) {
        (self.sink)(event);
    }

    /// Bytes that were here before.
    pub(super) fn found(&self, bytes: u64) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        count.done += bytes;
    }

    /// Bytes that were counted and are of no use.
    pub(super) fn lost(&self, bytes: u64) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        count.done = count.done.saturating_sub(bytes);
    }

    /// Bytes from the store, after which the file at `path` has `at` of `size`.
    pub(super) fn moved(&self, bytes: u64, path: &str, at: u64, size: u64) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        count.done += bytes;
        count.moved += bytes;
        let elapsed = count.reported.elapsed();
        let complete = count.done >= self.total && !count.complete;
        if elapsed < EVERY && !complete {
            return;
        }
        let rate = smooth(count.rate, count.moved, elapsed);
        count.rate = Some(rate);
        count.moved = 0;
        count.reported = Instant::now();
        count.complete = complete;
        let done = count.done;
        drop(count);
        let left = self.total.saturating_sub(done);
        self.tell(FetchEvent::Progress(FetchProgress {
            path: path.to_owned(),
            file_done: at,
            file_size: size,
            done,
            total: self.total,
            rate,
            eta: eta(left, rate),
        }));
    }
}

/// The rate after `moved` bytes in `elapsed`, where it was `rate` before.
#[expect(
    clippy::cast_precision_loss,
    reason = "a rate needs no more than 52 bits"
)]
fn smooth(rate: Option<f64>, moved: u64, elapsed: Duration) -> f64 {
    let seconds = elapsed.as_secs_f64().max(1e-6);
    let now = moved as f64 / seconds;
    let weight = 1.0 - (-seconds / SMOOTH).exp();
    rate.map_or(now, |before| before + weight * (now - before))
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a forecast needs no more than 52 bits"
)]
fn eta(left: u64, rate: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(left as f64 / rate).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_follows_slowly_and_the_forecast_with_it() {
        let second = Duration::from_secs(1);
        let steady = (0..60).fold(None, |rate, _| Some(smooth(rate, 100, second)));
        assert!((steady.unwrap() - 100.0).abs() < 1e-6);
        let halved = smooth(steady, 50, second);
        assert!(halved > 75.0 && halved < 100.0, "{halved}");
        assert_eq!(eta(500, 100.0), Some(Duration::from_secs(5)));
        assert_eq!(eta(500, 0.0), None);
        assert_eq!(eta(0, 0.0), None);
        assert_eq!(eta(0, 1.0), Some(Duration::ZERO));
    }

    #[test]
    fn reports_come_now_and_then_and_at_the_end() {
        let events = Mutex::new(Vec::new());
        let sink = |event| events.lock().unwrap().push(event);
        let begin = Instant::now();
        let meter = Meter::new(1100, &sink);
        meter.found(100);
        for at in 1..=1000 {
            meter.moved(1, "f", at, 1000);
        }
        let most = begin.elapsed().as_millis() / EVERY.as_millis() + 1;
        let events = events.into_inner().unwrap();
        assert!(events.len() as u128 <= most, "{events:?}");
        let Some(FetchEvent::Progress(last)) = events.last() else {
            unreachable!("{events:?}");
        };
        assert_eq!((last.done, last.total, last.file_done), (1100, 1100, 1000));
        assert_eq!(last.eta, Some(Duration::ZERO));
    }
}
