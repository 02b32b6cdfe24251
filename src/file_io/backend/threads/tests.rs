use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::ThreadPool;
use crate::eventfd::EventFd;
use crate::file_io::file::File;
use crate::file_io::operation::{Operation, Outcome, Position, Sync};
use crate::file_io::slab::Key;

fn pool(limit: usize, idle_timeout: Duration) -> (ThreadPool, Arc<EventFd>) {
    let done = Arc::new(EventFd::new(0).unwrap());
    (ThreadPool::new(Arc::clone(&done), NonZeroUsize::new(limit).unwrap(), idle_timeout), done)
}

/// An operation that completes at once, with an error.
fn short() -> Operation {
    let (pipe, _) = rustix::pipe::pipe().unwrap();
    Operation::Sync { file: File::from(pipe), what: Sync::All }
}

/// A read that blocks until the other end of a pipe is used, and that end.
fn blocking() -> (Operation, OwnedFd) {
    let (reads, writes) = rustix::pipe::pipe().unwrap();
    (Operation::Read { file: File::from(reads), from: Position::Current, buffer: vec![0; 8] }, writes)
}

fn submit(pool: &ThreadPool, operations: impl IntoIterator<Item = Operation>) {
    let mut refused = Vec::new();
    let mut waiting: VecDeque<_> = (0..).zip(operations).collect();
    pool.submit(&mut waiting, &mut refused);
    assert!(waiting.is_empty() && refused.is_empty());
}

/// Waits for `n` outcomes, with a time limit.
fn take(pool: &ThreadPool, done: &EventFd, n: usize) -> Vec<(Key, Outcome)> {
    let mut outcomes = Vec::new();
    while outcomes.len() < n {
        let timeout = Timespec { tv_sec: 20, tv_nsec: 0 };
        let mut fds = [PollFd::new(done, PollFlags::IN)];
        let polled = rustix::event::poll(&mut fds, Some(&timeout)).unwrap();
        assert!(polled > 0, "only {} outcomes arrived", outcomes.len());
        done.read().unwrap();
        pool.take(&mut outcomes);
    }
    outcomes
}

/// Waits until the condition holds, with a time limit.
fn until(mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(20), "the condition does not become true");
        thread::yield_now();
    }
}

#[test]
fn threads_are_started_on_demand_up_to_the_limit() {
    let (pool, done) = pool(3, Duration::from_secs(60));
    assert_eq!(pool.threads(), 0);
    let (first, first_end) = blocking();
    submit(&pool, [first]);
    assert_eq!(pool.threads(), 1);
    let (others, ends): (Vec<_>, Vec<_>) = (0..5).map(|_| blocking()).unzip();
    submit(&pool, others);
    assert_eq!(pool.threads(), 3);
    drop((first_end, ends));
    let outcomes = take(&pool, &done, 6);
    assert!(outcomes.iter().all(|(_, outcome)| matches!(outcome, Outcome::Transferred(Ok(0), _))));
    assert_eq!(pool.threads(), 3);
    pool.close();
    until(|| pool.threads() == 0);
}

#[test]
fn idle_threads_end_and_new_work_starts_others() {
    let (pool, done) = pool(2, Duration::from_millis(1));
    for _ in 0..3 {
        submit(&pool, [short(), short(), short()]);
        assert_eq!(take(&pool, &done, 3).len(), 3);
        until(|| pool.threads() == 0);
    }
    pool.close();
}

#[test]
fn a_blocked_thread_keeps_its_file_until_the_call_returns() {
    let (pool, done) = pool(1, Duration::from_secs(60));
    let (read, end) = blocking();
    let (never_begun, other_end) = blocking();
    submit(&pool, [read, never_begun]);
    // Wait until the thread has begun the first operation.
    until(|| pool.shared.state.lock().queue.len() == 1);
    pool.close();
    assert_eq!(rustix::io::write(&other_end, b"no reader"), Err(rustix::io::Errno::PIPE));
    assert_eq!(pool.threads(), 1);
    assert_eq!(Arc::strong_count(&done), 1, "the pool has dropped its eventfd");
    assert_eq!(rustix::io::write(&end, b"at last"), Ok(7));
    until(|| pool.threads() == 0);
    assert_eq!(rustix::io::write(&end, b"no reader"), Err(rustix::io::Errno::PIPE));
    assert!(done.counter().is_ok_and(|counter| counter == 0), "nothing is signalled");
}
