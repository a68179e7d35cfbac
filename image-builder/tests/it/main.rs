//! Integration tests of `modelship-image-builder`, one binary.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on stops where it is"
)]

mod archives;
mod bases;
mod containerd;
mod debian;
mod debian_machine;
mod debian_repository;
mod judges;
mod readers;
mod reproducible;
mod sample;
