//! How fast a read goes, over its last seconds.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::read::options::{Progress, ProgressSink};

/// How far back the rate looks.
const SPAN: Duration = Duration::from_secs(8);
/// The time between two marks.
const STEP: Duration = Duration::from_millis(500);

/// Calls the sink, if there is one.
pub(super) struct Meter {
    sink: Option<ProgressSink>,
    done: u64,
    total: u64,
    /// Moments of the last seconds, and what was done by then.
    marks: VecDeque<(Instant, u64)>,
}

impl Meter {
    pub(super) fn new(sink: Option<ProgressSink>, from: u64, total: u64) -> Self {
        Self {
            sink,
            done: from,
            total,
            marks: VecDeque::new(),
        }
    }

    pub(super) fn moved(&mut self, path: &Arc<str>, bytes: u64) {
        let Some(sink) = &self.sink else { return };
        let now = Instant::now();
        if self.marks.back().is_none_or(|(at, _)| now - *at >= STEP) {
            self.marks.push_back((now, self.done));
        }
        while self.marks.len() > 2 && self.marks.front().is_some_and(|(at, _)| now - *at > SPAN) {
            self.marks.pop_front();
        }
        self.done += bytes;
        sink(&Progress {
            path: Arc::clone(path),
            done: self.done,
            total: self.total,
            rate: self.rate(now),
        });
    }

    fn rate(&self, now: Instant) -> u64 {
        let Some((since, before)) = self.marks.front() else {
            return 0;
        };
        let millis = (now - *since).as_millis().max(1);
        let rate = u128::from(self.done - before) * 1000 / millis;
        u64::try_from(rate).unwrap_or(u64::MAX)
    }
}
