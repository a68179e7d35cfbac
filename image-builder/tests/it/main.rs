//! Integration tests of `modelship-image-builder`, one binary.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on stops where it is"
)]

mod archives;
mod bases;
mod compression;
mod containerd;
mod debian;
mod debian_machine;
mod debian_repository;
mod determinism;
mod judges;
mod readers;
mod reproducible;
mod sample;
