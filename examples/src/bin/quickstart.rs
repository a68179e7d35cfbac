//! The whole road on a bare machine: a local model store, a base image from the machine's own
//! Debian sources, tests and smoke test in a sandbox, an OCI image layout, rendered manifests.
#![expect(clippy::print_stdout, reason = "a program for a person at a terminal")]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use modelship_examples::{Summary, edge, end, progress, until_interrupted};
use modelship_pipeline_core::{Config, Edge, Pipeline, Result, Run, Trigger};

/// Ships the example app and its model to a folder, with nothing but this machine.
#[derive(Parser)]
struct Arguments {
    /// Where store/, image/ and manifests/ are made.
    #[arg(long, default_value = "target/quickstart")]
    out: PathBuf,
    /// The app that is shipped.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/flask-app"))]
    app: PathBuf,
    /// Prints the summary as one JSON object.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match until_interrupted(Box::pin(quickstart(&arguments))).await {
        Some(result) => end(result, arguments.json),
        None => ExitCode::from(130),
    }
}

async fn quickstart(arguments: &Arguments) -> Result<()> {
    let edge = edge().await?;
    let config = config(arguments)?;
    publish_models(&arguments.app, &config, &edge).await?;
    let pipeline = Pipeline::from_config(&config, edge)
        .await?
        .with_progress(progress());
    let run = pipeline.run(&Trigger::now()).await?;
    if arguments.json {
        let word = if matches!(run, Run::Unchanged(_)) {
            "unchanged"
        } else {
            "released"
        };
        println!(
            "{}",
            serde_json::json!({"run": word, "release": run.release()})
        );
    } else {
        println!("\n{}", Summary(&run));
        println!("{}", next_steps(&arguments.out));
    }
    Ok(())
}

/// The same configuration that a person would write, with every service on this machine.
fn config(arguments: &Arguments) -> Result<Config> {
    let app = std::path::absolute(&arguments.app).unwrap_or_else(|_| arguments.app.clone());
    let out = std::path::absolute(&arguments.out).unwrap_or_else(|_| arguments.out.clone());
    let text = format!(
        r#"
        state = "state"
        [app]
        name = "digits"
        path = {app}
        [model]
        url = "file://store/digits@latest"
        [base]
        lock = "modelship.lock"
        [smoke]
        request = {golden}
        [registry]
        layout = "image"
        tags = ["{{version}}"]
        [deploy]
        manifests = "manifests"
        expose = "load-balancer"
        dns_label = "digits"
        "#,
        app = quoted(&app),
        golden = quoted(&app.join("smoke/score.json")),
    );
    let mut config = Config::parse(&text, "quickstart")?;
    config.anchor(&out);
    Ok(config)
}

/// A path as a TOML basic string: JSON's escapes are valid there.
fn quoted(path: &Path) -> serde_json::Value {
    path.display().to_string().into()
}

/// What data scientists would do: publish each version of the model. Publishing the same bytes
/// again changes nothing.
async fn publish_models(app: &Path, config: &Config, edge: &Edge) -> Result<()> {
    for version in ["1.0.0", "1.1.0"] {
        let folder = app.join("models/digits").join(version);
        modelship_pipeline_core::publish_model(
            &config.model.url,
            edge,
            &folder,
            version,
            &progress(),
        )
        .await?;
    }
    Ok(())
}

fn next_steps(out: &Path) -> String {
    format!(
        "In {}: store/ (the model store), image/ (an OCI image layout), manifests/.\n\
         To go further, `modelship init` writes a modelship.toml for your own app; in it\n\
         \x20 Azure: url = \"az://CONTAINER.ACCOUNT/digits@latest\", repository = \"NAME.azurecr.io/digits\", kubeconfig = \"…\"\n\
         \x20 AWS:   url = \"s3://BUCKET/digits@latest\", repository = \"ACCOUNT.dkr.ecr.REGION.amazonaws.com/digits\", kubeconfig = \"…\"\n\
         Run this again: it finds that nothing changed.",
        out.display()
    )
}
