//! What the example programs share: how they show progress, answers and errors.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "programs for a person at a terminal"
)]

mod show;
mod summary;

use std::process::ExitCode;

use modelship_pipeline_core::{Edge, Error, Result};

pub use show::progress;
pub use summary::{Summary, bytes};

/// This process's environment and clock, as the pipeline takes them.
///
/// # Errors
/// When there is a docker configuration that cannot be read.
pub async fn edge() -> Result<Edge> {
    Edge::from_env(|name| std::env::var(name).ok()).await
}

/// Ends a program: nothing to add on success; on failure one error, its causes and its advice.
pub fn end(result: Result<()>, json: bool) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if json {
                println!("{}", error_json(&error));
            }
            print_error(&error);
            ExitCode::FAILURE
        }
    }
}

/// Prints one error, its causes and its advice to standard error.
pub fn print_error(error: &Error) {
    eprintln!("error: {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(below) = cause {
        let text = below.to_string();
        if !error.to_string().contains(&text) {
            eprintln!("  because: {text}");
        }
        cause = below.source();
    }
    if let Some(hint) = error.hint() {
        eprintln!("  next: {hint}");
    }
}

/// Ends a program with an error of its own, told in the same form: what failed, why, what next.
pub fn refuse(what: &str, why: &dyn std::fmt::Display, next: &str) -> ExitCode {
    eprintln!("error: {what}: {why}\n  next: {next}");
    ExitCode::FAILURE
}

/// An error as one JSON object.
pub fn error_json(error: &Error) -> serde_json::Value {
    serde_json::json!({"error": {
        "stage": error.stage(), "object": error.object(), "message": error.to_string(),
        "next": error.hint(), "retryable": error.is_retryable(),
    }})
}

/// Runs `work` until it ends or the person interrupts; an interrupted run leaves nothing
/// half-published, because its future is dropped.
pub async fn until_interrupted<T>(work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        done = work => Some(done),
        _ = tokio::signal::ctrl_c() => None,
    }
}
