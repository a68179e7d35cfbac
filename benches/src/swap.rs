//! The benchmark `swap`: only the code of an image of several GiB has changed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Args;
use futures::{StreamExt as _, stream};
use modelship_image_builder::{Image, Layer, Platform, Tree};
use modelship_registry::{
    Blob, BoxError, Credentials, Descriptor, Event, Manifest, RegistryOptions, Repository,
};
use modelship_testkit::DockerRegistry;
use serde_json::json;

use crate::material::Material;
use crate::{Result, machine};

/// How much is measured.
#[derive(Args)]
pub(crate) struct Options {
    /// The size of the model in MiB.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..))]
    mib: u32,
    /// How many code changes are pushed.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
}

/// The tag that always names the latest image.
const TAG: &str = "live";

/// Pushes an image once, then changes its code again and again.
pub(crate) async fn run(options: &Options) -> Result<()> {
    let registry = DockerRegistry::open().await?;
    let name = format!("{}/bench/app", registry.host());
    let material = Material::prepare(options.mib.into()).await?;
    let about = machine::describe();
    let first = Instant::now();
    let image = Image::scratch(&Platform::linux("amd64")?)
        .with_layer(material.layer()?)
        .with_layer(code(0)?)
        .with_config(|c| c.entrypoint(["python3", "/app/app.py"]));
    push(&open(&name)?, &image, &AtomicU64::new(0)).await?;
    let first = first.elapsed().as_secs_f64();
    drop(material);
    let (mut seconds, mut bytes) = (Vec::new(), 0);
    for run in 1..=options.runs {
        let code = code(run)?;
        let (len, sent) = (code.len(), AtomicU64::new(0));
        let start = Instant::now();
        // A new process on a new machine: nothing is known but the name and the code.
        let repository = open(&name)?;
        let image = pull(&repository).await?;
        let layers = image.layers().len();
        let image = image.with_layer_replaced(layers - 1, code)?;
        push(&repository, &image, &sent).await?;
        seconds.push(start.elapsed().as_secs_f64());
        bytes = bytes.max(sent.load(Ordering::Relaxed).saturating_sub(len));
    }
    seconds.sort_by(f64::total_cmp);
    let (median, slowest) = (seconds[seconds.len() / 2], seconds[seconds.len() - 1]);
    println!(
        "swap: the code of an image with a model of {} MiB; {about}\n",
        options.mib
    );
    println!("first push of all      {first:>8.3} s");
    println!("code change, median    {median:>8.3} s");
    println!("code change, slowest   {slowest:>8.3} s");
    println!("sent besides the code  {bytes:>8} bytes\n");
    let round = |value: f64| (value * 1000.0).round() / 1000.0;
    let line = json!({
        "bench": "swap", "mib": options.mib, "runs": options.runs,
        "seconds": round(median), "slowest": round(slowest), "bytes": bytes,
    });
    println!("{line}");
    Ok(())
}

fn open(name: &str) -> Result<Repository> {
    let options = RegistryOptions::default();
    Ok(Repository::new(name, Credentials::anonymous(), options)?)
}

/// About 100 KiB of code, different in each version.
fn code(version: u32) -> Result<Layer> {
    let mut tree = Tree::new();
    for file in 0..20 {
        let line = format!("def f(): return {version} * {file}\n");
        tree.insert_bytes(&format!("app/m{file}.py"), 0o644, line.repeat(200))?;
    }
    Ok(Layer::tree(tree)?)
}

/// Opens the tagged image: its manifest and config, a few KiB.
async fn pull(repository: &Repository) -> Result<Image> {
    let (manifest, _) = repository.manifest(TAG).await?;
    let config: Descriptor = {
        let json: serde_json::Value = serde_json::from_slice(&manifest)?;
        serde_json::from_value(json["config"].clone())?
    };
    let mut config_bytes = Vec::new();
    let mut pieces = repository.blob(&config, 0);
    while let Some(piece) = pieces.next().await {
        config_bytes.extend_from_slice(&piece?);
    }
    let source = repository.clone();
    let open = move |descriptor: &Descriptor, from| source.blob(descriptor, from);
    Ok(Image::from_parts(&manifest, &config_bytes, open)?)
}

/// Pushes what the registry lacks and moves the tag; adds up what was sent.
async fn push(repository: &Repository, image: &Image, sent: &AtomicU64) -> Result<()> {
    let blobs = image.layers().iter().map(blob).collect();
    let seal = |found: &[Descriptor]| {
        let layers = image.layers().iter().zip(found);
        let layers = layers.map(|(layer, found)| layer.with_digest(found.digest().clone()));
        let layers = layers.collect::<std::result::Result<_, _>>()?;
        let sealed = image.clone().with_layers_known(layers)?.seal()?;
        sent.fetch_add(sealed.manifest.len() as u64 * 2, Ordering::Relaxed);
        Ok::<_, BoxError>(Manifest {
            media_type: sealed.manifest_descriptor.media_type().to_string(),
            bytes: sealed.manifest,
            config: sealed.config,
            config_media_type: sealed.config_descriptor.media_type().to_string(),
        })
    };
    let count = |event| {
        if let Event::Uploaded { sent: bytes, .. } = event {
            sent.fetch_add(bytes, Ordering::Relaxed);
        }
    };
    let pinned = repository.push_image(blobs, seal, &count).await?;
    Ok(repository.tag(&pinned, TAG).await?)
}

fn blob(layer: &Layer) -> Blob {
    let source = layer.clone();
    let media_type = layer.media_type().to_string();
    let blob = Blob::new(media_type, layer.len(), move |from| {
        if source.is_empty() {
            return stream::empty().boxed();
        }
        source.open(from)
    });
    match layer.descriptor() {
        Some(known) => blob.with_digest(known.digest().clone()),
        None => blob,
    }
}
