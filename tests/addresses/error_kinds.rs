//! The kinds of the crate's errors. Each meaning has one kind in all error types.

use std::io::{self, ErrorKind};

use crate::support::with_watchdog;
use reveille::EventLoop;
use reveille::codec::{LengthError, LineError};
use reveille::ipc::{RingError, RingSendError};
use reveille::net::{DatagramError, ResolverError, SendError};
use reveille::task::{CallError, JobError, MailboxLimit, PostError, WorkersError};

#[test]
fn one_meaning_has_one_kind_in_every_error_type() {
    let full: [io::Error; 6] = [
        SendError::Full.into(),
        DatagramError::Full.into(),
        RingSendError::Full.into(),
        CallError::Full.into(),
        WorkersError::Full.into(),
        ResolverError::Full.into(),
    ];
    let closed: [io::Error; 8] = [
        SendError::Closed.into(),
        SendError::ShutDown.into(),
        DatagramError::Closed.into(),
        RingSendError::Closed.into(),
        CallError::LoopEnded.into(),
        WorkersError::Closed.into(),
        WorkersError::LoopEnded.into(),
        ResolverError::LoopEnded.into(),
    ];
    let too_long: [io::Error; 2] =
        [DatagramError::TooLong.into(), RingSendError::TooLong { longest: 1 }.into()];
    let broken: [io::Error; 4] = [
        RingError::Position.into(),
        RingSendError::Ended(RingError::Length).into(),
        LineError::TooLong { limit: 1 }.into(),
        LengthError::TooLong { length: 2, limit: 1 }.into(),
    ];
    let panicked: [io::Error; 2] = [CallError::Panicked.into(), JobError::Panicked.into()];
    let meanings = [
        (ErrorKind::WouldBlock, &full[..]),
        (ErrorKind::BrokenPipe, &closed[..]),
        (ErrorKind::InvalidInput, &too_long[..]),
        (ErrorKind::InvalidData, &broken[..]),
        (ErrorKind::Other, &panicked[..]),
    ];
    for (kind, errors) in meanings {
        errors.iter().for_each(|error| assert_eq!(error.kind(), kind, "{error}"));
    }
    assert_eq!(io::Error::from(JobError::Cancelled).raw_os_error(), Some(libc::ECANCELED));
}

#[test]
fn a_refused_task_has_the_kind_of_its_reason() {
    with_watchdog(crate::support::LIMIT, || {
        let event_loop = EventLoop::builder().mailbox(MailboxLimit::Refuse(1)).build().unwrap();
        let handle = event_loop.handle();
        handle.queue_in_loop(|_| ()).unwrap();
        let full = handle.queue_in_loop(|_| ()).unwrap_err();
        assert_eq!(full.reason(), PostError::Full);
        assert_eq!(io::Error::from(full).kind(), ErrorKind::WouldBlock);
        drop(event_loop);
        let gone = handle.queue_in_loop(|_| ()).unwrap_err();
        assert_eq!(gone.reason(), PostError::LoopEnded);
        assert_eq!(io::Error::from(gone).kind(), ErrorKind::BrokenPipe);
    });
}
