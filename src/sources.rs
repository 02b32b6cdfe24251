//! Event sources other than sockets: user descriptors, eventfds, signals, child processes, file
//! changes, and pressure and memory notifications.

pub(crate) mod cgroup_memory;
pub(crate) mod channel;
pub(crate) mod child;
pub(crate) mod eventfd_source;
pub(crate) mod pressure;
pub(crate) mod signals;
pub(crate) mod watcher;
