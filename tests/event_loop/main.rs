//! The event loop: its turn, its order, its ends, and loops inside other loops.

#[path = "../support/mod.rs"]
mod support;

mod blocked;
mod busy_poll;
mod counters;
mod embedding;
mod embedding_edges;
mod ended_objects;
mod hooks;
mod idle;
mod interrupted_waits;
mod last_hook_calls;
mod metrics;
mod order;
mod ownership;
mod panics;
mod quit;
mod thread_values;
mod threads;
mod zero_limits;
