//! The project's own commands: `cargo xtask test`, `ci`, `bench`, `fuzz`, `tidy`, `install`.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for a person at a terminal"
)]

mod cargo;
mod fuzz;
mod services;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Installs or builds the services that are missing, then runs every test.
    Test {
        /// Leaves missing services missing; tests that need them are listed as skipped.
        #[arg(long)]
        no_install: bool,
        /// What `cargo test` gets instead of `--workspace`, such as `-p modelship-registry`.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Installs or builds the services that the tests need, into a per-user cache.
    Install,
    /// Runs what continuous integration runs.
    Ci,
    /// Measures: prints a table with peers and limits of the same run, and one line of JSON.
    Bench {
        /// Names the benchmarks.
        #[arg(long)]
        list: bool,
        /// The benchmark's name.
        name: Option<String>,
        /// What the benchmark itself takes.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Runs the fuzz targets, from the corpora that are kept; needs `cargo install cargo-fuzz`.
    Fuzz {
        /// Executions of each target.
        #[arg(long, default_value_t = 1_000_000)]
        runs: u64,
        /// One target instead of all.
        target: Option<String>,
    },
    /// Checks the rules of the house that no compiler checks.
    Tidy,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Test {
            no_install,
            arguments,
        } => services::test(!no_install, &arguments),
        Command::Install => services::install(),
        Command::Ci => cargo::script(".ci/run"),
        Command::Bench {
            list,
            name,
            arguments,
        } => bench(list, name.as_deref(), &arguments),
        Command::Fuzz { runs, target } => fuzz::run(runs, target.as_deref()),
        Command::Tidy => tidy::check(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn bench(list: bool, name: Option<&str>, arguments: &[String]) -> Result<(), String> {
    let mut words = vec![
        "run",
        "--locked",
        "--release",
        "--quiet",
        "-p",
        "modelship-benches",
        "--",
    ];
    match name {
        _ if list => words.push("--list"),
        Some(name) => words.push(name),
        None => return Err("name a benchmark; `cargo xtask bench --list` lists them".to_owned()),
    }
    words.extend(arguments.iter().map(String::as_str));
    cargo::run(&words, &[])
}
