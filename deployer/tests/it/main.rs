//! Integration tests of `modelship-deployer`, one binary.
