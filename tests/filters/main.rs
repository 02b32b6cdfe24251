//! Filters between a connection's socket and its handler.

#[path = "../support/mod.rs"]
mod support;

mod bytes;
mod collected;
mod decode_again;
mod ends;
mod failures;
mod handshakes;
mod input_buffer;
mod left_bytes;
mod nested;
mod samples;
mod upgrades;
