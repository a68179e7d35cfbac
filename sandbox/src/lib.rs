#![doc = include_str!("../README.md")]
#![cfg(target_os = "linux")]
#![deny(unsafe_code)]

mod app;
mod error;
mod explain;
#[expect(
    unsafe_code,
    reason = "closes inherited descriptors and forks the program"
)]
mod init;
#[expect(unsafe_code, reason = "forks init")]
mod launch;
mod logs;
mod mounts;
mod prepared;
mod privileges;
mod process;
mod report;
mod sandbox;
mod scratch;
#[expect(unsafe_code, reason = "the system calls without a safe wrapper")]
mod sys;
mod wire;

pub use error::{BoxError, Error, ErrorKind, Result};
pub use logs::Logs;
pub use process::Process;
pub use report::{Exit, Note, RootKind, Rung, Stopped};
pub use sandbox::{Limits, Sandbox};
