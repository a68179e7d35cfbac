//! Integration tests of `modelship-model-store`, one binary.
