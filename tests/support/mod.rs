//! What the integration tests share: limits on their time, and witnesses of what was called and
//! dropped.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod alone;
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
pub(crate) mod mailbox;
pub(crate) mod net;
pub(crate) mod ready;
pub(crate) mod relay;
pub(crate) mod ring;
pub(crate) mod shortage;
pub(crate) mod tasks;
#[cfg(target_arch = "x86_64")]
pub(crate) mod traced_server;
// The numbers of the calls, and where a stopped thread keeps them.
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

/// How long a test may take. Nothing depends on it but when a hang becomes a failure.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Runs `test` on a thread of its own, which has the name of the test. A panic of `test` is passed
/// on. If `test` has not ended within `limit` it hangs: this call panics with the test's name, and
/// leaves the thread behind, so that the other tests of the binary still run.
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
        Err(_) => panic!("{name} is not done within {limit:?}"),
    }
}

/// Runs `test` with a loop, under a watchdog. An assertion that fails in a callback fails the test.
#[track_caller]
pub(crate) fn with_loop<R: Send + 'static>(test: impl FnOnce(&EventLoop) -> R + Send + 'static) -> R {
    with_watchdog(LIMIT, || test(&EventLoop::builder().propagate_panics().build().expect("a loop")))
}

/// As [`with_loop`], with the default settings: a panic in a callback is caught, and counted.
#[track_caller]
pub(crate) fn with_catching_loop<R: Send + 'static>(
    test: impl FnOnce(&EventLoop) -> R + Send + 'static,
) -> R {
    with_watchdog(LIMIT, || test(&EventLoop::new().expect("a loop")))
}

/// As [`with_loop`], with a loop that goes by a clock of the test's.
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

/// Calls `call` on a thread of its own, and waits for what it answers.
pub(crate) fn on_another_thread<R: Send>(call: impl FnOnce() -> R + Send) -> R {
    thread::scope(|scope| scope.spawn(call).join().expect("a call without a panic"))
}

/// Has several threads make so many posts each, and runs the loop until all have been run: each
/// thread's in their order, none twice. Answers how many there were in all.
#[track_caller]
pub(crate) fn assert_posts_keep_their_order(event_loop: &EventLoop, posts: u32) -> u64 {
    const PRODUCERS: usize = 4;

    thread_local! {
        /// For each producer the number of its next task.
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
                            assert_eq!(next[producer], number, "out of order, or run twice");
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

/// Makes one turn, without waiting.
pub(crate) fn turn(event_loop: &EventLoop) {
    event_loop.run_once(Duration::ZERO).expect("a turn");
}

/// The message of the panic that `call` ends with.
pub(crate) fn panic_of<R>(call: impl FnOnce() -> R) -> String {
    let payload = catch_unwind(AssertUnwindSafe(call)).err().expect("a panic");
    match payload.downcast::<String>() {
        Ok(message) => *message,
        Err(payload) => payload.downcast_ref::<&str>().expect("a panic with a message").to_string(),
    }
}

/// What happened, in order. Clones write to the same list.
#[derive(Debug)]
pub(crate) struct Recorder<T = &'static str>(Rc<RefCell<Vec<T>>>);

impl<T> Recorder<T> {
    pub(crate) fn new() -> Recorder<T> {
        Recorder(Rc::default())
    }

    pub(crate) fn record(&self, what: T) {
        self.0.borrow_mut().push(what);
    }

    /// What has been recorded since this was last asked.
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

/// Counts events on any thread. Clones are the same count.
#[derive(Clone, Debug, Default)]
pub(crate) struct Count(Arc<AtomicUsize>);

impl Count {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, SeqCst);
    }

    pub(crate) fn get(&self) -> usize {
        self.0.load(SeqCst)
    }

    /// A value whose drop is counted.
    pub(crate) fn drop_token(&self) -> OnDrop<impl FnOnce() + Send + use<>> {
        let count = self.clone();
        OnDrop::new(move || count.add())
    }
}

/// Calls a closure when it is dropped.
pub(crate) struct OnDrop<F: FnOnce()>(Option<F>);

impl<F: FnOnce()> OnDrop<F> {
    pub(crate) fn new(then: F) -> OnDrop<F> {
        OnDrop(Some(then))
    }

    /// Nothing but a mention, which makes a closure capture the whole of it.
    pub(crate) fn keep(&self) {}
}

impl<F: FnOnce()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        if let Some(then) = self.0.take() {
            then();
        }
    }
}

/// Whether a poll of the descriptor would return at once.
pub(crate) fn is_readable(fd: impl AsFd) -> bool {
    poll(fd, Some(Duration::ZERO))
}

/// Waits until the descriptor is readable.
pub(crate) fn wait_readable(fd: impl AsFd) {
    assert!(poll(fd, None), "a poll without a timeout ends with an event");
}

/// Waits until the descriptor is readable, but not longer than `timeout`. Answers whether it is.
pub(crate) fn poll(fd: impl AsFd, timeout: Option<Duration>) -> bool {
    let timeout = timeout.map(|timeout| Timespec::try_from(timeout).expect("a short timeout"));
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    rustix::io::retry_on_intr(|| rustix::event::poll(&mut fds, timeout.as_ref())).expect("a poll") > 0
}

/// Waits until the thread sleeps in the kernel. If it has nothing to wait for but its loop, that is
/// where it sleeps.
pub(crate) fn until_asleep(thread: Pid) {
    let path = format!("/proc/self/task/{}/stat", thread.as_raw_nonzero());
    loop {
        let stat = fs::read_to_string(&path).expect("the thread lives");
        // The state follows the name, which is in parentheses and may have others in it.
        let (_, state) = stat.rsplit_once(") ").expect("a name in parentheses");
        if state.starts_with('S') {
            return;
        }
        thread::yield_now();
    }
}

/// How often the loop's eventfd has been written to.
pub(crate) fn wakes(handle: &LoopHandle) -> u64 {
    handle.counters().wakes
}

/// What has been written to the loop's eventfd and not been read, as the kernel has it.
pub(crate) fn unread_wakes(event_loop: &EventLoop) -> u64 {
    let fd_info =
        |fd: i32| fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).expect("an open descriptor");
    let watched = fd_info(event_loop.as_fd().as_raw_fd());
    // A loop without channels of a user watches two descriptors, and one of them is an eventfd.
    let counters: Vec<u64> = watched
        .lines()
        .filter_map(|line| line.strip_prefix("tfd:")?.split_whitespace().next())
        .map(|fd| fd_info(fd.parse().expect("a descriptor")))
        .filter_map(|info| {
            let counter = info.lines().find_map(|line| line.strip_prefix("eventfd-count:"))?;
            Some(u64::from_str_radix(counter.trim(), 16).expect("a number"))
        })
        .collect();
    let [counter] = counters[..] else { panic!("not one eventfd: {counters:?}") };
    counter
}
