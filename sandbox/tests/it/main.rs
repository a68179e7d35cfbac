//! Integration tests of `modelship-sandbox`, one binary.
