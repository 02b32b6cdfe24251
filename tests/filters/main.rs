//! Filters between a connection's socket and its handler.

#[path = "../support/mod.rs"]
mod support;

mod bytes;
mod decode_again;
mod ends;
mod failures;
mod handshakes;
mod nested;
mod samples;
mod upgrades;
