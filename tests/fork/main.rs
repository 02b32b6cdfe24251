//! Loops and their objects in forked processes.

#[path = "../support/mod.rs"]
mod support;

mod connections;
mod loops;
mod objects;
mod observers;
mod resolver;
mod workers;
