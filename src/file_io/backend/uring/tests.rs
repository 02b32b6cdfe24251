use std::collections::VecDeque;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{CWD, FileType, Mode};

use super::*;
use crate::file_io::file::File;

/// Creates a ring. Prints a message and returns `None` if that is not possible here.
fn ring(entries: u32) -> Option<Ring> {
    let ring = Ring::new(Arc::new(EventFd::new(0).unwrap()), entries);
    // Not `eprintln!`, whose output the test harness would keep.
    let skipped = |error| drop(writeln!(io::stderr(), "skipped: no ring to test: {error}"));
    ring.map_err(skipped).ok()
}

fn read(file: impl Into<OwnedFd>, n: usize) -> Operation {
    Operation::Read { file: File::from(file.into()), from: Position::Current, buffer: vec![0; n] }
}

fn zero() -> fs::File {
    fs::File::open("/dev/zero").unwrap()
}

fn pipe() -> (OwnedFd, fs::File) {
    let (reads, writes) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    (reads, fs::File::from(writes))
}

/// The number of completions of reads of `n` bytes.
fn good(outcomes: &[(Key, Outcome)], n: usize) -> usize {
    let is_good = |outcome: &Outcome| matches!(outcome, Outcome::Transferred(Ok(read), _) if *read == n);
    outcomes.iter().filter(|(_, outcome)| is_good(outcome)).count()
}

/// Takes outcomes until there are `n`, with a time limit.
fn take(ring: &mut Ring, n: usize) -> Vec<(Key, Outcome)> {
    let mut outcomes = Vec::new();
    loop {
        ring.take(&mut outcomes).unwrap();
        if outcomes.len() >= n {
            return outcomes;
        }
        let timeout = Timespec { tv_sec: 20, tv_nsec: 0 };
        let mut fds = [PollFd::new(&*ring.done, PollFlags::IN)];
        let polled = rustix::event::poll(&mut fds, Some(&timeout)).unwrap();
        assert!(polled > 0, "only {} outcomes arrived", outcomes.len());
        ring.done.read().unwrap();
    }
}

#[test]
fn operations_in_the_kernel_never_exceed_the_completion_queue() {
    let Some(mut ring) = ring(8) else { return };
    assert_eq!(ring.limit, 8);
    let mut waiting: VecDeque<_> = (0..1000).map(|key| (key, read(zero(), 10))).collect();
    let mut outcomes = Vec::new();
    while !waiting.is_empty() {
        ring.submit(&mut waiting).unwrap();
        assert!(ring.held.len() <= 8);
        outcomes.append(&mut take(&mut ring, 8));
    }
    assert_eq!(good(&outcomes, 10), 1000);
    assert!(outcomes.iter().map(|(key, _)| *key).eq(0..1000), "each once, and in order");
    assert_eq!(ring.overflows, 0);
    assert_eq!(ring.ring.completion().overflow(), 0);
}

#[test]
fn an_overflowed_completion_queue_is_detected_and_loses_nothing() {
    let Some(mut ring) = ring(2) else { return };
    for key in 0..40 {
        // Beyond the limit: completions are not taken.
        ring.push(key, read(zero(), 10));
        let _ = ring.ring.submit();
    }
    let outcomes = take(&mut ring, 40);
    assert_eq!(good(&outcomes, 10), 40);
    assert!(ring.overflows > 0);
    assert_eq!(ring.held.len(), 0);
}

#[test]
fn closing_a_ring_cancels_operations_and_frees_their_memory() {
    let Some(mut ring) = ring(16) else { return };
    let path = std::env::temp_dir().join(format!("reveille-ring-{}", std::process::id()));
    // May have been left by a killed process with the same id.
    let _ = fs::remove_file(&path);
    rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let (reads, ends): (Vec<_>, Vec<_>) = (0..10).map(|_| pipe()).unzip();
    let mut waiting: VecDeque<_> = (0..).zip(reads.into_iter().map(|pipe| read(pipe, 100))).collect();
    // This operation waits in a kernel thread.
    let c_path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    waiting.push_back((10, Operation::Open { path: c_path, flags: OFlags::RDONLY, mode: Mode::empty() }));
    ring.submit(&mut waiting).unwrap();
    let mut outcomes = Vec::new();
    ring.take(&mut outcomes).unwrap();
    assert!(outcomes.is_empty());
    assert_eq!(ring.held.len(), 11);
    ring.close();
    fs::remove_file(path).unwrap();
    assert_eq!(ring.held.len(), 0);
    for mut end in ends {
        assert_eq!(end.write(b"no reader").unwrap_err().kind(), ErrorKind::BrokenPipe);
    }
}

