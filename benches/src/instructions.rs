//! The benchmark `instructions`: CPU instructions per byte of small cases, counted by callgrind.
//!
//! Seconds differ from run to run and from machine to machine, and counts hardly do: a change
//! that makes the engine do more work shows here, also on a busy machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use modelship_image_builder::{Image, Layer, Platform, Tree, layout, unpack};
use modelship_testkit::{Tool, tool};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::process::Command;

use crate::Result;

/// How far a count may be from the recorded one, as a part of it.
const TOLERANCE: f64 = 0.03;
/// A difference below this many instructions per byte is the work of a whole case, not of a byte.
const NOISE: f64 = 0.02;
/// The bytes each case moves.
const SIZE: usize = 4 << 20;

/// What is counted.
#[derive(Args)]
pub(crate) struct Options {
    /// Records the counts instead of comparing them with the recorded ones.
    #[arg(long)]
    record: bool,
    /// Runs one case; how the benchmark runs itself under callgrind.
    #[arg(long, hide = true)]
    case: Option<Case>,
}

/// The cases, each of which handles [`SIZE`] bytes.
#[derive(Clone, Copy, ValueEnum)]
enum Case {
    /// Start and end of the program and the making of the bytes, which all other cases have too.
    Nothing,
    /// The tar archive of one large file.
    TarLarge,
    /// The tar archive of files of 1 KiB.
    TarSmall,
    /// A layer read and hashed.
    Measure,
    /// A layer compressed with gzip.
    Gzip,
    /// An image written to a layout.
    Layout,
    /// A layer of small files unpacked.
    Unpack,
}

impl Case {
    const COUNTED: [Self; 6] = [
        Self::TarLarge,
        Self::TarSmall,
        Self::Measure,
        Self::Gzip,
        Self::Layout,
        Self::Unpack,
    ];

    fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// The recorded counts, and what they were counted with.
#[derive(Deserialize, Serialize)]
struct Record {
    rustc: String,
    valgrind: String,
    architecture: String,
    per_byte: BTreeMap<String, f64>,
}

/// Counts every case, and compares or records.
pub(crate) fn run(options: &Options) -> Result<()> {
    // One thread: what another would do meanwhile is not the same in every run.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match options.case {
        Some(case) => runtime.block_on(work(case)),
        None => runtime.block_on(compare(options.record)),
    }
}

async fn compare(record: bool) -> Result<()> {
    let nothing = count(Case::Nothing).await?;
    let mut per_byte = BTreeMap::new();
    for case in Case::COUNTED {
        let own = count(case).await?.saturating_sub(nothing);
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let part = own as f64 / SIZE as f64;
        per_byte.insert(case.name(), (part * 1000.0).round() / 1000.0);
    }
    let now = Record {
        rustc: version("rustc".as_ref()).await?,
        valgrind: version(&tool::path(Tool::Valgrind)?).await?,
        architecture: std::env::consts::ARCH.to_owned(),
        per_byte,
    };
    if record {
        let text = format!("{}\n", serde_json::to_string_pretty(&now)?);
        std::fs::write(file(), text)?;
    }
    let kept: Record = serde_json::from_slice(&std::fs::read(file())?)?;
    judge(&kept, &now)
}

/// Where the counts are kept.
fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.json")
}

/// Prints both counts of each case; an error when one has changed by more than the tolerance.
fn judge(kept: &Record, now: &Record) -> Result<()> {
    let mut changed = Vec::new();
    println!("instructions per byte over {SIZE} bytes, callgrind\n");
    println!(
        "{:<12} {:>10} {:>10} {:>8}",
        "", "now", "recorded", "change"
    );
    for (name, &count) in &now.per_byte {
        let Some(&before) = kept.per_byte.get(name) else {
            changed.push(format!("{name} was never recorded"));
            continue;
        };
        let change = count / before - 1.0;
        println!(
            "{name:<12} {count:>10.3} {before:>10.3} {:>7.1}%",
            change * 100.0
        );
        if change.abs() > TOLERANCE && (count - before).abs() > NOISE {
            changed.push(format!("{name} changed by {:.1} %", change * 100.0));
        }
    }
    println!(
        "\n{}",
        json!({ "bench": "instructions", "per_byte": now.per_byte })
    );
    let same = (&kept.rustc, &kept.valgrind, &kept.architecture)
        == (&now.rustc, &now.valgrind, &now.architecture);
    if !same {
        println!(
            "not compared: recorded with {}, {}, {}",
            kept.rustc, kept.valgrind, kept.architecture
        );
        return Ok(());
    }
    if changed.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{}; if that is meant, record it with `cargo xtask bench instructions -- --record`",
        changed.join("; ")
    )
    .into())
}

async fn version(program: &Path) -> Result<String> {
    let output = Command::new(program).arg("--version").output().await;
    let output = output.map_err(|error| format!("{}: {error}", program.display()))?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// The instructions of one run of a case.
async fn count(case: Case) -> Result<u64> {
    let output = Command::new(tool::path(Tool::Valgrind)?)
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args(["instructions", "--case", &case.name()])
        .kill_on_drop(true)
        .output()
        .await?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{} under callgrind: {text}", case.name()).into());
    }
    let line = text.lines().find_map(|line| line.split_once("Collected :"));
    let (_, number) = line.ok_or("callgrind printed no count")?;
    Ok(number.trim().parse()?)
}

async fn work(case: Case) -> Result<()> {
    match case {
        Case::Nothing => drop(std::hint::black_box(data(SIZE))),
        Case::TarLarge => read(&large()?).await?,
        Case::TarSmall => read(&small()?).await?,
        Case::Measure => drop(large()?.measure().await?),
        Case::Gzip => {
            let folder = tempfile::tempdir()?;
            large()?.gzip(folder.path()).await?;
        }
        Case::Layout => {
            let folder = tempfile::tempdir()?;
            let image = Image::scratch(&Platform::linux("amd64")?).with_layer(large()?);
            layout::write(folder.path(), &image, "x", &drop).await?;
        }
        Case::Unpack => {
            let folder = tempfile::tempdir()?;
            unpack(&small()?.measure().await?, folder.path()).await?;
        }
    }
    Ok(())
}

async fn read(layer: &Layer) -> Result<()> {
    let mut bytes = layer.open(0);
    while let Some(piece) = bytes.try_next().await? {
        std::hint::black_box(&piece);
    }
    Ok(())
}

/// Bytes that neither compress well nor are noise.
fn data(size: usize) -> Vec<u8> {
    (0..size)
        .map(|at| ((at * at) >> 7).to_le_bytes()[0])
        .collect()
}

fn large() -> Result<Layer> {
    let bytes = Bytes::from(data(SIZE));
    let open = move |from| {
        let rest = bytes.slice(usize::try_from(from).unwrap_or(usize::MAX)..);
        let pieces = (0..rest.len()).step_by(256 << 10);
        let pieces = pieces.map(move |at| Ok(rest.slice(at..rest.len().min(at + (256 << 10)))));
        stream::iter(pieces).boxed()
    };
    Ok(Layer::stream("/models/w.bin", SIZE as u64, open)?)
}

fn small() -> Result<Layer> {
    let mut tree = Tree::new();
    for (at, file) in data(SIZE).chunks(1024).enumerate() {
        let path = format!("app/d{}/f{at}", at / 64);
        tree.insert_bytes(&path, 0o644, file.to_vec())?;
    }
    Ok(Layer::tree(tree)?)
}
