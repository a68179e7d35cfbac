//! Integration tests of `modelship-model-store`, one binary.
//!
//! `conformance` holds the behaviour every store must show; `backends` runs it over each of them,
//! real servers included. `failures` shows what people see when something is wrong.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on stops where it is"
)]

mod admission;
mod admission_oracle;
mod backends;
mod conformance;
mod failures;
mod fixtures;
