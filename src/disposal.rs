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

/// How many closes may wait at a time. Further descriptors stay open until one of them is done.
const MOST_THREADS: usize = 4;

/// How long a thread waits for more.
const PATIENCE: Duration = Duration::from_secs(1);

struct Disposal {
    waiting: VecDeque<OwnedFd>,
    threads: usize,
    idle: usize,
    /// The process that has the threads. A forked one has none of them.
    process: u32,
}

static DISPOSAL: Mutex<Disposal> =
    Mutex::new(Disposal { waiting: VecDeque::new(), threads: 0, idle: 0, process: 0 });
static MORE: Condvar = Condvar::new();

/// Closes descriptors that came from a peer on a thread of the crate's own, as a close may take as long as the peer likes: that of a TCP
/// socket with `SO_LINGER` and unsent bytes, for one. For handlers that have been given descriptors which they do not want.
///
/// From any thread; returns at once. A socket loses its `SO_LINGER` before it is closed.
pub fn close_descriptors(descriptors: impl IntoIterator<Item = OwnedFd>) {
    let descriptors: Vec<OwnedFd> = descriptors.into_iter().collect();
    if descriptors.is_empty() {
        return;
    }
    let mut disposal = DISPOSAL.lock();
    let process = std::process::id();
    if mem::replace(&mut disposal.process, process) != process {
        (disposal.threads, disposal.idle) = (0, 0);
    }
    disposal.waiting.extend(descriptors);
    let starts = disposal.idle == 0 && disposal.threads < MOST_THREADS;
    if starts {
        disposal.threads += 1;
    }
    drop(disposal);
    MORE.notify_one();
    if starts && thread::Builder::new().name("reveille-close".to_owned()).spawn(close_all).is_err() {
        let mut disposal = DISPOSAL.lock();
        disposal.threads -= 1;
        // Without any thread they are closed here, which without `SO_LINGER` rarely waits.
        let left = if disposal.threads == 0 { mem::take(&mut disposal.waiting) } else { VecDeque::new() };
        drop(disposal);
        left.into_iter().for_each(close);
    }
}

fn close_all() {
    let mut disposal = DISPOSAL.lock();
    loop {
        if let Some(descriptor) = disposal.waiting.pop_front() {
            drop(disposal);
            close(descriptor);
            disposal = DISPOSAL.lock();
            continue;
        }
        disposal.idle += 1;
        let timed_out = MORE.wait_for(&mut disposal, PATIENCE).timed_out();
        disposal.idle -= 1;
        if timed_out && disposal.waiting.is_empty() {
            disposal.threads -= 1;
            return;
        }
    }
}

/// Without `SO_LINGER`, so that the threads are not kept for as long as a peer likes. What is no socket has no such option.
fn close(descriptor: OwnedFd) {
    let _ = SockRef::from(&descriptor).set_linger(None);
    drop(descriptor);
}
