//! Timers: when they fire, cancels, resets, and the virtual clock.

#[path = "../support/mod.rs"]
mod support;

mod callbacks;
mod cancels;
mod deadlines;
mod resets;
mod virtual_clock;
