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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;
    use crate::{Config, Edge, publish_model, silent};

    /// The test's own clock, in seconds since 1970.
    static NOW: AtomicI64 = AtomicI64::new(1_800_000_000);

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(NOW.load(Ordering::SeqCst), 0).unwrap()
    }

    async fn pipeline(folder: &std::path::Path) -> Pipeline {
        let text = r#"
            [app]
            name = "digits"
            path = "app"
            [model]
            url = "file://store/digits@latest"
            [registry]
            layout = "image"
            [deploy]
            manifests = "manifests"
            [watch]
            schedule = "0 2 * * *"
            timezone = "Europe/Berlin"
        "#;
        let mut config = Config::parse(text, "test").unwrap();
        config.anchor(folder);
        let mut edge = Edge::from_env(|_| None).await.unwrap();
        edge.now = now;
        Pipeline::from_config(&config, edge).await.unwrap()
    }

    async fn publish(pipeline: &Pipeline, folder: &std::path::Path, version: &str) {
        let model = folder.join("model");
        std::fs::create_dir_all(&model).unwrap();
        std::fs::write(model.join("weights"), version).unwrap();
        let url = &pipeline.config.model.url;
        publish_model(url, &pipeline.edge, &model, version, &silent())
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn models_and_the_schedule_trigger_once_each() {
        let folder = tempfile::tempdir().unwrap();
        let pipeline = pipeline(folder.path()).await;
        let schedule = Schedule::from_config(&pipeline.config.watch).unwrap();
        let mut state = State {
            commit: None,
            model: None,
            due: pipeline.due(schedule.as_ref()),
            failures: 0,
        };
        let due = state.due.unwrap();

        let empty = pipeline
            .next_trigger(&mut state, schedule.as_ref())
            .await
            .unwrap_err();
        assert_eq!(empty.stage(), Stage::Watch, "{empty}");

        publish(&pipeline, folder.path(), "1.0.0").await;
        let mut next = async || {
            pipeline
                .next_trigger(&mut state, schedule.as_ref())
                .await
                .unwrap()
        };
        assert_eq!(next().await, Some(Trigger::Model("1.0.0".into())));
        assert_eq!(next().await, None);
        publish(&pipeline, folder.path(), "1.1.0").await;
        assert_eq!(next().await, Some(Trigger::Model("1.1.0".into())));
        assert_eq!(next().await, None);

        NOW.store(due.timestamp() - 1, Ordering::SeqCst);
        assert_eq!(next().await, None);
        NOW.store(due.timestamp(), Ordering::SeqCst);
        assert_eq!(next().await, Some(Trigger::Schedule(due)));
        assert_eq!(next().await, None);
        NOW.store(due.timestamp() + 24 * 3600, Ordering::SeqCst);
        let tomorrow = next().await;
        assert!(
            matches!(tomorrow, Some(Trigger::Schedule(at)) if at > due),
            "{tomorrow:?}"
        );
    }

    #[tokio::test]
    async fn a_passing_fault_is_tried_again_and_a_real_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let pipeline = pipeline(folder.path()).await;
        publish(&pipeline, folder.path(), "1.0.0").await;
        let mut state = State {
            commit: None,
            model: None,
            due: None,
            failures: 0,
        };
        let first = pipeline.next_trigger(&mut state, None).await.unwrap();
        assert!(first.is_some());
        let real = Error::new(ErrorKind::TestsFailed, Stage::Test, "digits", "no");
        state.learn(&Err(real));
        assert_eq!(pipeline.next_trigger(&mut state, None).await.unwrap(), None);
        let passing = Error::step(
            Stage::Push,
            "r.invalid",
            crate::error::Below::passing("down"),
        );
        state.learn(&Err(passing));
        assert_eq!(
            pipeline.next_trigger(&mut state, None).await.unwrap(),
            first
        );
        assert!(pipeline.pause(&state) > pipeline.config.watch.poll.duration());
    }
}
