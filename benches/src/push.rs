//! The benchmark `push`: a model from a store into a registry.

use std::time::Duration;

use clap::{Args, ValueEnum};
use modelship_testkit::{DockerRegistry, Tool, tool};
use serde_json::{Map, Value, json};

use crate::discard::Discard;
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
    /// Runs only these contenders: `ours-discard`, say.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Contender>,
    /// Leaves out the peers that build an image and need several times the size on disk.
    #[arg(long)]
    no_builders: bool,
}

/// What is measured, in the order of the table.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Contender {
    Ours,
    Curl,
    CranePush,
    CraneAppend,
    Buildah,
    StoreRead,
    Sha256,
    OursDiscard,
    OursFileDiscard,
    CurlDiscard,
}

use Contender::{
    Buildah, CraneAppend, CranePush, Curl, CurlDiscard, Ours, OursDiscard, OursFileDiscard, Sha256,
    StoreRead,
};

impl Contender {
    const ALL: [Self; 10] = [
        Ours,
        Curl,
        CranePush,
        CraneAppend,
        Buildah,
        StoreRead,
        Sha256,
        OursDiscard,
        OursFileDiscard,
        CurlDiscard,
    ];

    const fn name(self) -> &'static str {
        match self {
            Ours => "ours: store, tar and hash in one streaming PATCH",
            Curl => "peer and limit: curl, PATCH of the finished tar, no hash",
            CranePush => "peer: crane push, the finished tar as it is",
            CraneAppend => "peer: tar, then crane append, which compresses it",
            Buildah => "peer: buildah build of a Containerfile, buildah push",
            StoreRead => "limit: store read alone, verified",
            Sha256 => "limit: SHA-256 alone, one core",
            OursDiscard => "ours, into a registry that discards",
            OursFileDiscard => "ours from a local file, into a registry that discards",
            CurlDiscard => "peer and limit: curl, into a registry that discards",
        }
    }

    /// Why it cannot run here, or is not to.
    fn missing(self, options: &Options) -> Option<String> {
        let program = |name: &str| {
            let found = tool::program(name).is_some();
            (!found).then(|| format!("{name} is not on PATH"))
        };
        if !options.only.is_empty() && !options.only.contains(&self) {
            return Some("left out".to_owned());
        }
        match self {
            CraneAppend | Buildah if options.no_builders => Some("left out".to_owned()),
            Curl | CurlDiscard => program("curl"),
            CranePush | CraneAppend => tool::path(Tool::Crane).err().map(|missing| missing.reason),
            Buildah => program("buildah"),
            _ => None,
        }
    }

    /// Runs it once. Each push into the Docker registry has a registry of its own: nothing is
    /// there to be reused, and nothing of it stays on disk.
    async fn run(self, material: &Material, discard: &str) -> Result<Duration> {
        match self {
            StoreRead => return limits::store_read(material).await,
            Sha256 => return limits::sha256(material).await,
            OursDiscard => return ours::push(material, discard).await,
            OursFileDiscard => return ours::push_file(material, discard).await,
            CurlDiscard => return peers::curl(material, discard).await,
            _ => {}
        }
        let registry = DockerRegistry::open().await?;
        match self {
            Ours => ours::push(material, &registry.host()).await,
            Curl => peers::curl(material, &registry.host()).await,
            CranePush => peers::crane_push(material, &registry).await,
            Buildah => peers::buildah(material, &registry).await,
            _ => peers::crane_append(material, &registry).await,
        }
    }
}

/// All rows of one run.
struct Rows([Row; Contender::ALL.len()]);

impl Rows {
    fn of(&self, who: Contender) -> &Row {
        &self.0[who as usize]
    }

    /// How much faster ours is than `peer`.
    fn versus(&self, peer: Contender) -> Option<f64> {
        self.of(peer).over(self.of(Ours))
    }

    /// The slowest of what a push cannot do without, into the registry that `curl` was measured
    /// with: its name, and its time as a part of ours.
    fn floor(&self, ours: Contender, curl: Contender) -> Option<(&'static str, f64)> {
        let limits = [curl, StoreRead, Sha256].map(|limit| self.of(limit));
        let slowest = limits
            .into_iter()
            .filter(|limit| limit.median().is_some())
            .max_by(|a, b| {
                a.median()
                    .partial_cmp(&b.median())
                    .unwrap_or(std::cmp::Ordering::Equal)
            })?;
        Some((slowest.name, slowest.over(self.of(ours))?))
    }
}

/// Measures every contender in turn, as often as asked, and prints the result.
pub(crate) async fn run(options: &Options) -> Result<()> {
    tool::path(Tool::DockerRegistry)?;
    let material = Material::prepare(options.mib.into()).await?;
    let discard = Discard::start()?.host();
    let about = machine::describe();
    let mut rows = Contender::ALL.map(|who| Row::new(who.name(), who.missing(options)));
    for _ in 0..options.runs {
        for (who, row) in Contender::ALL.iter().zip(&mut rows) {
            if row.missing.is_none() {
                row.add(who.run(&material, &discard).await?);
            }
        }
    }
    println!(
        "push: {} MiB of float32 weights ({} bytes of tar), {} runs in turn; {about}\n",
        options.mib, material.size, options.runs
    );
    println!("{}\n", render(&rows, options.mib.into()));
    println!("{}", summary(options, &Rows(rows)));
    Ok(())
}

/// The line of JSON: ratios above 1 are in our favour, and 1 is the limit of the floors.
fn summary(options: &Options, rows: &Rows) -> Value {
    let registry = rows.floor(Ours, Curl);
    let discard = rows.floor(OursDiscard, CurlDiscard);
    let lower = [registry, discard].into_iter().flatten();
    let mut line = Map::new();
    let mut put = |key: &str, value: Value| {
        line.insert(key.to_owned(), value);
    };
    put("bench", json!("push"));
    put("mib", json!(options.mib));
    put("runs", json!(options.runs));
    put("seconds", number(rows.of(Ours).median()));
    put(
        "of_floor",
        number(lower.map(|(_, part)| part).min_by(f64::total_cmp)),
    );
    for (name, floor) in [("registry", registry), ("discard", discard)] {
        put(&format!("of_floor_{name}"), number(floor.map(|f| f.1)));
        put(&format!("floor_{name}"), json!(floor.map(|f| f.0)));
    }
    put(
        "of_sha256_file",
        number(rows.of(Sha256).over(rows.of(OursFileDiscard))),
    );
    put("vs_curl", number(rows.versus(Curl)));
    put("vs_crane_push", number(rows.versus(CranePush)));
    put("vs_crane", number(rows.versus(CraneAppend)));
    put("vs_buildah", number(rows.versus(Buildah)));
    // A Docker engine is only measured where one runs; this program starts none.
    put("vs_docker", Value::Null);
    Value::Object(line)
}
