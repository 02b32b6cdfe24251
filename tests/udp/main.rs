//! UDP sockets.

#[path = "../support/mod.rs"]
mod support;

mod datagrams;
mod destinations;
mod ends;
