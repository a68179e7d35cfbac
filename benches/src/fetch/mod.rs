//! The benchmark `fetch`: a model out of S3, over a network that gives each connection a rate.

mod bucket;
mod origin;
mod ours;
mod peers;
mod proxy;

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use modelship_testkit::{Tool, tool};
use serde_json::{Map, Value, json};
use tokio::process::Command;

use crate::table::{Row, number, render};
use crate::{Result, machine};
use bucket::Bucket;
use origin::Origin;
use proxy::{Proxy, Shape};

/// The numbers of connections.
const STREAMS: [u32; 5] = [1, 2, 4, 8, 16];
/// The most of them, which peers get too.
const MOST: u32 = 16;

/// What is measured.
#[derive(Args)]
pub(crate) struct Options {
    /// MiB for each connection: the object for 16 of them is 16 times as large.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=256))]
    mib: u32,
    /// The rate of one connection in MiB/s.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// The delay before each request, in milliseconds.
    #[arg(long, default_value_t = 10)]
    latency: u64,
    /// The mean number of MiB after which a connection breaks, for the row with cuts.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    cut: u32,
    /// How often each contender runs.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// The size of the object whose reading must not take more memory, in GiB.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    gib: u32,
    /// Installs no peer; those that are missing get a row that says so.
    #[arg(long)]
    no_install: bool,
    /// Serves an object of that many zeros; how the benchmark runs its own origin.
    #[arg(long, hide = true)]
    serve: Option<u64>,
    /// Reads that many zeros from `--endpoint`; how the benchmark measures memory.
    #[arg(long, hide = true, requires = "endpoint")]
    flat: Option<u64>,
    #[arg(long, hide = true)]
    endpoint: Option<String>,
}

/// What is measured through the proxy.
#[derive(Clone, Copy)]
enum Contender {
    Ours(u32),
    Adaptive,
    Cut,
    Single,
    Rclone,
    RcloneMost,
    Aws,
}

const CONTENDERS: [(Contender, &str); 11] = [
    (Contender::Ours(1), "ours, 1 connection"),
    (Contender::Ours(2), "ours, 2 connections"),
    (Contender::Ours(4), "ours, 4 connections"),
    (Contender::Ours(8), "ours, 8 connections"),
    (Contender::Ours(16), "ours, 16 connections"),
    (Contender::Adaptive, "ours, as many as it finds useful"),
    (Contender::Cut, "ours, 16 connections that break"),
    (
        Contender::Single,
        "peer: one GET for the whole object (curl)",
    ),
    (Contender::Rclone, "peer: rclone with its defaults"),
    (
        Contender::RcloneMost,
        "peer: rclone, 16 streams of 8 MiB pieces",
    ),
    (Contender::Aws, "peer: aws s3 cp, 16 requests of 8 MB"),
];

impl Contender {
    /// The number of connections that its object is for.
    fn streams(self) -> u32 {
        match self {
            Self::Ours(streams) => streams,
            _ => MOST,
        }
    }

    /// Why it cannot run here.
    fn missing(self, options: &Options) -> Option<String> {
        let found = |tool| match tool::path(tool) {
            Err(_) if !options.no_install => tool::install(tool, &|line| eprintln!("  {line}")),
            found => found,
        };
        match self {
            Self::Single if tool::program("curl").is_none() => Some("curl is not on PATH".into()),
            Self::Rclone | Self::RcloneMost => found(Tool::Rclone).err().map(|m| m.reason),
            Self::Aws => found(Tool::AwsCli).err().map(|m| m.reason),
            _ => None,
        }
    }

    /// Runs once, through a proxy of its own: nothing is learned from the run before.
    async fn run(self, bucket: &Bucket, mut shape: Shape, cut: u64) -> Result<Duration> {
        if matches!(self, Self::Cut) {
            shape.cut_every = Some(cut);
        }
        let proxy = Proxy::start(bucket.port()?, shape)?;
        let endpoint = proxy.endpoint();
        match self {
            Self::Ours(streams) => ours::read(bucket, &endpoint, (streams, Some(streams))).await,
            Self::Adaptive => ours::read(bucket, &endpoint, (MOST, None)).await,
            Self::Cut => {
                let took = ours::read(bucket, &endpoint, (MOST, Some(MOST))).await?;
                eprintln!("  {} connections were cut", proxy.cuts());
                Ok(took)
            }
            Self::Single => peers::single(bucket, &endpoint).await,
            Self::Rclone => peers::rclone(bucket, &endpoint, None).await,
            Self::RcloneMost => peers::rclone(bucket, &endpoint, Some(MOST)).await,
            Self::Aws => peers::aws(bucket, &endpoint, MOST).await,
        }
    }
}

