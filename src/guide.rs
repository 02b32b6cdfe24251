//! How to use the crate, step by step.
//!
//! Documentation only. Every example is compiled, and run if it ends by itself.
//!
//! First steps:
//!
//! 1. [`first_server`]: an empty loop, an echo server, state for each connection, frames.
//! 2. [`time_and_threads`]: timers and deadlines, tasks from other threads, work off the loop,
//!    several loops, stopping.
//!
//! Subjects:
//!
//! - [`async_functions`]: futures on the loop, waiting for times, results and other executors.
//! - [`clients`]: connecting, retrying, reconnecting, sending and stopping.
//! - [`other_sources`]: UDP sockets, Unix sockets, pipes, terminals, child processes, and any other
//!   descriptor.
//! - [`ending_connections`]: the six ways to end a connection, and what happens to bytes in
//!   flight.
//! - [`back_pressure`]: what happens when a peer or a handler is slower than its input.
//! - [`filters`]: compression or encryption between a socket and a handler.
//! - `tls`, with the feature of that name: certificates, names, the ends of connections, STARTTLS.
//! - [`embedding`]: a loop inside another poller or runtime.
//! - [`testing`]: tests with a virtual clock, and with connections in memory.
//! - [`observing`]: hooks, metrics, and callbacks that block a loop.
//! - [`coming_from`]: the calls of muduo, libevent, libuv and tokio, and their counterparts.
//!
//! See also the documentation of [`EventLoop`](crate::EventLoop), which defines a turn of the loop,
//! the [crate documentation](crate), which defines error kinds and the behaviour after a fork, and
//! the complete programs in the folder `examples`.

#[doc = include_str!("guide/first_server.md")]
pub mod first_server {}

#[doc = include_str!("guide/time_and_threads.md")]
pub mod time_and_threads {}

#[doc = include_str!("guide/async_functions.md")]
pub mod async_functions {}

#[doc = include_str!("guide/clients.md")]
pub mod clients {}

#[doc = include_str!("guide/other_sources.md")]
pub mod other_sources {}

#[doc = include_str!("guide/ending_connections.md")]
pub mod ending_connections {}

#[doc = include_str!("guide/back_pressure.md")]
pub mod back_pressure {}

#[doc = include_str!("guide/filters.md")]
pub mod filters {}

#[cfg(feature = "tls")]
#[doc = include_str!("guide/tls.md")]
pub mod tls {}

#[doc = include_str!("guide/embedding.md")]
pub mod embedding {}

#[doc = include_str!("guide/observing.md")]
pub mod observing {}

#[doc = include_str!("guide/testing.md")]
pub mod testing {}

#[doc = include_str!("guide/coming_from.md")]
pub mod coming_from {}