#[test]
fn cancelling_all_operations_does_not_overflow_the_completion_queue() {
    let Some(mut ring) = ring(8) else { return };
    let (pipes, _ends): (Vec<_>, Vec<_>) = (0..100).map(|_| pipe()).unzip();
    let mut waiting: VecDeque<_> = (0..).zip(pipes.into_iter().map(|pipe| read(pipe, 10))).collect();
    let mut ended = 0;
    while ended < 100 {
        ring.submit(&mut waiting).unwrap();
        // Without taking completions in between.
        assert!((0..100).all(|key| ring.cancel(key).is_none()));
        ring.submit(&mut waiting).unwrap();
        assert!(ring.held.len() + ring.cancels <= 16);
        let outcomes = take(&mut ring, 1);
        let is_cancelled = |error: &io::Error| error.raw_os_error() == Some(libc::ECANCELED);
        let all = outcomes.iter().all(
            |(_, outcome)| matches!(outcome, Outcome::Transferred(Err(error), _) if is_cancelled(error)),
        );
        assert!(all, "{outcomes:?}");
        ended += outcomes.len();
    }
    assert_eq!((ring.held.len(), ring.overflows), (0, 0));
}

#[test]
fn an_operation_that_does_not_complete_is_not_freed() {
    let Some(mut ring) = ring(4) else { return };
    let (reads, mut end) = pipe();
    let mut waiting = VecDeque::from([(7, read(reads, 100))]);
    ring.submit(&mut waiting).unwrap();
    ring.wait(Duration::ZERO);
    assert_eq!(ring.held.len(), 1, "it was not cancelled");
    ring.abandon();
    assert_eq!(ring.held.len(), 0);
    drop(ring);
    let abandoned = ABANDONED.lock();
    let is_it =
        |held: &&Held| matches!(&held.operation, Operation::Read { buffer, .. } if buffer.len() == 100);
    assert_eq!(abandoned.iter().filter(is_it).count(), 1);
    // Its file is still open.
    end.write_all(b"no reader").unwrap();
}

#[test]
fn a_descriptor_is_closed_once_even_if_cancelled() {
    let close = |descriptor, result| outcome(Operation::Close { descriptor }, Vec::new(), result);
    let (reads, writes) = pipe();
    let outcome = close(writes.into(), -libc::ECANCELED);
    assert!(matches!(outcome, Outcome::Done(Err(error)) if error.raw_os_error() == Some(libc::ECANCELED)));
    assert_eq!(fs::File::from(reads).read(&mut [0; 8]).unwrap(), 0, "the other end is closed");

    let Some(mut ring) = ring(4) else { return };
    let (reads, writes) = pipe();
    let descriptor = OwnedFd::from(writes);
    let mut waiting = VecDeque::from([(1, Operation::Close { descriptor })]);
    ring.submit(&mut waiting).unwrap();
    let outcomes = take(&mut ring, 1);
    assert!(matches!(outcomes[..], [(1, Outcome::Done(Ok(())))]));
    assert_eq!(fs::File::from(reads).read(&mut [0; 8]).unwrap(), 0, "the other end is closed");
}

#[test]
fn an_interrupted_operation_is_submitted_again() {
    let Some(mut ring) = ring(4) else { return };
    ring.retries.push((3, read(zero(), 10)));
    assert!(ring.has_more());
    ring.submit(&mut VecDeque::new()).unwrap();
    assert!(!ring.has_more());
    let outcomes = take(&mut ring, 1);
    assert_eq!(good(&outcomes, 10), 1);
}

#[test]
fn the_error_explains_why_there_is_no_ring() {
    for (number, kind, text) in [
        (libc::ENOSYS, ErrorKind::Unsupported, "the kernel does not support it"),
        (libc::EPERM, ErrorKind::PermissionDenied, "kernel.io_uring_disabled or a seccomp filter"),
        (libc::ENOMEM, ErrorKind::OutOfMemory, "RLIMIT_MEMLOCK"),
        (libc::EMFILE, io::Error::from_raw_os_error(libc::EMFILE).kind(), "Too many open files"),
    ] {
        let error = setup::explain(io::Error::from_raw_os_error(number));
        assert_eq!(error.kind(), kind);
        let message = error.to_string();
        assert!(message.starts_with("no io_uring: ") && message.contains(text), "{message}");
    }
}