/// Measures every contender in turn, as often as asked, and prints the result.
pub(crate) async fn run(options: &Options) -> Result<()> {
    if let Some(size) = options.serve {
        return origin::serve(size);
    }
    if let (Some(size), Some(endpoint)) = (options.flat, &options.endpoint) {
        let flat = ours::flat(endpoint, size).await?;
        println!("{}", serde_json::to_string(&flat)?);
        return Ok(());
    }
    let about = machine::describe();
    let mut rows = measure(options).await?;
    let flat = flat(options).await?;
    println!(
        "fetch: {} MiB/s for each connection, {} ms before each request; {about}\n",
        options.rate, options.latency
    );
    println!("{}\n", table(options, &mut rows));
    println!(
        "{} GiB of zeros: peak {} MiB with a window of {} MiB; read {:.1} s, hash loop {:.1} s\n",
        options.gib, flat.rss_mib, flat.window_mib, flat.read_seconds, flat.hash_seconds
    );
    println!("{}", Value::Object(line(options, &rows, &flat)));
    Ok(())
}

async fn measure(options: &Options) -> Result<Vec<Row>> {
    let bucket = Bucket::prepare(&STREAMS, options.mib).await?;
    let shape = Shape {
        rate: u64::from(options.rate) << 20,
        latency: Duration::from_millis(options.latency),
        cut_every: None,
    };
    let mut rows = Vec::with_capacity(CONTENDERS.len());
    for (contender, name) in CONTENDERS {
        rows.push(Row::new(name, contender.missing(options)));
    }
    for run in 1..=options.runs {
        for (row, (contender, name)) in rows.iter_mut().zip(CONTENDERS) {
            if row.missing.is_none() {
                eprintln!("run {run} of {}: {name}", options.runs);
                let cut = u64::from(options.cut) << 20;
                row.add(contender.run(&bucket, shape, cut).await?);
            }
        }
    }
    Ok(rows)
}

/// One process that reads an object of any size from another one.
async fn flat(options: &Options) -> Result<ours::Flat> {
    let size = u64::from(options.gib) << 30;
    let origin = Origin::start(size)?;
    eprintln!("{} GiB of zeros", options.gib);
    let output = Command::new(std::env::current_exe()?)
        .args(["fetch", "--flat", &size.to_string()])
        .args(["--endpoint", &origin.endpoint()])
        .kill_on_drop(true)
        .output()
        .await?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{} GiB: {}", options.gib, said.trim()).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The part of `connections x rate` that was reached.
fn of_limit(options: &Options, contender: Contender, row: &Row) -> Option<f64> {
    let mib = f64::from(options.mib * contender.streams());
    let limit = f64::from(options.rate * contender.streams());
    Some(mib / row.median()? / limit)
}

fn table(options: &Options, rows: &mut [Row]) -> String {
    // Objects differ in size, so the column of rates is made here.
    let text = render(rows, f64::from(options.mib * MOST));
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    if let Some(head) = lines.first_mut() {
        head.truncate(head.len().saturating_sub(9));
        head.push_str("    MiB/s  of limit");
    }
    for ((line, row), (contender, _)) in lines.iter_mut().skip(1).zip(rows).zip(CONTENDERS) {
        if let (Some(share), Some(median)) = (of_limit(options, contender, row), row.median()) {
            let rate = f64::from(options.mib * contender.streams()) / median;
            line.truncate(line.len().saturating_sub(9));
            // Writing to a string never fails.
            let _ = write!(line, " {rate:>8.0} {share:>9.2}");
        }
    }
    lines.join("\n")
}

fn line(options: &Options, rows: &[Row], flat: &ours::Flat) -> Map<String, Value> {
    let row = |wanted: usize| &rows[wanted];
    let shares: Vec<Option<f64>> = CONTENDERS
        .iter()
        .zip(rows)
        .map(|((contender, _), row)| of_limit(options, *contender, row))
        .collect();
    let lowest = shares[..STREAMS.len()]
        .iter()
        .copied()
        .collect::<Option<Vec<f64>>>()
        .and_then(|shares| shares.into_iter().reduce(f64::min));
    let (most, adaptive, cut) = (row(4), 5, 6);
    let mut line = Map::new();
    line.insert("bench".to_owned(), json!("fetch"));
    line.insert("rate_mib".to_owned(), json!(options.rate));
    line.insert("of_limit".to_owned(), number(lowest));
    for (streams, share) in STREAMS.iter().zip(&shares) {
        line.insert(format!("of_limit_{streams}"), number(*share));
    }
    line.insert("of_limit_adaptive".to_owned(), number(shares[adaptive]));
    line.insert("of_limit_cut".to_owned(), number(shares[cut]));
    line.insert("vs_single".to_owned(), number(row(7).over(most)));
    line.insert("vs_rclone_default".to_owned(), number(row(8).over(most)));
    line.insert("vs_rclone".to_owned(), number(row(9).over(most)));
    line.insert("vs_aws".to_owned(), number(row(10).over(most)));
    line.insert("rss_mib".to_owned(), json!(flat.rss_mib));
    line.insert("window_mib".to_owned(), json!(flat.window_mib));
    let vs_hash = Some(flat.hash_seconds / flat.read_seconds);
    line.insert("vs_hash_loop".to_owned(), number(vs_hash));
    line
}
