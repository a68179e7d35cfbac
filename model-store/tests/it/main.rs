//! Integration tests of `modelship-model-store`, one binary.
//!
//! `conformance` holds the behaviour every store must show; `backends` runs it over each of them,
//! real servers included. `engine` holds what the range engine does on real servers. `failures`
//! shows what people see when something is wrong.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on stops where it is"
)]

mod access;
mod admission;
mod admission_oracle;
mod backends;
mod cached;
mod caches;
mod conformance;
mod counted;
mod counting;
mod engine;
mod failures;
mod fixtures;
mod foreign;
mod governance;
mod killed;
mod model_based;
mod odd_keys;
mod requests;
mod resumed;
mod signing;
mod watching;
