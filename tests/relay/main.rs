//! Relays between two connections.

#[path = "../support/mod.rs"]
mod support;

mod data;
mod ends;
mod reply_slots;
