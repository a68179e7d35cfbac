//! Integration tests of `modelship-sandbox`, one binary.
//!
//! Every test runs a real process in real namespaces. Run as root, `privilege::as_nobody` runs
//! all of them once more as an ordinary user.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed step fails the test"
)]

mod files;
mod life;
mod limits;
mod net;
mod privilege;
mod rootfs;
mod run;
