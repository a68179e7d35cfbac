//! Runs the app's own test suite over the base, a test-only layer, the model and the code.

use std::path::PathBuf;
use std::time::Duration;

use modelship_sandbox::{Exit, Sandbox};

use crate::Stage;
use crate::error::{Error, ErrorKind, Result};
use crate::smoke::{USER, WithEnvironment as _, tail};

/// A suite that runs longer than this is stopped.
const LONGEST: Duration = Duration::from_mins(15);

/// The suite: what is run, where.
pub(crate) struct Suite {
    /// Unpacked layers, bottom to top.
    pub(crate) roots: Vec<PathBuf>,
    /// The app's name.
    pub(crate) app: String,
    /// Program and arguments.
    pub(crate) command: Vec<String>,
    /// Environment.
    pub(crate) env: Vec<(String, String)>,
}

impl Suite {
    /// Runs it; the suite's closing line when it passed.
    pub(crate) async fn run(&self) -> Result<String> {
        let step = |e| Error::step(Stage::Test, &self.app, e);
        let mut process = Sandbox::new(self.roots.clone())
            .command(self.command.iter())
            .workdir("/app")
            .user(USER, USER)
            .with_environment(&self.env)
            .spawn()
            .await
            .map_err(step)?;
        let Ok(exit) = tokio::time::timeout(LONGEST, process.wait()).await else {
            let text = format!(
                "the tests were still running after {} minutes and were stopped",
                LONGEST.as_secs() / 60
            );
            return Err(Error::new(
                ErrorKind::TestsFailed,
                Stage::Test,
                &self.app,
                text,
            ));
        };
        let exit = exit.map_err(step)?;
        let log = process.logs().to_string();
        if exit == Exit::Code(0) {
            return Ok(log
                .lines()
                .rev()
                .map(str::trim)
                .find(|l| !l.is_empty())
                .unwrap_or("passed")
                .to_owned());
        }
        let detail = format!(
            "the app's own tests ended with {}:\n{}",
            exit,
            tail(log.trim(), 40)
        );
        Err(
            Error::new(ErrorKind::TestsFailed, Stage::Test, &self.app, detail)
                .with_hint("mend the app or its tests; nothing was built or pushed"),
        )
    }
}
