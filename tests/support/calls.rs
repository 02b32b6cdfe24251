//! For the tests of calls: a loop on a separate thread, and callers that wait.

use std::sync::mpsc;
use std::thread::{Scope, ScopedJoinHandle};

use reveille::{LoopHandle, LoopThread};
use rustix::thread::Pid;

use super::{LIMIT, wait_until_asleep, with_watchdog};

/// Runs `test` with a loop that runs on a separate thread, under a watchdog.
pub(crate) fn with_loop_thread<R: Send + 'static>(test: impl FnOnce(&LoopHandle) -> R + Send + 'static) -> R {
    with_watchdog(LIMIT, || {
        let thread = LoopThread::spawn("loop").unwrap();
        let result = test(thread.handle());
        thread.join().unwrap();
        result
    })
}

/// Starts `call` on another thread and returns when that thread sleeps.
pub(crate) fn start_waiting<'scope, R: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    call: impl FnOnce() -> R + Send + 'scope,
) -> ScopedJoinHandle<'scope, R> {
    let (id_sender, id_receiver) = mpsc::channel::<Pid>();
    let caller = scope.spawn(move || {
        id_sender.send(rustix::thread::gettid()).unwrap();
        call()
    });
    wait_until_asleep(id_receiver.recv().unwrap());
    caller
}
