#![doc = include_str!("../README.md")]

mod backend;
mod cause;
mod connection_string;
mod error;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod manifest;
mod model;
mod names;
mod neighbours;
mod options;
mod pointer;
mod poll;
mod pool;
mod publish;
mod read;
mod resolve;
mod scan;
mod selector;
mod store;
mod store_url;
mod transport;
mod upload;
mod version_order;

pub use error::{BoxError, Error, ErrorKind, Result};
pub use model::{ModelFile, ModelVersion, Trust};
pub use options::StoreOptions;
pub use poll::{Seen, WatchOptions};
pub use publish::{Event, PublishOptions};
pub use read::{ByteStream, Piece, PieceStream, Progress, ProgressSink, ReadOptions};
pub use selector::{ModelRef, Selector};
pub use store::ModelStore;
pub use store_url::{Scheme, StoreUrl};
