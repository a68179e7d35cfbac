//! The `modelship` program: thin wrappers over library calls. `modelship help` lists them.
#![expect(clippy::print_stdout, reason = "a program for a person at a terminal")]

mod desk;
mod model;
mod publish;
mod told;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use modelship_examples::{
    Summary, bytes, edge, end, error_json, print_error, progress, until_interrupted,
};
use modelship_pipeline_core::{self as core, Config, Pipeline, Result, Run, Trigger};
use serde_json::{Value, json};

use model::ModelCommand;
use publish::Publish;

/// From a git commit and a model version to a verified release.
#[derive(Parser)]
#[command(name = "modelship", version)]
struct Arguments {
    /// The configuration.
    #[arg(short, long, global = true, default_value = "modelship.toml")]
    config: PathBuf,
    /// Answers with JSON objects, one a line.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Writes a commented modelship.toml for this folder.
    Init,
    /// Prints what a run would do, in objects and bytes, without doing it.
    Plan,
    /// Walks the road once.
    Run {
        /// Tries a release again that failed before.
        #[arg(long)]
        retry: bool,
    },
    /// Publishes the files of a folder as a version of a model.
    Publish(Publish),
    /// Looks at a model's versions, names them, retracts, collects and fetches them.
    #[command(subcommand)]
    Model(ModelCommand),
    /// Runs on each new commit, new model version, and on the schedule, until it is interrupted.
    Watch,
    /// Returns to the release before the one that runs.
    Rollback,
    /// Says what runs where.
    Status,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match until_interrupted(Box::pin(run(&arguments))).await {
        Some(result) => end(result, arguments.json),
        None => ExitCode::from(130),
    }
}

async fn run(arguments: &Arguments) -> Result<()> {
    match &arguments.command {
        Command::Init => init(arguments),
        Command::Publish(publish) => publish.run(arguments).await,
        Command::Model(command) => command.run(arguments).await,
        Command::Watch => watch(arguments).await,
        Command::Run { retry } => {
            let trigger = if *retry {
                Trigger::retry()
            } else {
                Trigger::now()
            };
            let run = arguments.pipeline().await?.run(&trigger).await?;
            arguments.answer(&Summary(&run).to_string(), &run_json(&run));
            Ok(())
        }
        Command::Plan => plan(arguments).await,
        Command::Rollback => {
            let outcome = arguments.pipeline().await?.rollback().await?;
            arguments.answer(&outcome, &json!({"rollback": outcome}));
            Ok(())
        }
        Command::Status => {
            let status = arguments.pipeline().await?.status().await?;
            let serving = match &status.image {
                Some(image) => format!("{image}\n{}", status.detail.join("\n")),
                None => "nothing serves that was released from here".to_owned(),
            };
            let text = format!("{} at {}: {serving}", status.app, status.target);
            arguments.answer(&text, &json!(status));
            Ok(())
        }
    }
}

impl Arguments {
    async fn pipeline(&self) -> Result<Pipeline> {
        let config = Config::load(&self.config)?;
        Ok(Pipeline::from_config(&config, edge().await?)
            .await?
            .with_progress(progress()))
    }

    fn answer(&self, text: &str, json: &Value) {
        if self.json {
            println!("{json}");
        } else {
            println!("{text}");
        }
    }
}

fn init(arguments: &Arguments) -> Result<()> {
    let written = core::write_init(&arguments.config)?;
    let text = format!(
        "wrote {}: read it, then `modelship plan`",
        written.display()
    );
    arguments.answer(&text, &json!({"wrote": written}));
    Ok(())
}

async fn plan(arguments: &Arguments) -> Result<()> {
    let report = arguments.pipeline().await?.plan().await?;
    let mut lines = vec![format!(
        "release {}; model {} {} ({})",
        report.key.short(),
        report.inputs.model_name,
        report.inputs.model_version,
        report.policy
    )];
    for step in &report.steps {
        let moved = step
            .bytes
            .map(|b| format!(", at most {}", bytes(b)))
            .unwrap_or_default();
        lines.push(format!("  {}{moved}", step.what));
    }
    if report.steps.is_empty() {
        lines.push("  nothing to do".to_owned());
    }
    arguments.answer(&lines.join("\n"), &json!(report));
    Ok(())
}

async fn watch(arguments: &Arguments) -> Result<()> {
    let pipeline = arguments.pipeline().await?;
    pipeline
        .watch(|trigger, ended| match ended {
            Ok(run) => {
                let mut object = run_json(&run);
                object["trigger"] = json!(trigger);
                arguments.answer(&format!("{trigger}: {}", Summary(&run)), &object);
            }
            Err(error) if arguments.json => arguments.answer("", &error_json(&error)),
            Err(error) => print_error(&error),
        })
        .await
}

fn run_json(run: &Run) -> Value {
    let word = if matches!(run, Run::Unchanged(_)) {
        "unchanged"
    } else {
        "released"
    };
    json!({"run": word, "release": run.release()})
}
