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
mod index;
mod layer;
pub mod layout;
mod manifest;
mod over;
mod path;
mod planner;
mod platform;
mod pour;
mod probe;
mod progress;
mod provenance;
mod source_dir;
mod store;
mod stream;
mod tar_read;
pub mod tarball;
#[cfg(test)]
mod testing;
mod time;
mod tree;
mod unpack;
mod validate;

pub use base_tree::{BaseKind, BaseNode, BaseTree};
pub use compress::{CompressOptions, Compression};
pub use config::ConfigEdit;
pub use content::Content;
pub use error::{BoxError, Error, ErrorKind, Result};
pub use image::{Image, Sealed};
pub use index::{Index, SealedIndex};
pub use layer::Layer;
pub use oci_spec::image::{Descriptor, Digest, MediaType};
pub use planner::{LayerFile, PlanOptions, plan};
pub use platform::Platform;
pub use probe::Probe;
pub use progress::Event;
pub use provenance::{
    LAYER_ROLE, MODEL_DIGEST, MODEL_NAME, MODEL_URI, MODEL_VERSION, ModelIdentity, Provenance, Role,
};
pub use source_dir::TreeOptions;
pub use stream::ByteStream;
pub use tree::{Node, NodeKind, Tree};
pub use unpack::{unpack, unpack_image};
pub use validate::{LayerReport, Problem, ProblemKind, Report, validate};
