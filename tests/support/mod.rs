//! Code that the integration tests share: time limits, and counters and recorders of calls and
//! drops.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod actor;
pub(crate) mod alone;
pub(crate) mod bench;
pub(crate) mod bomb;
pub(crate) mod calls;
pub(crate) mod channels;
pub(crate) mod client;
pub(crate) mod clock;
pub(crate) mod counting;
pub(crate) mod endings;
pub(crate) mod example;
pub(crate) mod failures;
pub(crate) mod files;
pub(crate) mod folder;
pub(crate) mod forked;
pub(crate) mod futures;
pub(crate) mod idle;
pub(crate) mod knock;
pub(crate) mod mailbox;
pub(crate) mod members;
pub(crate) mod net;
pub(crate) mod random;
pub(crate) mod ready;
pub(crate) mod relay;
pub(crate) mod replies;
pub(crate) mod ring;
pub(crate) mod shortage;
pub(crate) mod tasks;
#[cfg(target_arch = "x86_64")]
pub(crate) mod traced_server;
// Uses the system call numbers and the registers of x86-64.
#[cfg(target_arch = "x86_64")]
pub(crate) mod tracer;
pub(crate) mod udp;
pub(crate) mod unix;

use std::cell::RefCell;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc;
use std::time::Duration;
use std::{fs, thread};

use reveille::time::VirtualClock;
use reveille::{EventLoop, LoopHandle};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::thread::Pid;

pub(crate) const KIB: usize = 1024;
pub(crate) const MIB: usize = 1024 * KIB;

/// The time limit of a test. A test that exceeds it fails; no other behaviour depends on it.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Runs `test` on a new thread, which has the name of the test. A panic of `test` is propagated. If
/// `test` has not ended within `limit`, this call panics with the test's name and detaches the
/// thread, so that the other tests of the binary still run.
#[track_caller]
pub(crate) fn with_watchdog<R: Send + 'static>(
    limit: Duration,
    test: impl FnOnce() -> R + Send + 'static,
) -> R {
    let name = thread::current().name().unwrap_or("a test").to_owned();
    let body = thread::Builder::new().name(name.clone()).spawn(test).expect("a thread");
    // Another thread joins the body, because a join has no time limit. Only a join waits for the
    // destructors of thread-locals, which can hang as well.
    let (ended, has_ended) = mpsc::channel();
    thread::spawn(move || ended.send(body.join()));
    match has_ended.recv_timeout(limit) {
        Ok(Ok(result)) => result,
        Ok(Err(payload)) => resume_unwind(payload),
        Err(_) => panic!("{name} has not ended within {limit:?}"),
    }
}

/// Runs `test` with a loop, under a watchdog. An assertion that fails in a callback fails the test.
#[track_caller]
pub(crate) fn with_loop<R: Send + 'static>(test: impl FnOnce(&EventLoop) -> R + Send + 'static) -> R {
    with_watchdog(LIMIT, || test(&EventLoop::builder().propagate_panics().build().expect("a loop")))
}

/// Same as [`with_loop`], with the default settings: a panic in a callback is caught and counted.
#[track_caller]
pub(crate) fn with_catching_loop<R: Send + 'static>(
    test: impl FnOnce(&EventLoop) -> R + Send + 'static,
) -> R {
    with_watchdog(LIMIT, || test(&EventLoop::new().expect("a loop")))
}

/// Same as [`with_loop`], with a virtual clock that the test controls.
#[track_caller]
pub(crate) fn with_clock<R: Send + 'static>(
    test: impl FnOnce(&EventLoop, &VirtualClock) -> R + Send + 'static,
) -> R {
    with_watchdog(LIMIT, || {
        let clock = VirtualClock::new();
        let builder = EventLoop::builder().propagate_panics().virtual_clock(clock.clone());
        test(&builder.build().expect("a loop"), &clock)
    })
}

/// Runs `call` on a new thread and returns its result.
pub(crate) fn on_another_thread<R: Send>(call: impl FnOnce() -> R + Send) -> R {
    thread::scope(|scope| scope.spawn(call).join().expect("the call panicked"))
}

/// Posts `posts` tasks from each of several threads and runs the loop until all tasks have run.
/// Checks that the tasks of each thread run once and in their order. Returns the total number of
/// tasks.
#[track_caller]
pub(crate) fn assert_posts_keep_their_order(event_loop: &EventLoop, posts: u32) -> u64 {
    const PRODUCERS: usize = 4;

    thread_local! {
        /// For each producer, the number of its next task.
        static NEXT: RefCell<[u32; PRODUCERS]> = const { RefCell::new([0; PRODUCERS]) };
    }
    let handle = event_loop.handle();
    thread::scope(|scope| {
        for producer in 0..PRODUCERS {
            let handle = handle.clone();
            scope.spawn(move || {
                for number in 0..posts {
                    let task = move |event_loop: &EventLoop| {
                        let finished = NEXT.with_borrow_mut(|next| {
                            assert_eq!(next[producer], number, "a task ran out of order or twice");
                            next[producer] += 1;
                            next.iter().all(|&next| next == posts)
                        });
                        if finished {
                            event_loop.quit();
                        }
                    };
                    match number % 2 {
                        0 => handle.queue_in_loop(task).unwrap(),
                        _ => handle.run_in_loop(task).unwrap(),
                    }
                }
            });
        }
        event_loop.run().unwrap();
    });
    assert_eq!(NEXT.take(), [posts; PRODUCERS]);
    PRODUCERS as u64 * u64::from(posts)
}

