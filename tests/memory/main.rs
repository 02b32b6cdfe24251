//! Memory that is released after a burst. The tests read the counts of the process, so they run one
//! at a time, and this binary contains no other tests.

#[path = "../support/mod.rs"]
mod support;

mod release;
mod release_by_sources;
