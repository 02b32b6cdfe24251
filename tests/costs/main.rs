//! Costs that are counted: the allocations, system calls and retained memory of one thread.

#[path = "../support/mod.rs"]
mod support;

mod allocations;
mod futures;
mod group_sends;
mod large_sends;
mod posting_costs;
mod system_calls;
