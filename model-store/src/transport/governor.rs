//! One governor per host: how many requests run at once, when to pause, and how fast parts come.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::growth::Growth;

/// The shortest time over which a rate is measured.
const EPOCH: Duration = Duration::from_millis(150);
/// Refusals within this time are one event: they answer requests that were sent together.
const ONE_EVENT: Duration = Duration::from_millis(500);
/// Parts whose speed is remembered.
const REMEMBERED: usize = 64;
/// Of so many requests one may be a duplicate.
const PER_DUPLICATE: u64 = 20;
/// The least that a duplicate waits for.
const PATIENT: Duration = Duration::from_secs(2);

/// The governors of this process by host. What a host bears, and what the line to it carries, is
/// a fact about the process and not about one store: stores that were opened apart from each other
/// have to share it. A governor goes with the last store that uses it.
static BY_HOST: LazyLock<Mutex<HashMap<String, Weak<Governor>>>> = LazyLock::new(Mutex::default);

/// What is known about one host, and the right to send requests to it.
#[derive(Debug)]
pub(crate) struct Governor {
    slots: Arc<Semaphore>,
    moved: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The adaptive number of slots; none where the number is fixed.
    growth: Option<Growth>,
    limit: usize,
    /// Slots to take out of use when they come back.
    owed: usize,
    /// Whether all slots were in use at some time of this epoch.
    full: bool,
    epoch: Option<Instant>,
    paused_until: Option<Instant>,
    halved_at: Option<Instant>,
    requests: u64,
    duplicates: u64,
    /// The last parts: seconds, and bytes per second.
    seconds: VecDeque<f64>,
    rates: VecDeque<f64>,
}

