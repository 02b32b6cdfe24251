//! Rings in shared memory.

#[path = "../support/mod.rs"]
mod support;

mod descriptors;
mod ends;
mod messages;
