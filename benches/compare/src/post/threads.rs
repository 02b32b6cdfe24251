//! Threads on a CPU each, waited for no longer than one is willing to.

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::PATIENCE;
use crate::Result;
use crate::machine::pin_this_thread;

/// A thread that ends with a result. One that is dropped instead of joined is left to itself; that is for runs that have failed
/// and end with the process.
#[derive(Debug)]
pub(super) struct Thread<T> {
    handle: JoinHandle<std::result::Result<T, String>>,
}

/// Starts a thread on that CPU, or on any if there is none to spare.
pub(super) fn start_on<T: Send + 'static>(
    cpu: Option<usize>,
    body: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<Thread<T>> {
    let pinned = move || {
        if let Some(cpu) = cpu {
            pin_this_thread(cpu)?;
        }
        body()
    };
    // The error itself may hold anything and so cannot leave its thread.
    let handle = thread::Builder::new().spawn(move || pinned().map_err(|error| error.to_string()))?;
    Ok(Thread { handle })
}

impl<T> Thread<T> {
    /// Waits for the thread's end, unless that takes too long.
    pub(super) fn join(self) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        while !self.handle.is_finished() {
            if Instant::now() > deadline {
                return Err(format!("a thread did not end within {PATIENCE:?}").into());
            }
            thread::sleep(Duration::from_micros(200));
        }
        Ok(self.handle.join().map_err(|_| "a thread panicked; its message is above")??)
    }
}
