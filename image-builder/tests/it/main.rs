//! Integration tests of `modelship-image-builder`, one binary.
