//! Integration tests of `modelship-image-builder`, one binary.

mod debian;
mod debian_machine;
mod debian_repository;
