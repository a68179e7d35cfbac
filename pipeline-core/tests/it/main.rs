//! Integration tests of `modelship-pipeline-core`, one binary: the whole road, on a real node.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a helper of a test fails that test"
)]
#![expect(clippy::print_stdout, reason = "shown when a test fails")]

mod client;
mod e2e;
mod repository;
mod watch;
mod world;
