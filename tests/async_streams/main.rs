//! Byte streams for async functions: their data, their ends, and the servers and clients that make
//! them.

#[path = "../support/mod.rs"]
mod support;

mod cancelled;
mod costs;
mod data;
mod ends;
mod filtered;
mod limits;
mod memory;
mod servers;
mod stops;
#[cfg(any(feature = "futures-io", feature = "tokio", feature = "hyper"))]
mod traits;
mod transports;
#[cfg(any(feature = "tokio", feature = "hyper"))]
mod uninit;
