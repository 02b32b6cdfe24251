//! Memory that is released after a burst. The tests use the counts of the process, so they run one
//! at a time, and no other test may be in this binary.

#[path = "../support/mod.rs"]
mod support;

mod release;
mod release_by_sources;
