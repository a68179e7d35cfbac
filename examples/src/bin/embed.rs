//! A web service that embeds the pipeline: `POST /releases` ships, `GET /releases` says what runs.
//!
//! `embed MODELSHIP_TOML LISTEN_ADDRESS`; it prints the address it listens on.
#![expect(clippy::print_stdout, reason = "a program for a person at a terminal")]

use std::process::ExitCode;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use modelship_examples::{edge, end, error_json, refuse};
use modelship_pipeline_core::{Config, Error, Pipeline, Result, Run, Trigger};
use serde_json::{Value, json};
use tokio::sync::Mutex;

/// One run at a time: a second request waits for the first, and then most likely finds nothing to do.
type Shared = Arc<Mutex<Pipeline>>;
type Answer = std::result::Result<Json<Value>, (StatusCode, Json<Value>)>;

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let config = arguments
        .next()
        .unwrap_or_else(|| "modelship.toml".to_owned());
    let listen = arguments
        .next()
        .unwrap_or_else(|| "127.0.0.1:8300".to_owned());
    match pipeline(&config).await {
        Err(error) => end(Err(error), false),
        Ok(pipeline) => match serve(pipeline, &listen).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => refuse(
                &format!("listen {listen}"),
                &error,
                "name another address, such as 127.0.0.1:0 for any free port",
            ),
        },
    }
}

async fn pipeline(config: &str) -> Result<Pipeline> {
    Pipeline::from_config(&Config::load(config)?, edge().await?).await
}

async fn serve(pipeline: Pipeline, listen: &str) -> std::io::Result<()> {
    let app = Router::new()
        .route("/releases", get(status).post(release))
        .with_state(Arc::new(Mutex::new(pipeline)));
    let listener = tokio::net::TcpListener::bind(listen).await?;
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, app).await
}

async fn status(State(pipeline): State<Shared>) -> Answer {
    let status = pipeline.lock().await.status().await.map_err(refused)?;
    Ok(Json(json!(status)))
}

async fn release(State(pipeline): State<Shared>) -> Answer {
    let run = pipeline
        .lock()
        .await
        .run(&Trigger::now())
        .await
        .map_err(refused)?;
    Ok(Json(
        json!({"unchanged": matches!(run, Run::Unchanged(_)), "release": run.release()}),
    ))
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "map_err hands its error over"
)]
fn refused(error: Error) -> (StatusCode, Json<Value>) {
    (StatusCode::BAD_GATEWAY, Json(error_json(&error)))
}