/// The right to have one request running.
#[derive(Debug)]
pub(crate) struct Slot {
    governor: Arc<Governor>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Governor {
    /// The governor of `host`, shared by all stores of the process.
    pub(crate) fn of(host: &str) -> Arc<Self> {
        let mut hosts = BY_HOST.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.retain(|_, governor| governor.strong_count() > 0);
        if let Some(governor) = hosts.get(host).and_then(Weak::upgrade) {
            return governor;
        }
        let governor = Self::adaptive();
        hosts.insert(host.to_owned(), Arc::downgrade(&governor));
        governor
    }

    /// A governor of its own, which finds out how many requests pay off.
    pub(crate) fn adaptive() -> Arc<Self> {
        let growth = Growth::new();
        Self::new(growth.limit(), Some(growth))
    }

    /// A governor of this machine's own storage, where more requests are never faster.
    pub(crate) fn fixed(limit: usize) -> Arc<Self> {
        Self::new(limit, None)
    }

    fn new(limit: usize, growth: Option<Growth>) -> Arc<Self> {
        Arc::new(Self {
            slots: Arc::new(Semaphore::new(limit)),
            moved: AtomicU64::new(0),
            state: Mutex::new(State {
                growth,
                limit,
                owed: 0,
                full: false,
                epoch: None,
                paused_until: None,
                halved_at: None,
                requests: 0,
                duplicates: 0,
                seconds: VecDeque::new(),
                rates: VecDeque::new(),
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many requests may run now.
    pub(crate) fn limit(&self) -> usize {
        self.state().limit
    }

    /// Whether the number is found out, which it is for hosts and not for this machine.
    pub(crate) fn is_adaptive(&self) -> bool {
        self.state().growth.is_some()
    }

    /// Waits until the host may be asked again.
    pub(crate) async fn pause(&self) {
        loop {
            let until = self.state().paused_until;
            match until {
                Some(until) if until > Instant::now() => tokio::time::sleep_until(until).await,
                _ => return,
            }
        }
    }

    /// Waits for the right to send a request. Who asks first is served first.
    pub(crate) async fn slot(self: &Arc<Self>) -> Slot {
        self.pause().await;
        let slots = Arc::clone(&self.slots);
        // The semaphore is never closed; if it were, requests would go on without a limit.
        let permit = if let Ok(permit) = Arc::clone(&slots).try_acquire_owned() {
            Some(permit)
        } else {
            self.state().full = true;
            slots.acquire_owned().await.ok()
        };
        self.pause().await;
        let mut state = self.state();
        state.requests += 1;
        if self.slots.available_permits() == 0 {
            state.full = true;
        }
        state.epoch.get_or_insert_with(Instant::now);
        drop(state);
        Slot {
            governor: Arc::clone(self),
            permit,
        }
    }

    /// `bytes` arrived.
    pub(crate) fn moved(&self, bytes: usize) {
        self.moved.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A part of `bytes` was fetched in `taken` by one request.
    pub(crate) fn fetched(&self, bytes: u64, taken: Duration) {
        let seconds = taken.as_secs_f64().max(1e-6);
        let mut state = self.state();
        remember(&mut state.seconds, seconds);
        #[expect(clippy::cast_precision_loss, reason = "a rate need not be exact")]
        remember(&mut state.rates, bytes as f64 / seconds);
    }

    /// The host refused a request because there were too many, and may have said how long to wait.
    pub(crate) fn throttled(&self, pause: Option<Duration>) {
        let now = Instant::now();
        let mut state = self.state();
        if let Some(pause) = pause {
            let until = now + pause;
            state.paused_until = Some(state.paused_until.map_or(until, |then| then.max(until)));
        }
        let again = state.halved_at.is_some_and(|at| now - at < ONE_EVENT);
        if again {
            return;
        }
        state.halved_at = Some(now);
        if let Some(growth) = &mut state.growth {
            growth.throttled();
            let limit = growth.limit();
            self.resize(&mut state, limit);
        }
        self.moved.store(0, Ordering::Relaxed);
        (state.epoch, state.full) = (None, false);
    }

    /// The least bytes per second of a request that is not stuck: a twentieth of what is usual.
    pub(crate) fn floor(&self) -> f64 {
        percentile(&self.state().rates, 50).map_or(0.0, |median| median / 20.0)
    }

    /// How long a part may take before it is asked for a second time; `None` while nobody knows
    /// how long parts take.
    pub(crate) fn patience(&self) -> Option<Duration> {
        let usual = percentile(&self.state().seconds, 95)?;
        Some(PATIENT.max(Duration::from_secs_f64(usual.min(600.0) * 3.0)))
    }

    /// Whether one more duplicate may be sent; it is counted.
    pub(crate) fn may_duplicate(&self) -> bool {
        let mut state = self.state();
        let may = (state.duplicates + 1) * PER_DUPLICATE <= state.requests;
        if may {
            state.duplicates += 1;
            state.requests += 1;
        }
        may
    }

    /// Ends the epoch when it has lasted long enough, and draws its conclusion.
    fn measure(&self, state: &mut State) {
        let now = Instant::now();
        let Some(length) = state.epoch.map(|since| now - since) else {
            return;
        };
        if length < EPOCH {
            return;
        }
        let bytes = self.moved.swap(0, Ordering::Relaxed);
        let full = std::mem::take(&mut state.full);
        state.epoch = Some(now);
        // Where requests were left unused, more of them would have changed nothing.
        if full && let Some(growth) = &mut state.growth {
            #[expect(clippy::cast_precision_loss, reason = "a rate need not be exact")]
            growth.measured(bytes as f64 / length.as_secs_f64());
            let limit = growth.limit();
            self.resize(state, limit);
        }
    }

    fn resize(&self, state: &mut State, limit: usize) {
        if limit > state.limit {
            let more = limit - state.limit;
            let kept = more.min(state.owed);
            state.owed -= kept;
            self.slots.add_permits(more - kept);
        } else {
            let less = state.limit - limit;
            state.owed += less - self.slots.forget_permits(less);
        }
        state.limit = limit;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut state = self.governor.state();
        if self.governor.slots.available_permits() == 0 {
            state.full = true;
        }
        self.governor.measure(&mut state);
        if state.owed > 0
            && let Some(permit) = self.permit.take()
        {
            state.owed -= 1;
            permit.forget();
        }
    }
}

fn remember(values: &mut VecDeque<f64>, value: f64) {
    if values.len() == REMEMBERED {
        values.pop_front();
    }
    values.push_back(value);
}

/// The value that `percent` of the values do not exceed; `None` for less than eight of them.
fn percentile(values: &VecDeque<f64>, percent: usize) -> Option<f64> {
    if values.len() < 8 {
        return None;
    }
    let mut sorted: Vec<f64> = values.iter().copied().collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get((sorted.len() - 1) * percent / 100).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn refusals_halve_once_and_the_pause_is_kept() {
        let governor = Governor::adaptive();
        let start = Instant::now();
        let slots = [governor.slot().await, governor.slot().await];
        for _ in 0..8 {
            governor.throttled(Some(Duration::from_secs(7)));
        }
        assert_eq!(governor.limit(), 4);
        drop(slots);
        let _slot = governor.slot().await;
        assert_eq!(start.elapsed().as_secs(), 7);
        assert_eq!(governor.slots.available_permits(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn slots_that_are_out_are_taken_away_when_they_come_back() {
        let governor = Governor::adaptive();
        let mut slots = Vec::new();
        for _ in 0..8 {
            slots.push(governor.slot().await);
        }
        governor.throttled(None);
        slots.truncate(4);
        assert_eq!(governor.slots.available_permits(), 0);
        slots.truncate(3);
        assert_eq!(governor.slots.available_permits(), 1);
        drop(slots);
        assert_eq!(governor.slots.available_permits(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn it_grows_while_all_requests_are_in_use() {
        let governor = Governor::adaptive();
        let mut slots = Vec::new();
        for _ in 0..8 {
            slots.push(governor.slot().await);
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        governor.moved(8 << 20);
        slots.pop();
        assert_eq!(governor.limit(), 16);
        // Half of them unused: there is nothing to learn.
        tokio::time::advance(Duration::from_secs(1)).await;
        governor.moved(80 << 20);
        slots.pop();
        assert_eq!(governor.limit(), 16);
    }

    #[test]
    fn duplicates_are_few() {
        let governor = Governor::fixed(1);
        let sent = (0..400)
            .filter(|_| {
                governor.state().requests += 1;
                governor.may_duplicate()
            })
            .count();
        assert!((19..=21).contains(&sent), "{sent}");
        assert_eq!(governor.patience(), None);
        for _ in 0..8 {
            governor.fetched(8 << 20, Duration::from_secs(4));
        }
        assert_eq!(governor.patience(), Some(Duration::from_secs(12)));
        assert!((governor.floor() - 104_857.6).abs() < 1.0);
    }

    #[test]
    fn a_host_has_one_governor_as_long_as_it_is_used() {
        let one = Governor::of("a.invalid");
        assert!(Arc::ptr_eq(&one, &Governor::of("a.invalid")));
        assert!(!Arc::ptr_eq(&one, &Governor::of("b.invalid")));
        one.throttled(None);
        drop(one);
        assert_eq!(Governor::of("a.invalid").limit(), 8);
    }
}
