//! Threads pinned to a CPU each, joined with a timeout.

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::TIMEOUT;
use crate::Result;
use crate::machine::pin_this_thread;

/// A thread with a result. One that is dropped instead of joined is detached; that happens only in
/// failed runs, which end with the process.
#[derive(Debug)]
pub(crate) struct Thread<T> {
    handle: JoinHandle<std::result::Result<T, String>>,
}

/// Starts a thread on that CPU, or on any CPU if none is given.
pub(crate) fn start_on<T: Send + 'static>(
    cpu: Option<usize>,
    body: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<Thread<T>> {
    let pinned = move || {
        if let Some(cpu) = cpu {
            pin_this_thread(cpu)?;
        }
        body()
    };
    // The error itself may not be `Send`, so only its text leaves the thread.
    let handle = thread::Builder::new().spawn(move || pinned().map_err(|error| error.to_string()))?;
    Ok(Thread { handle })
}

impl<T> Thread<T> {
    /// Waits for the end of the thread, with a timeout.
    pub(crate) fn join(self) -> Result<T> {
        let deadline = Instant::now() + TIMEOUT;
        while !self.handle.is_finished() {
            if Instant::now() > deadline {
                return Err(format!("a thread did not end within {TIMEOUT:?}").into());
            }
            thread::sleep(Duration::from_micros(200));
        }
        Ok(self.handle.join().map_err(|_| "a thread panicked; its message is above")??)
    }
}
