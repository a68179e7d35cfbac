//! Integration tests of `modelship-registry`, one binary.
