//! Connections whose input is frames.

#[path = "../support/mod.rs"]
mod support;

mod batches;
mod frame_timeouts;
mod frames;
