//! Integration tests of `modelship-deployer`, one binary: against a real API server with the real
//! controllers and scheduler, and a scripted kubelet.

#![expect(clippy::panic, reason = "a helper of a test fails that test")]

mod access;
mod history;
mod kubelet;
mod lock;
mod rollout;
mod world;
