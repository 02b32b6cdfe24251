//! File operations, on threads and with io_uring.

#[path = "../support/mod.rs"]
mod support;

mod backends;
mod calls;
mod lives;
mod operations;
