//! The benchmark `push`: a model from a store into a registry.

use std::time::Duration;

use clap::Args;
use modelship_testkit::{DockerRegistry, Tool, tool};
use serde_json::{Value, json};

use crate::material::Material;
use crate::table::{Row, number, render};
use crate::{Result, limits, machine, ours, peers};

/// How much is measured.
#[derive(Args)]
pub(crate) struct Options {
    /// The size of the weights in MiB.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    mib: u32,
    /// How often each contender runs.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
}

/// What is measured, in the order of the table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Contender {
    Ours,
    Curl,
    CranePush,
    CraneAppend,
    StoreRead,
    Sha256,
}

impl Contender {
    const ALL: [Self; 6] = [
        Self::Ours,
        Self::Curl,
        Self::CranePush,
        Self::CraneAppend,
        Self::StoreRead,
        Self::Sha256,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours: store, tar and hash in one streaming PATCH",
            Self::Curl => "peer and limit: curl, PATCH of the finished tar, no hash",
            Self::CranePush => "peer: crane push, the finished tar as it is",
            Self::CraneAppend => "peer: crane append, which compresses the finished tar",
            Self::StoreRead => "limit: store read alone, verified",
            Self::Sha256 => "limit: SHA-256 alone, one core",
        }
    }

    /// Why it cannot run here.
    fn missing(self) -> Option<String> {
        match self {
            Self::Curl if tool::program("curl").is_none() => Some("curl is not on PATH".to_owned()),
            Self::CranePush | Self::CraneAppend => {
                tool::path(Tool::Crane).err().map(|missing| missing.reason)
            }
            _ => None,
        }
    }

    /// Runs it once. Each push has a registry of its own: nothing is there to be reused, and
    /// nothing of it stays on disk.
    async fn run(self, material: &Material) -> Result<Duration> {
        match self {
            Self::StoreRead => return limits::store_read(material).await,
            Self::Sha256 => return limits::sha256(material).await,
            _ => {}
        }
        let registry = DockerRegistry::open().await?;
        match self {
            Self::Ours => ours::push(material, &registry).await,
            Self::Curl => peers::curl(material, &registry).await,
            Self::CranePush => peers::crane_push(material, &registry).await,
            _ => peers::crane_append(material, &registry).await,
        }
    }
}

/// Measures every contender in turn, as often as asked, and prints the result.
pub(crate) async fn run(options: &Options) -> Result<()> {
    tool::path(Tool::DockerRegistry)?;
    let material = Material::prepare(options.mib.into()).await?;
    let about = machine::describe();
    let mut rows = Contender::ALL.map(|who| Row::new(who.name(), who.missing()));
    machine::reset_peak()?;
    for _ in 0..options.runs {
        for (who, row) in Contender::ALL.iter().zip(&mut rows) {
            if row.missing.is_none() {
                row.add(who.run(&material).await?);
            }
        }
    }
    let peak = machine::peak_rss_mib()?;
    println!(
        "push: {} MiB of float32 weights ({} bytes of tar), {} runs in turn; {about}\n",
        options.mib, material.size, options.runs
    );
    println!("{}\n", render(&rows, options.mib.into()));
    println!("{}", summary(options, &rows, peak));
    Ok(())
}

/// The line of JSON: ratios above 1 are in our favour, and 1 is the limit of `of_floor`.
fn summary(options: &Options, rows: &[Row; Contender::ALL.len()], peak: u64) -> Value {
    let [ours, curl, push, append, read, hash] = rows;
    let slowest = [curl, read, hash].into_iter().max_by(|a, b| {
        a.median()
            .unwrap_or(0.0)
            .total_cmp(&b.median().unwrap_or(0.0))
    });
    json!({
        "bench": "push",
        "mib": options.mib,
        "runs": options.runs,
        "seconds": number(ours.median()),
        "of_floor": number(slowest.and_then(|slowest| slowest.over(ours))),
        "floor": slowest.map(|slowest| slowest.name),
        "vs_curl": number(curl.over(ours)),
        "vs_crane": number(push.over(ours)),
        "vs_crane_append": number(append.over(ours)),
        "peak_rss_mib": peak,
    })
}
