//! Children and signals.

#[path = "../support/mod.rs"]
mod support;

mod children;
mod signal_actions;
mod signals;
