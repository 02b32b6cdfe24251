//! Servers: accepting, limits, several loops, and stopping.

#[path = "../support/mod.rs"]
mod support;

mod accept_limits;
mod accept_storm;
mod admission;
mod detached;
mod distribution;
mod ended_loops;
mod lifecycle;
mod per_loop;
mod pools;
mod stop;
