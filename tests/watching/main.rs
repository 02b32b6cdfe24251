//! Sources of events other than sockets: directories and files, and memory pressure.

#[path = "../support/mod.rs"]
mod support;

mod pressure;
mod shared_watches;
mod watcher;
