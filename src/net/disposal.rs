//! Closes descriptors that came from a peer, on threads that may block.
//!
//! The sender chooses what a descriptor is, and can make its close take arbitrarily long: the close
//! of a TCP socket with `SO_LINGER` and unsent bytes waits for its peer (socket(7)), and the close
//! of a file may wait for a file server. An event loop therefore never closes such a descriptor
//! itself. The threads start with the first descriptor and exit after an idle timeout.

use std::collections::VecDeque;
use std::mem;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use socket2::SockRef;

use crate::event_loop::process_mark::PerProcess;

/// The maximum number of closes that may block at a time. Further descriptors stay open until one
/// of them completes.
const MAX_THREADS: usize = 4;

/// How long a thread waits for another descriptor before it exits.
const IDLE_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Disposal {
    queue: Mutex<Queue>,
    more: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<OwnedFd>,
    threads: usize,
    idle: usize,
}

/// Per process: a forked child has none of the threads, and one of them may have held the lock.
static DISPOSAL: PerProcess<Disposal> = PerProcess::new();

/// Closes descriptors that came from a peer, on a separate thread. For handlers that do not want
/// the descriptors they receive.
///
/// The close may take as long as the peer chooses, for example that of a TCP socket with
/// `SO_LINGER` and unsent bytes. `SO_LINGER` is cleared on a socket before it is closed.
///
/// Callable from any thread; returns at once.
pub fn close_descriptors(descriptors: impl IntoIterator<Item = OwnedFd>) {
    let descriptors: Vec<OwnedFd> = descriptors.into_iter().collect();
    if descriptors.is_empty() {
        return;
    }
    let disposal = DISPOSAL.get(Disposal::default);
    let mut queue = disposal.queue.lock();
    queue.waiting.extend(descriptors);
    let spawns = queue.idle == 0 && queue.threads < MAX_THREADS;
    if spawns {
        queue.threads += 1;
    }
    drop(queue);
    disposal.more.notify_one();
    let thread = thread::Builder::new().name("reveille-close".to_owned());
    if spawns && thread.spawn(|| disposal.close_all()).is_err() {
        let mut queue = disposal.queue.lock();
        queue.threads -= 1;
        // There is no thread: close them here. Without `SO_LINGER` that rarely blocks.
        let remaining = if queue.threads == 0 { mem::take(&mut queue.waiting) } else { VecDeque::new() };
        drop(queue);
        remaining.into_iter().for_each(close);
    }
}

impl Disposal {
    /// The body of a thread.
    fn close_all(&self) {
        let mut queue = self.queue.lock();
        loop {
            if let Some(descriptor) = queue.waiting.pop_front() {
                drop(queue);
                close(descriptor);
                queue = self.queue.lock();
                continue;
            }
            queue.idle += 1;
            let timed_out = self.more.wait_for(&mut queue, IDLE_TIMEOUT).timed_out();
            queue.idle -= 1;
            if timed_out && queue.waiting.is_empty() {
                queue.threads -= 1;
                return;
            }
        }
    }
}

/// Clears `SO_LINGER` first, so that a peer cannot block the threads. The error for a descriptor
/// that is not a socket is ignored.
fn close(descriptor: OwnedFd) {
    let _ = SockRef::from(&descriptor).set_linger(None);
    drop(descriptor);
}
