//! TLS over connections, with rustls as the peer.

#![cfg(test)]

#[path = "../support/mod.rs"]
mod support;

#[path = "../tcp/connection_model.rs"]
mod connection_model;

/// What `src/net/tls/session.rs` imports, which `stalls` tests.
mod buffer {
    pub(crate) use reveille::Buffer;
}

mod async_streams;
mod authority;
mod bad_input;
mod bulk;
mod bytes;
mod clients;
mod clocks;
mod connection_states;
mod costs;
mod ends;
mod files;
mod forks;
mod handshakes;
mod limits;
mod logged;
mod recorder;
mod replacement;
mod sends;
mod stalls;
mod tls_peer;
mod upgrades;
mod workers;
