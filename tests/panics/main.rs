//! Panics of callbacks and of destructors.

#[path = "../support/mod.rs"]
mod support;

mod destructors;
mod payloads;
