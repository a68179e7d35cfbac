#![doc = include_str!("../README.md")]

mod azurite;
pub mod cluster;
mod docker_registry;
pub mod fault_proxy;
mod http;
pub mod judge;
mod missing;
mod moto;
pub mod process;
mod referrers_registry;
pub mod scratch;
pub mod tls;
pub mod token_issuer;
pub mod tool;
mod versitygw;

pub use azurite::Azurite;
pub use cluster::{Cluster, Tier};
pub use docker_registry::{DockerRegistry, Edition, Request, Security};
pub use fault_proxy::FaultProxy;
pub use judge::Judge;
pub use missing::{Missing, need};
pub use moto::Moto;
pub use process::free_port;
pub use referrers_registry::ReferrersRegistry;
pub use scratch::Scratch;
pub use token_issuer::TokenIssuer;
pub use tool::Tool;
pub use versitygw::{StoppedVersitygw, Versitygw};
