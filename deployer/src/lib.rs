#![doc = include_str!("../README.md")]

mod cause;
mod clock;
mod cluster;
mod connect;
mod deployer;
mod error;
mod evidence;
mod lock;
pub mod observe;
mod outcome;
mod record;
mod reference;
mod release;
mod render;
pub mod rollout;
mod spec;
mod status;

pub use cause::{Cause, CauseKind, Patience};
pub use deployer::{Deployer, Limits};
pub use error::{BoxError, Error, ErrorKind, Result};
pub use evidence::{Evidence, LogTail};
pub use outcome::{Address, AppStatus, Event, Outcome};
pub use record::{Release, ReleaseRecord, ReleaseState};
pub use reference::PinnedReference;
pub use render::{render, to_yaml};
pub use spec::{AppSpec, Expose, Resources};
