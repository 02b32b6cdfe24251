//! Spawned futures, their join handles and wakers, waiting for times, and calls that are awaited.

#[path = "../support/mod.rs"]
mod support;

mod calls;
mod descriptors;
mod ends;
mod forks;
mod joins;
mod polling;
mod random_trees;
mod sleeping;
mod spawning;
mod wakers;
