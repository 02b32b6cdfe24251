//! Loops on threads of their own, and threads that work for loops.

pub(crate) mod loop_pool;
pub(crate) mod loop_thread;
pub(crate) mod watchdog;
pub(crate) mod workers;

use std::io;
use std::thread::{self, JoinHandle};

/// Starts a thread. The message of an error names it.
fn start<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    let started = thread::Builder::new().name(name.to_owned()).spawn(run);
    started.map_err(|error| io::Error::new(error.kind(), format!("cannot start the thread {name}: {error}")))
}
