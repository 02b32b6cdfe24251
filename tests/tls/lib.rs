//! TLS over connections, with rustls as the peer.

#![cfg(test)]

#[path = "../support/mod.rs"]
mod support;

#[path = "../tcp/connection_model.rs"]
mod connection_model;

mod authority;
mod bad_input;
mod bytes;
mod clients;
mod connection_states;
mod costs;
mod ends;
mod files;
mod handshakes;
mod logged;
mod recorder;
mod replacement;
mod sends;
mod tls_peer;
mod upgrades;
