//! Descriptors that the program has: those that are refused, and those that a service manager
//! passes.
//!
//! Most tests run in separate processes. They are not in a binary with tests that need the address
//! of a closed listener: a process that is being started has a copy of each descriptor for a
//! moment.

#[path = "../support/mod.rs"]
mod support;

mod refused_descriptors;
mod systemd_listeners;
