//! Panics in callbacks and in destructors.

#[path = "../support/mod.rs"]
mod support;

mod destructors;
mod payloads;
