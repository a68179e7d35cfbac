//! What garbage collection may remove.

use std::time::{Duration, SystemTime};

use crate::model::ModelVersion;

/// Time that an unfinished version is left alone by default.
const GRACE: Duration = Duration::from_hours(24);

/// What garbage collection may remove. Locked versions stay, whatever is said here: those that
/// `latest`, an alias or a hold names, and those of [`locks`](Self::locks).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct GcOptions {
    /// The present time, to compare the store's with: this library reads no clock.
    pub now: SystemTime,
    /// How long nothing of a version must have been written before it is removed, for whatever
    /// reason; a day by default. Longer than any publisher takes for one file.
    pub grace: Duration,
    /// Also removes the files of versions that were retracted at least this long ago; they can
    /// then not be fetched by their digest any more. They stay by default.
    pub retracted_after: Option<Duration>,
    /// Also removes complete versions but the last so many, in the order of versions. They stay
    /// by default.
    pub keep_last: Option<usize>,
    /// More versions that must stay: lock files found elsewhere.
    pub locks: Vec<ModelVersion>,
}

impl GcOptions {
    /// Removes only what publishers left unfinished a day before `now`.
    pub fn new(now: SystemTime) -> Self {
        Self {
            now,
            grace: GRACE,
            retracted_after: None,
            keep_last: None,
            locks: Vec::new(),
        }
    }

    /// Sets how long nothing of a version must have been written.
    #[must_use]
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Also removes versions that were retracted at least this long ago.
    #[must_use]
    pub fn with_retracted_after(mut self, age: Duration) -> Self {
        self.retracted_after = Some(age);
        self
    }

    /// Also removes complete versions but the last `count`.
    #[must_use]
    pub fn with_keep_last(mut self, count: usize) -> Self {
        self.keep_last = Some(count);
        self
    }

    /// Adds a version that must stay.
    #[must_use]
    pub fn with_lock(mut self, model: ModelVersion) -> Self {
        self.locks.push(model);
        self
    }

    /// Whether something that was written at `at` is older than `age`.
    pub(super) fn is_older(&self, at: Option<SystemTime>, age: Duration) -> bool {
        // A time after `now` is young: the clocks differ.
        at.is_none_or(|at| self.now.duration_since(at).is_ok_and(|since| since >= age))
    }
}