/// Runs one turn without waiting.
pub(crate) fn turn(event_loop: &EventLoop) {
    event_loop.run_once(Duration::ZERO).expect("a turn");
}

/// Runs `call`, which must panic, and returns the panic message.
pub(crate) fn panic_of<R>(call: impl FnOnce() -> R) -> String {
    let payload = catch_unwind(AssertUnwindSafe(call)).err().expect("a panic");
    match payload.downcast::<String>() {
        Ok(message) => *message,
        Err(payload) => payload.downcast_ref::<&str>().expect("a panic with a message").to_string(),
    }
}

/// A list of recorded values, oldest first. Clones share the list.
#[derive(Debug)]
pub(crate) struct Recorder<T = &'static str>(Rc<RefCell<Vec<T>>>);

impl<T> Recorder<T> {
    pub(crate) fn new() -> Recorder<T> {
        Recorder(Rc::default())
    }

    pub(crate) fn record(&self, value: T) {
        self.0.borrow_mut().push(value);
    }

    /// Returns the values recorded since the last call.
    pub(crate) fn take(&self) -> Vec<T> {
        mem::take(&mut *self.0.borrow_mut())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.borrow().len()
    }
}

impl<T> Clone for Recorder<T> {
    fn clone(&self) -> Recorder<T> {
        Recorder(Rc::clone(&self.0))
    }
}

/// A counter for events on any thread. Clones share the counter.
#[derive(Clone, Debug, Default)]
pub(crate) struct Count(Arc<AtomicUsize>);

impl Count {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, SeqCst);
    }

    pub(crate) fn get(&self) -> usize {
        self.0.load(SeqCst)
    }

    /// Returns a value whose drop is counted.
    pub(crate) fn drop_token(&self) -> OnDrop<impl FnOnce() + Send + use<>> {
        let count = self.clone();
        OnDrop::new(move || count.add())
    }
}

/// Calls a closure when it is dropped.
pub(crate) struct OnDrop<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> OnDrop<F> {
    pub(crate) fn new(callback: F) -> OnDrop<F> {
        OnDrop(Some(callback))
    }

    /// Does nothing. A closure that calls it captures the whole value, not only a field.
    pub(crate) fn keep(&self) {}
}

impl<F: FnOnce()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        if let Some(callback) = self.0.take() {
            callback();
        }
    }
}

/// Whether the descriptor is readable now.
pub(crate) fn is_readable(fd: impl AsFd) -> bool {
    poll(fd, Some(Duration::ZERO))
}

/// Waits until the descriptor is readable.
pub(crate) fn wait_readable(fd: impl AsFd) {
    assert!(poll(fd, None), "a poll without a timeout returned no event");
}

/// Waits until the descriptor is readable, for at most `timeout`. Returns whether it is.
pub(crate) fn poll(fd: impl AsFd, timeout: Option<Duration>) -> bool {
    let timeout = timeout.map(|timeout| Timespec::try_from(timeout).expect("a short timeout"));
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, timeout.as_ref())).expect("a poll") > 0
}

/// Waits until the thread sleeps in the kernel. A thread that only runs a loop then sleeps in the
/// poll.
pub(crate) fn wait_until_asleep(thread: Pid) {
    let path = format!("/proc/self/task/{}/stat", thread.as_raw_nonzero());
    loop {
        let stat = fs::read_to_string(&path).expect("the thread lives");
        // The state follows the name, which is in parentheses and may contain more of them.
        let (_, state) = stat.rsplit_once(") ").expect("a name in parentheses");
        if state.starts_with('S') {
            return;
        }
        thread::yield_now();
    }
}

/// The number of writes to the loop's eventfd.
pub(crate) fn wakes(handle: &LoopHandle) -> u64 {
    handle.counters().wakes
}

/// The counter of the loop's eventfd in the kernel: the writes that have not been read.
pub(crate) fn unread_wakes(event_loop: &EventLoop) -> u64 {
    let fd_info =
        |fd: i32| fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).expect("an open descriptor");
    let epoll_info = fd_info(event_loop.as_fd().as_raw_fd());
    // A loop without user channels watches two descriptors. One of them is an eventfd.
    let counters: Vec<u64> = epoll_info
        .lines()
        .filter_map(|line| line.strip_prefix("tfd:")?.split_whitespace().next())
        .map(|fd| fd_info(fd.parse().expect("a descriptor")))
        .filter_map(|info| {
            let counter = info.lines().find_map(|line| line.strip_prefix("eventfd-count:"))?;
            Some(u64::from_str_radix(counter.trim(), 16).expect("a number"))
        })
        .collect();
    let [counter] = counters[..] else { panic!("expected one eventfd, found the counters {counters:?}") };
    counter
}
