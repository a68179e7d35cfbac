#![doc = include_str!("../README.md")]
//! # Map of the crate
//!
//! `repository` is the front door; `upload` moves blobs in one pass, as `profile` says of their
//! registry; `pull` reads one back; `copy`, `referrers`, `artifact` and `delete` are built on
//! these; `auth` answers challenges; `transport` signs requests, `net` sends them, `endpoint`
//! knows which addresses may be trusted; `interop` hands over to `oci-client`.

mod artifact;
mod auth;
mod blob;
mod copy;
mod delete;
mod endpoint;
mod error;
mod interop;
mod json;
mod manifest;
mod net;
mod options;
mod pages;
mod pinned;
mod profile;
mod pull;
mod referrers;
mod repository;
mod retry;
mod secret;
mod tags;
mod transport;
mod upload;

pub use artifact::Artifact;
pub use auth::{AccessToken, Credentials, DockerConfig, TokenSource};
pub use blob::{Blob, ByteStream, Event, OpenFn, Progress};
pub use error::{BoxError, Error, ErrorKind, Result};
pub use manifest::{Manifest, choose, is_index};
pub use oci_spec::distribution::Reference;
pub use oci_spec::image::{Descriptor, Digest, MediaType, Platform};
pub use options::RegistryOptions;
pub use pinned::PinnedReference;
pub use profile::{Profile, Resume, Strategy};
pub use repository::Repository;
