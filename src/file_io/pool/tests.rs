use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::super::file::File;
use super::super::operation::{Operation, Outcome, Position, Sync};
use super::Pool;
use crate::eventfd::EventFd;

fn pool(limit: usize, rest: Duration) -> (Pool, Arc<EventFd>) {
    let done = Arc::new(EventFd::builder().blocking().build().unwrap());
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
    let mut outcomes = Vec::new();
    while outcomes.len() < 6 {
        done.read().unwrap();
        pool.take(&mut outcomes);
    }
    assert!(outcomes.iter().all(|(_, outcome)| matches!(outcome, Outcome::Moved(Ok(0), _))));
    assert_eq!(pool.threads(), 3);
    pool.close();
    while pool.threads() > 0 {
        thread::yield_now();
    }
}

#[test]
fn threads_that_have_rested_end_and_others_are_started_when_there_is_work() {
    let (pool, done) = pool(2, Duration::from_millis(1));
    for _ in 0..3 {
        submit(&pool, [brief(), brief(), brief()]);
        let mut outcomes = Vec::new();
        while outcomes.len() < 3 {
            done.read().unwrap();
            pool.take(&mut outcomes);
        }
        while pool.threads() > 0 {
            thread::yield_now();
        }
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
    while pool.shared.state.lock().to_do.len() > 1 {
        thread::yield_now();
    }
    pool.close();
    assert_eq!(rustix::io::write(&other_end, b"for nobody"), Err(rustix::io::Errno::PIPE));
    assert_eq!(pool.threads(), 1);
    assert_eq!(rustix::io::write(&end, b"at last"), Ok(7));
    while pool.threads() > 0 {
        thread::yield_now();
    }
    assert_eq!(rustix::io::write(&end, b"for nobody"), Err(rustix::io::Errno::PIPE));
    assert!(done.counter().is_ok_and(|counter| counter == 0), "nobody is told");
}
