//! Byte streams for async functions: their data, their ends, and the servers and clients that make
//! them.

#[path = "../support/mod.rs"]
mod support;

#[cfg(feature = "tls")]
#[path = "../tls/authority.rs"]
#[allow(dead_code, reason = "shared with the tests of TLS")]
mod authority;
mod costs;
mod data;
mod ends;
mod servers;
#[cfg(feature = "tls")]
mod tls;
#[cfg(any(feature = "futures-io", feature = "tokio", feature = "hyper"))]
mod traits;
