//! Closing descriptors that came from a peer, on threads that may wait.
//!
//! What a descriptor is, its sender has chosen, and the close may take as long as the sender likes: that of a TCP socket with `SO_LINGER`
//! and unsent bytes waits for its peer (socket(7)), and that of a file may wait for a file server. So a loop never closes such a descriptor
//! itself. The threads begin with the first one, and end when there has been none for a while.

use std::collections::VecDeque;
use std::mem;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use socket2::SockRef;

use crate::event_loop::process_mark::PerProcess;

/// How many closes may wait at a time. Further descriptors stay open until one of them is done.
const MOST_THREADS: usize = 4;

/// How long a thread waits for more.
const PATIENCE: Duration = Duration::from_secs(1);

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

/// A forked child has none of the threads, and one of them may have held the lock.
static DISPOSAL: PerProcess<Disposal> = PerProcess::new();

/// Closes descriptors that came from a peer on a thread of the crate's own, as a close may take as long as the peer likes: that of a TCP
/// socket with `SO_LINGER` and unsent bytes, for one. For handlers that have been given descriptors which they do not want.
///
/// From any thread; returns at once. A socket loses its `SO_LINGER` before it is closed.
pub fn close_descriptors(descriptors: impl IntoIterator<Item = OwnedFd>) {
    let descriptors: Vec<OwnedFd> = descriptors.into_iter().collect();
    if descriptors.is_empty() {
        return;
    }
    let disposal = DISPOSAL.get(Disposal::default);
    let mut queue = disposal.queue.lock();
    queue.waiting.extend(descriptors);
    let starts = queue.idle == 0 && queue.threads < MOST_THREADS;
    if starts {
        queue.threads += 1;
    }
    drop(queue);
    disposal.more.notify_one();
    let thread = thread::Builder::new().name("reveille-close".to_owned());
    if starts && thread.spawn(|| disposal.close_all()).is_err() {
        let mut queue = disposal.queue.lock();
        queue.threads -= 1;
        // Without any thread they are closed here, which without `SO_LINGER` rarely waits.
        let left = if queue.threads == 0 { mem::take(&mut queue.waiting) } else { VecDeque::new() };
        drop(queue);
        left.into_iter().for_each(close);
    }
}

impl Disposal {
    /// What a thread does.
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
            let timed_out = self.more.wait_for(&mut queue, PATIENCE).timed_out();
            queue.idle -= 1;
            if timed_out && queue.waiting.is_empty() {
                queue.threads -= 1;
                return;
            }
        }
    }
}

/// Without `SO_LINGER`, so that the threads are not kept for as long as a peer likes. What is no socket has no such option.
fn close(descriptor: OwnedFd) {
    let _ = SockRef::from(&descriptor).set_linger(None);
    drop(descriptor);
}
