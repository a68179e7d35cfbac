//! Integration tests of `modelship-pipeline-core`, one binary.
