//! Integration tests of the example programs, one binary: each program runs as a process of its
//! own, with nothing of this one's environment but the search path.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests"
)]

mod bad_app;
mod bad_config;
mod bad_service;
mod ci_templates;
mod embed;
mod model;
mod program;
mod quickstart;
mod road;
mod site;
