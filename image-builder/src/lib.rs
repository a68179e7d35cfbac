#![doc = include_str!("../README.md")]
//!
//! This file wires the modules and re-exports the public names.

mod archive;
mod base_tree;
mod bridge;
mod codec;
mod compress;
mod config;
mod content;
pub mod debian;
mod docker_ignore;
mod error;
mod frame;
mod glob;
mod gzip;
mod hash;
mod image;
mod layer;
pub mod layout;
mod manifest;
mod over;
mod path;
mod planner;
mod platform;
mod probe;
mod progress;
mod source_dir;
mod stream;
mod tar_read;
#[cfg(test)]
mod testing;
mod tree;
mod unpack;
mod validate;

pub use base_tree::{BaseKind, BaseNode, BaseTree};
pub use compress::{CompressOptions, Compression};
pub use config::ConfigEdit;
pub use content::Content;
pub use error::{BoxError, Error, ErrorKind, Result};
pub use image::{Image, Sealed};
pub use layer::Layer;
pub use oci_spec::image::{Descriptor, Digest, MediaType};
pub use planner::{LayerFile, PlanOptions, plan};
pub use platform::Platform;
pub use probe::Probe;
pub use progress::Event;
pub use source_dir::TreeOptions;
pub use stream::ByteStream;
pub use tree::{Node, NodeKind, Tree};
pub use unpack::{unpack, unpack_image};
pub use validate::{LayerReport, Problem, ProblemKind, Report, validate};
