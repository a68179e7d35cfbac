#![doc = include_str!("../README.md")]

mod backend;
mod cause;
mod connection_string;
mod documents;
mod error;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod layout;
mod manifest;
mod model;
mod names;
mod neighbours;
mod note;
mod options;
mod pointer;
mod poll;
mod pool;
mod publish;
mod read;
mod resolve;
mod retract;
mod scan;
mod selector;
mod store;
mod store_url;
mod upload;
mod version_order;

pub use error::{BoxError, Error, ErrorKind, Result};
pub use layout::Format;
pub use model::{ModelFile, ModelVersion, Trust};
pub use note::Note;
pub use options::StoreOptions;
pub use poll::{Seen, WatchOptions, watch};
pub use publish::{Event, PublishOptions};
pub use read::ByteStream;
pub use resolve::ResolveOptions;
pub use retract::Retraction;
pub use selector::{ModelRef, Selector};
pub use store::ModelStore;
pub use store_url::{Scheme, StoreUrl};
