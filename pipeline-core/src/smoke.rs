//! Runs an image in the sandbox and asks it: ready, a prediction, and a clean stop.

use std::path::PathBuf;
use std::time::Duration;

use modelship_sandbox::{Process, Sandbox};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::time::Instant;

use crate::Stage;
use crate::error::{Error, ErrorKind, Result};
use crate::golden::Golden;
use crate::http;

/// What is run and what it must do.
pub(crate) struct SmokeTest<'a> {
    /// Unpacked layers, bottom to top.
    pub(crate) roots: Vec<PathBuf>,
    /// The image's name in messages.
    pub(crate) image: String,
    /// Program and arguments.
    pub(crate) command: Vec<String>,
    /// The image's environment.
    pub(crate) env: Vec<(String, String)>,
    /// The image's working directory.
    pub(crate) workdir: String,
    /// The port the app listens on.
    pub(crate) port: u16,
    /// The path that says that it is ready.
    pub(crate) readiness: &'a str,
    /// How long it may take to become ready.
    pub(crate) timeout: Duration,
    /// The question it must answer, where there is one.
    pub(crate) golden: Option<&'a Golden>,
}

/// What the smoke test of an image said.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SmokeVerdict {
    /// What isolated the process.
    pub isolation: String,
    /// Seconds from start to the first 200 on the readiness path.
    pub ready_seconds: f64,
    /// The request that was asked, where there was one.
    pub request: Option<Value>,
    /// The app's answer to it.
    pub answer: Option<Value>,
    /// Whether the app ended by itself when it was asked to.
    pub stopped_cleanly: bool,
}

/// How often readiness is asked.
const POLL: Duration = Duration::from_millis(50);
/// How long one request may take.
const ONE_REQUEST: Duration = Duration::from_secs(10);
/// How long the app may take to stop.
const GRACE: Duration = Duration::from_secs(10);

impl SmokeTest<'_> {
    /// Runs the test.
    pub(crate) async fn run(&self) -> Result<SmokeVerdict> {
        let mut process = Sandbox::new(self.roots.clone())
            .command(self.command.iter())
            .workdir(&self.workdir)
            .user(USER, USER)
            .with_environment(&self.env)
            .spawn()
            .await
            .map_err(|e| Error::step(Stage::Smoke, &self.image, e))?;
        let started = Instant::now();
        self.wait_ready(&mut process, started).await?;
        let ready_seconds = started.elapsed().as_secs_f64();
        let answer = match self.golden {
            None => None,
            Some(golden) => Some(self.score(&mut process, golden).await?),
        };
        let isolation = process.rung().to_string();
        let stopped = process
            .stop(GRACE)
            .await
            .map_err(|e| Error::step(Stage::Smoke, &self.image, e))?;
        Ok(SmokeVerdict {
            isolation,
            ready_seconds,
            request: self.golden.map(|g| g.request.clone()),
            answer,
            stopped_cleanly: !stopped.killed,
        })
    }

    async fn wait_ready(&self, process: &mut Process, started: Instant) -> Result<()> {
        let mut last = "nothing answered yet".to_owned();
        loop {
            if let Some(exit) = process
                .try_exit()
                .map_err(|e| Error::step(Stage::Smoke, &self.image, e))?
            {
                return Err(self.failed(
                    process,
                    format!("the app ended with {exit} before it was ready"),
                ));
            }
            match self.request(process, self.readiness, None).await {
                Ok(answer) if answer.status == 200 => return Ok(()),
                Ok(answer) => {
                    last = format!(
                        "{} answered {}: {}",
                        self.readiness,
                        answer.status,
                        answer.excerpt()
                    );
                }
                Err(problem) => {
                    last = if last.contains("answered") {
                        last
                    } else {
                        problem
                    }
                }
            }
            if started.elapsed() > self.timeout {
                let text = format!(
                    "the app was not ready after {} s: {last}",
                    self.timeout.as_secs()
                );
                return Err(self.failed(process, text));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn score(&self, process: &mut Process, golden: &Golden) -> Result<Value> {
        let judged = match self
            .request(process, &golden.path, Some(&golden.request))
            .await
        {
            Ok(answer) => golden.judge(&answer),
            Err(problem) => Err(format!("{} did not answer: {problem}", golden.path)),
        };
        judged.map_err(|problem| self.failed(process, problem))
    }

    async fn request(
        &self,
        process: &Process,
        path: &str,
        json: Option<&Value>,
    ) -> Result<http::Answer, String> {
        let stream = process
            .connect(self.port)
            .await
            .map_err(|e| format!("port {}: {e}", self.port))?;
        http::ask(stream, "localhost", path, json, ONE_REQUEST)
            .await
            .map_err(|e| e.to_string())
    }

    fn failed(&self, process: &Process, text: String) -> Error {
        let log = process.logs().to_string();
        let log = log.trim();
        let detail = if log.is_empty() {
            text
        } else {
            format!("{text}; its last output:\n{}", tail(log, 25))
        };
        Error::new(ErrorKind::TestsFailed, Stage::Smoke, &self.image, detail).with_hint(format!(
            "the app must listen on port {} and answer 200 on {}; nothing was pushed",
            self.port, self.readiness
        ))
    }
}

/// The user of the images we make (`nonroot`, as in distroless images).
pub(crate) const USER: u32 = 65532;

/// The last `lines` lines of a log.
pub(crate) fn tail(log: &str, lines: usize) -> String {
    let all: Vec<&str> = log.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Gives a sandbox the whole environment of an image.
pub(crate) trait WithEnvironment {
    /// Sets each variable.
    fn with_environment(self, env: &[(String, String)]) -> Self;
}

impl WithEnvironment for Sandbox {
    fn with_environment(self, env: &[(String, String)]) -> Self {
        env.iter()
            .fold(self, |sandbox, (name, value)| sandbox.env(name, value))
    }
}
