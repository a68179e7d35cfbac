//! The benchmark `push-memory`: the peak of a process that pushes, whatever the blob's size.

use std::sync::Arc;

use clap::Args;
use modelship_model_store::{ModelStore, PublishOptions, StoreOptions, StoreUrl};
use modelship_registry::{Blob, Credentials, RegistryOptions, Repository};
use serde_json::{Map, Value, json};
use tokio::process::Command;

use crate::discard::Discard;
use crate::material::FILE;
use crate::synthetic::Synthetic;
use crate::{Result, machine, material};

/// How much is pushed.
#[derive(Args)]
pub(crate) struct Options {
    /// The sizes in GiB, one process each.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 20])]
    gib: Vec<u64>,
    /// Keeps the model in a `file://` store, which takes its size on disk.
    #[arg(long)]
    on_disk: bool,
    /// Pushes that many GiB to `--host` and prints the peak; how the benchmark runs itself.
    #[arg(long, hide = true, requires = "host")]
    child: Option<u64>,
    #[arg(long, hide = true)]
    host: Option<String>,
}

/// Runs one process for each size and prints their peaks.
pub(crate) async fn run(options: &Options) -> Result<()> {
    if let (Some(gib), Some(host)) = (options.child, &options.host) {
        push(gib << 30, host, options.on_disk).await?;
        println!("{}", machine::peak_rss_mib()?);
        return Ok(());
    }
    let about = machine::describe();
    // In this process, so that what it takes is not counted.
    let host = Discard::start()?.host();
    let window = RegistryOptions::default().upload_window >> 20;
    println!("push-memory: a synthetic store into a registry that discards; {about}\n");
    println!("{:>8} {:>14}", "GiB", "peak RSS, MiB");
    let mut line = Map::new();
    line.insert("bench".to_owned(), json!("push-memory"));
    line.insert("window_mib".to_owned(), json!(window));
    for &gib in &options.gib {
        let peak = child(gib, &host, options.on_disk).await?;
        println!("{gib:>8} {peak:>14}");
        line.insert(format!("mib_{gib}g"), json!(peak));
    }
    println!("\n{}", Value::Object(line));
    Ok(())
}

async fn child(gib: u64, host: &str, on_disk: bool) -> Result<u64> {
    let output = Command::new(std::env::current_exe()?)
        .args(["push-memory", "--child", &gib.to_string(), "--host", host])
        .args(on_disk.then_some("--on-disk"))
        .kill_on_drop(true)
        .output()
        .await?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{gib} GiB: {}", said.trim()).into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

/// Publishes a model of one file of `size` zeros, and pushes it as a layer whose digest is not
/// known: store, tar, hash and registry in one process.
async fn push(size: u64, host: &str, on_disk: bool) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = std::fs::File::create(folder.path().join(FILE))?;
    // Sparse: it takes nothing on disk.
    file.set_len(size)?;
    let models = tempfile::tempdir()?;
    let store = if on_disk {
        let url = StoreUrl::from_dir(models.path(), "weights")?;
        ModelStore::open(&url, &StoreOptions::default())?
    } else {
        let url = "memory://models/weights".parse()?;
        let objects = Arc::new(Synthetic::default());
        ModelStore::with_object_store(url, objects, "models".into())
    };
    let options = PublishOptions::default();
    let model = store
        .publish(folder.path(), "1.0.0", options, &drop)
        .await?;
    let layer = material::layer(&store, &Arc::new(model))?;
    let options = RegistryOptions::default();
    let name = format!("{host}/bench/weights");
    let repository = Repository::new(&name, Credentials::anonymous(), options)?;
    let (media_type, size) = (layer.media_type().to_string(), layer.len());
    let blob = Blob::new(media_type, size, move |from| layer.open(from));
    repository.push_blob(&blob, &drop).await?;
    Ok(())
}
