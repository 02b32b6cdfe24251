//! Servers: accepting, limits, several loops, and stopping.

#[path = "../support/mod.rs"]
mod support;

mod accept_limits;
mod accept_storm;
mod admission;
mod distribution;
mod ended_loops;
mod lifecycle;
mod stop;
