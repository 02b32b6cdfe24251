//! UDP sockets.

#[path = "../support/mod.rs"]
mod support;

mod adopted;
mod datagrams;
mod destinations;
mod ends;
