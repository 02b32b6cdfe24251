use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::Pool;
use crate::eventfd::EventFd;
use crate::file_io::file::File;
use crate::file_io::operation::{Operation, Outcome, Position, Sync};
use crate::file_io::slab::Key;

fn pool(limit: usize, rest: Duration) -> (Pool, Arc<EventFd>) {
    let done = Arc::new(EventFd::new(0).unwrap());
    (Pool::new(Arc::clone(&done), NonZeroUsize::new(limit).unwrap(), rest), done)
}

/// What ends at once, with an error.
fn brief() -> Operation {
    let (pipe, _) = rustix::pipe::pipe().unwrap();
    Operation::Sync { file: File::from(pipe), what: Sync::All }
}

/// A read that waits for the other end of a pipe, and that end.
fn lengthy() -> (Operation, OwnedFd) {
    let (reads, writes) = rustix::pipe::pipe().unwrap();
    (Operation::Read { file: File::from(reads), from: Position::Current, buffer: vec![0; 8] }, writes)
}

fn submit(pool: &Pool, operations: impl IntoIterator<Item = Operation>) {
    let mut refused = Vec::new();
    let mut waiting: VecDeque<_> = (0..).zip(operations).collect();
    pool.submit(&mut waiting, &mut refused);
    assert!(waiting.is_empty() && refused.is_empty());
}

/// Waits until there are `n` outcomes, which a failure does not wait for without end.
fn take(pool: &Pool, done: &EventFd, n: usize) -> Vec<(Key, Outcome)> {
    let mut outcomes = Vec::new();
    while outcomes.len() < n {
        let timeout = Timespec { tv_sec: 20, tv_nsec: 0 };
        let mut fds = [PollFd::new(done, PollFlags::IN)];
        let polled = rustix::event::poll(&mut fds, Some(&timeout)).unwrap();
        assert!(polled > 0, "no more comes than {}", outcomes.len());
        done.read().unwrap();
        pool.take(&mut outcomes);
    }
    outcomes
}

/// Waits until it is so.
fn until(mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(20), "it does not come to that");
        thread::yield_now();
    }
}

#[test]
fn there_are_as_many_threads_as_are_needed_up_to_the_limit() {
    let (pool, done) = pool(3, Duration::from_secs(60));
    assert_eq!(pool.threads(), 0);
    let (first, first_end) = lengthy();
    submit(&pool, [first]);
    assert_eq!(pool.threads(), 1);
    let (others, ends): (Vec<_>, Vec<_>) = (0..5).map(|_| lengthy()).unzip();
    submit(&pool, others);
    assert_eq!(pool.threads(), 3);
    drop((first_end, ends));
    let outcomes = take(&pool, &done, 6);
    assert!(outcomes.iter().all(|(_, outcome)| matches!(outcome, Outcome::Moved(Ok(0), _))));
    assert_eq!(pool.threads(), 3);
    pool.close();
    until(|| pool.threads() == 0);
}

#[test]
fn threads_that_have_rested_end_and_others_are_started_when_there_is_work() {
    let (pool, done) = pool(2, Duration::from_millis(1));
    for _ in 0..3 {
        submit(&pool, [brief(), brief(), brief()]);
        assert_eq!(take(&pool, &done, 3).len(), 3);
        until(|| pool.threads() == 0);
    }
    pool.close();
}

#[test]
fn a_thread_that_is_held_up_keeps_its_file_and_ends_when_the_call_does() {
    let (pool, done) = pool(1, Duration::from_secs(60));
    let (read, end) = lengthy();
    let (never_begun, other_end) = lengthy();
    submit(&pool, [read, never_begun]);
    // When it has gone to work, and not just been started.
    until(|| pool.shared.state.lock().to_do.len() == 1);
    pool.close();
    assert_eq!(rustix::io::write(&other_end, b"for nobody"), Err(rustix::io::Errno::PIPE));
    assert_eq!(pool.threads(), 1);
    assert_eq!(Arc::strong_count(&done), 1, "the counter would be closed now");
    assert_eq!(rustix::io::write(&end, b"at last"), Ok(7));
    until(|| pool.threads() == 0);
    assert_eq!(rustix::io::write(&end, b"for nobody"), Err(rustix::io::Errno::PIPE));
    assert!(done.counter().is_ok_and(|counter| counter == 0), "nobody is told");
}
