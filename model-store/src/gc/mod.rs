//! Garbage collection: removes versions that nobody can need any more.
//!
//! It goes in two phases. All candidates are marked, each with a document that only one can
//! create; then what locks versions is read again, and only then is anything removed: first the
//! manifest, with which the version ceases to exist, then the files, then the claim, the mark last.
//! Whoever names, holds or publishes a version writes that down before looking for the mark. So
//! one of the two always sees the other, and gives way.

mod locks;
mod options;
mod plan;
mod sweep;

pub use options::GcOptions;
pub use plan::{GcItem, GcPlan, GcReason, GcReport, Kept};

const STAGE: &str = "collect garbage";
