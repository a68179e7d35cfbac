//! `watch`: runs on a new commit, a new model version, or the schedule; one run at a time.

use std::time::Duration;

use chrono::{DateTime, Utc};
use modelship_model_store::Seen;

use crate::Stage;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::pipeline::{Pipeline, Run};
use crate::source;
use crate::trigger::{Schedule, Trigger};

/// The longest pause between two questions after a row of failures.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// What a watch has seen so far.
#[derive(Debug)]
struct State {
    commit: Option<String>,
    model: Option<Seen>,
    due: Option<DateTime<Utc>>,
    failures: u32,
}

impl State {
    /// A run that met a passing fault, such as a registry that was down, is asked for again.
    fn learn(&mut self, ended: &Result<Run>) {
        self.failures = match ended {
            Err(error) if error.is_retryable() => {
                self.commit = None;
                self.model = None;
                self.failures.saturating_add(1)
            }
            _ => 0,
        };
    }
}

impl Pipeline {
    /// Waits for triggers and runs on each, until the future is dropped. The first run starts at
    /// once, or as soon as there is a model. `report` hears how each run ended. A run that met a
    /// passing fault is repeated, with a growing pause; one that failed on its own merits is not
    /// repeated until something changes.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a schedule that is none. What a run or a question meets is
    /// reported or noted, and does not end the watch.
    pub async fn watch(&self, mut report: impl FnMut(&Trigger, Result<Run>)) -> Result<()> {
        let schedule = Schedule::from_config(&self.config.watch)
            .map_err(|e| Error::new(ErrorKind::Invalid, Stage::Watch, "watch.schedule", e))?;
        let mut state = State {
            commit: None,
            model: None,
            due: self.due(schedule.as_ref()),
            failures: 0,
        };
        loop {
            match self.next_trigger(&mut state, schedule.as_ref()).await {
                Ok(Some(trigger)) => {
                    let ended = self.run(&trigger).await;
                    state.learn(&ended);
                    report(&trigger, ended);
                }
                Ok(None) => state.failures = 0,
                Err(error) => {
                    state.failures = state.failures.saturating_add(1);
                    (self.progress)(Event::Note {
                        stage: Stage::Watch,
                        text: format!("{error}; asking again"),
                    });
                }
            }
            tokio::time::sleep(self.pause(&state)).await;
        }
    }

    /// Asks the repository, the store and the clock, in this order: a commit and a model that
    /// come together make one run, since a run always takes the latest of both.
    async fn next_trigger(
        &self,
        state: &mut State,
        schedule: Option<&Schedule>,
    ) -> Result<Option<Trigger>> {
        let head = source::head(&self.config.app)?;
        let step = |e| Error::step(Stage::Watch, &self.reference, e);
        let model = self
            .store
            .poll(&self.reference.selector, &mut state.model)
            .await
            .map_err(step)?;
        let commit = head.filter(|h| state.commit.as_ref() != Some(h));
        if let Some(commit) = &commit {
            state.commit = Some(commit.clone());
        }
        let now = (self.edge.now)();
        let due = state.due.filter(|due| *due <= now);
        if due.is_some() {
            state.due = self.due(schedule);
        }
        Ok(commit
            .map(Trigger::Commit)
            .or_else(|| model.map(|m| Trigger::Model(m.version().to_owned())))
            .or_else(|| due.map(Trigger::Schedule)))
    }

    fn due(&self, schedule: Option<&Schedule>) -> Option<DateTime<Utc>> {
        schedule.and_then(|s| s.next((self.edge.now)()))
    }

    /// The pause before the next question: the configured one, doubled for each failure in a row,
    /// and never past the schedule's next moment.
    fn pause(&self, state: &State) -> Duration {
        let poll = self.config.watch.poll.duration();
        let pause = poll
            .saturating_mul(1 << state.failures.min(8))
            .min(LONGEST_PAUSE.max(poll));
        let until_due = state
            .due
            .and_then(|due| (due - (self.edge.now)()).to_std().ok());
        until_due.map_or(pause, |until| {
            pause.min(until.max(Duration::from_millis(10)))
        })
    }
}
