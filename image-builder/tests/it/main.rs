//! Integration tests of `modelship-image-builder`, one binary.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on stops where it is"
)]

mod judges;
mod reproducible;
mod sample;
