//! Integration tests of `modelship-registry`, one binary: real registries for what they can
//! show, a scripted server for faults they cannot be made to produce.
#![expect(clippy::unwrap_used, reason = "tests")]

mod auth;
mod downgrades;
mod faults;
mod images;
mod many;
mod proxied;
mod proxied_alone;
mod pulls;
mod real;
mod resumed;
mod server;
