#![doc = include_str!("../README.md")]
//!
//! This file wires the modules and re-exports the public names.

mod content;
pub mod debian;
mod error;
mod path;
mod progress;
mod source_dir;
mod stream;
mod tree;

pub use content::Content;
pub use error::{BoxError, Error, ErrorKind, Result};
pub use oci_spec::image::{Descriptor, Digest, MediaType};
pub use progress::Event;
pub use source_dir::TreeOptions;
pub use stream::ByteStream;
pub use tree::{Node, NodeKind, Tree};
