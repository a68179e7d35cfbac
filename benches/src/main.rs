//! Side-by-side measurements: ours, peers and the machine's limits, as ratios of one run.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for a person at a terminal"
)]

mod discard;
mod fetch;
mod instructions;
mod limits;
mod machine;
mod material;
mod memory;
mod ours;
mod peers;
mod push;
mod swap;
mod synthetic;
mod table;
mod weights;
mod wire;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// Whatever ends a benchmark early; nobody has to tell the causes apart.
type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T> = std::result::Result<T, Error>;

/// Measures, and prints a table and one line of JSON.
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Arguments {
    /// Names the benchmarks.
    #[arg(long)]
    list: bool,
    #[command(subcommand)]
    bench: Option<Bench>,
}

#[derive(Subcommand)]
enum Bench {
    /// Store to registry: weights read, framed as a tar layer and pushed in one pass.
    Push(push::Options),
    /// A model out of S3 over connections of a certain rate, beside other downloaders.
    Fetch(fetch::Options),
    /// Instructions per byte of small cases, compared with those recorded.
    Instructions(instructions::Options),
    /// Peak memory of a push, from 1 to 20 GiB.
    PushMemory(memory::Options),
    /// A code-only change on an image of several GiB: seconds and bytes.
    Swap(swap::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.bench {
        _ if arguments.list => {
            list();
            Ok(())
        }
        Some(Bench::Push(options)) => run(push::run(&options)),
        Some(Bench::Fetch(options)) => run(fetch::run(&options)),
        Some(Bench::Instructions(options)) => instructions::run(&options),
        Some(Bench::PushMemory(options)) => run(memory::run(&options)),
        Some(Bench::Swap(options)) => run(swap::run(&options)),
        None => Err("name a benchmark; `--list` lists them".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn list() {
    let command = Arguments::command();
    for bench in command.get_subcommands() {
        let about = bench.get_about().map(ToString::to_string);
        println!("{}: {}", bench.get_name(), about.unwrap_or_default());
    }
}

fn run(bench: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(bench)
}
