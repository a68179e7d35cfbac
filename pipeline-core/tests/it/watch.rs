//! A watch that runs beside the test, which hears how each run ended.

use std::time::Duration;

use modelship_pipeline_core::{Pipeline, Release, Result, Run, Trigger};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;

/// How long one run may take before the test gives up on it.
const ONE_RUN: Duration = Duration::from_mins(4);

/// A running watch; it stops when dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    task: JoinHandle<()>,
    ended: UnboundedReceiver<(Trigger, Result<Run>)>,
}

impl Watch {
    /// Starts to watch.
    pub(crate) fn start(pipeline: Pipeline) -> Self {
        let (send, ended) = unbounded_channel();
        let task = tokio::spawn(async move {
            let report = |trigger: &Trigger, run| send.send((trigger.clone(), run)).unwrap();
            pipeline.watch(report).await.unwrap();
        });
        Self { task, ended }
    }

    /// How the next run ends.
    pub(crate) async fn next(&mut self) -> (Trigger, Result<Run>) {
        let next = tokio::time::timeout(ONE_RUN, self.ended.recv()).await;
        next.unwrap_or_else(|_| panic!("no run ended within {ONE_RUN:?}"))
            .unwrap_or_else(|| panic!("the watch has ended"))
    }

    /// The release that the next run brings.
    pub(crate) async fn next_release(&mut self) -> (Trigger, Release) {
        match self.next().await {
            (trigger, Ok(Run::Released(release))) => (trigger, release),
            (trigger, other) => panic!("{trigger}: {other:#?}"),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}
