#![doc = include_str!("../README.md")]

mod arrival;
mod base;
mod build;
mod cache;
pub mod config;
mod edge;
mod error;
mod event;
mod golden;
mod history;
mod http;
mod init;
mod inputs;
mod model;
mod offer;
mod packed;
mod pipeline;
pub mod plan;
mod publish;
mod recipe;
mod release;
mod report;
mod smoke;
mod source;
mod suite;
mod target;
mod trigger;
mod verify;
mod watch;

pub use config::Config;
pub use edge::Edge;
pub use error::{BoxError, Error, ErrorKind, Result};
pub use event::{Event, Progress, Stage, StageTime, silent};
pub use golden::Golden;
pub use init::{Found, init};
pub use inputs::{Inputs, LAYER_FORMAT, ReleaseKey};
pub use offer::{
    OpenModel, model_url, note, publish_model, publish_model_with, read_lock, sibling_model_url,
    write_init, write_lock,
};
pub use pipeline::{Pipeline, Run};
pub use release::{LayerRecord, Release};
pub use report::{PlanReport, PlannedStep, Status};
pub use smoke::SmokeVerdict;
pub use source::Source;
pub use trigger::{Schedule, Trigger};
