//! Unix sockets, and descriptors that are passed over them.

#[path = "../support/mod.rs"]
mod support;

mod addresses;
mod descriptors;
mod descriptors_in_transit;
mod sockets;
