//! How many requests to one host pay off: a pure rule, fed with what was measured.

/// The number at the start.
const START: usize = 8;
/// The highest number that is ever tried.
const MOST: usize = 64;
/// Epochs between two tries for more.
const REST: u32 = 12;

/// Additive increase, multiplicative decrease, with doubling at the start.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Growth {
    limit: usize,
    /// Bytes per second with the last number that was found good.
    good: f64,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Twice as many, while that moves much more.
    Doubling,
    /// The number is good; after some epochs one more is tried.
    Resting(u32),
    /// One more was tried, and this epoch says whether it helped.
    Trying,
}

impl Growth {
    pub(super) fn new() -> Self {
        Self {
            limit: START,
            good: 0.0,
            phase: Phase::Doubling,
        }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// An epoch in which all requests were in use moved `rate` bytes per second.
    pub(super) fn measured(&mut self, rate: f64) {
        match self.phase {
            Phase::Doubling if rate >= self.good * 1.4 => self.limit *= 2,
            Phase::Doubling => {
                self.limit = self.limit * 3 / 4;
                self.phase = Phase::Resting(REST);
            }
            Phase::Resting(0) => {
                self.limit += 1;
                self.phase = Phase::Trying;
            }
            Phase::Resting(left) => self.phase = Phase::Resting(left - 1),
            Phase::Trying if rate >= self.good * 1.05 => self.limit += 1,
            Phase::Trying => {
                self.limit -= 1;
                self.phase = Phase::Resting(REST);
            }
        }
        if self.limit >= MOST {
            (self.limit, self.phase) = (MOST, Phase::Resting(REST));
        }
        self.limit = self.limit.max(1);
        self.good = rate;
    }

    /// The host asked for less.
    pub(super) fn throttled(&mut self) {
        self.limit = (self.limit / 2).max(1);
        self.phase = Phase::Resting(REST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The highest number after `epochs`, where each request moves 30 MB/s up to `most` in all.
    fn run(growth: &mut Growth, most: f64, epochs: usize) -> usize {
        for _ in 0..epochs {
            let requests = u32::try_from(growth.limit()).unwrap();
            growth.measured((30e6 * f64::from(requests)).min(most));
        }
        growth.limit()
    }

    #[test]
    fn it_grows_fast_while_that_pays_off_and_stops_when_it_does_not() {
        let mut growth = Growth::new();
        assert_eq!(run(&mut growth, f64::INFINITY, 1), 16);
        assert_eq!(run(&mut growth, f64::INFINITY, 10), MOST);
        let mut growth = Growth::new();
        // 600 MB/s are 20 requests; some more do no harm, 64 would.
        let found = run(&mut growth, 600e6, 40);
        assert!((20..=32).contains(&found), "{found}");
        let before = growth.limit();
        growth.throttled();
        assert_eq!(growth.limit(), before / 2);
        let again = run(&mut growth, 600e6, 400);
        assert!((18..=32).contains(&again), "{again}");
    }

    #[test]
    fn it_never_leaves_its_bounds() {
        let mut growth = Growth::new();
        for _ in 0..20 {
            growth.throttled();
        }
        assert_eq!(growth.limit(), 1);
        for rate in [0.0, 1.0, f64::MAX, 0.0, 0.0] {
            for _ in 0..30 {
                growth.measured(rate);
                assert!((1..=MOST).contains(&growth.limit()));
            }
        }
    }
}
