//! TLS over connections, with rustls as the peer.

#![cfg(test)]

#[path = "../support/mod.rs"]
mod support;

mod authority;
mod bad_input;
mod bytes;
mod clients;
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
