//! Servers: accepting, limits, several loops, and stopping.

#[path = "../support/mod.rs"]
mod support;

mod accept_limits;
mod accept_storm;
mod admission;
mod adopted_listeners;
mod detached;
mod distribution;
mod ended_loops;
mod group_ends;
mod group_map;
mod group_model;
mod group_policies;
mod groups;
mod handshake_limits;
mod handshake_rates;
mod lifecycle;
mod per_loop;
mod pools;
mod several_listeners;
mod stop;
