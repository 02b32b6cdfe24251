//! Clients: attempts, reconnection, failures, and stopping.

#[path = "../support/mod.rs"]
mod support;

mod addresses;
mod connect;
mod detached;
mod excluded;
mod failures;
mod queued;
mod races;
mod resolver;
mod retries_and_reconnects;
mod stops;
