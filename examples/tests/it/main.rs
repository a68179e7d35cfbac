//! Integration tests of the example programs, one binary.
