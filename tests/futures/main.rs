//! Spawned futures, their join handles and wakers, waiting for times, and calls that are awaited.

#[path = "../support/mod.rs"]
mod support;

mod bound;
mod calls;
mod cancelled;
mod datagrams;
mod descriptors;
mod ends;
mod files;
mod forked_sources;
mod forks;
mod jobs;
mod joins;
mod polling;
mod processes;
mod random_trees;
mod sleeping;
mod spawning;
mod wakers;
