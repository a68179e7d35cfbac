#![doc = include_str!("../README.md")]

pub mod admission;
mod backend;
mod blocking;
mod cache;
mod cause;
mod connection_string;
mod documents;
mod error;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
mod gc;
mod history;
mod hold;
mod inspect;
mod layout;
mod manifest;
mod model;
mod names;
mod neighbours;
mod note;
mod options;
mod pointer;
mod pointer_name;
mod poll;
mod pool;
mod progress;
mod publish;
mod read;
mod resolve;
mod retract;
mod scan;
mod selector;
pub mod signing;
mod store;
mod store_url;
mod survey;
mod swap;
mod transport;
mod upload;
mod version_order;

pub use cache::{
    Arriving, CachedModel, FetchEvent, FetchOptions, FetchProgress, Fetching, ModelCache, Trimmed,
};
pub use error::{BoxError, Error, ErrorKind, Result};
pub use gc::{GcItem, GcOptions, GcPlan, GcReason, GcReport, Kept};
pub use history::Move;
pub use hold::Hold;
pub use inspect::{ChangedFile, VersionDetails, VersionDiff, VersionInfo, VersionState};
pub use layout::Format;
pub use model::{ModelFile, ModelVersion, Trust};
pub use note::Note;
pub use options::StoreOptions;
pub use pointer_name::PointerName;
pub use poll::{Seen, WatchOptions, watch};
pub use publish::{Event, PublishOptions};
pub use read::{ByteStream, Piece, PieceStream, Progress, ProgressSink, ReadOptions};
pub use resolve::ResolveOptions;
pub use retract::{RetractOptions, RetractReport, Retraction};
pub use selector::{ModelRef, Selector};
pub use store::ModelStore;
pub use store_url::{Scheme, StoreUrl};
