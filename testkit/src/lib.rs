#![doc = include_str!("../README.md")]

mod azurite;
pub mod cluster;
mod docker_registry;
pub mod fault_proxy;
pub mod judge;
mod missing;
pub mod process;
pub mod scratch;
pub mod tls;
pub mod tool;
mod versitygw;

pub use azurite::Azurite;
pub use cluster::{Cluster, Tier};
pub use docker_registry::{DockerRegistry, Request};
pub use fault_proxy::FaultProxy;
pub use judge::Judge;
pub use missing::{Missing, need};
pub use process::free_port;
pub use scratch::Scratch;
pub use tool::Tool;
pub use versitygw::Versitygw;
