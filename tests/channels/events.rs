//! Events of channels: readiness, end of input, errors, and changes of interest.

use std::cell::Cell;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::rc::Rc;
use std::time::Instant;

use crate::support::channels::{counted, drain, is_closed, pair};
use crate::support::{Count, Recorder, is_readable, turn, with_loop};
use reveille::EventFd;
use reveille::io::{Channel, Interest};
use rustix::net::SendFlags;
use rustix::pipe::PipeFlags;

/// Returns a non-blocking pipe: the read end and the write end.
fn pipe() -> (File, File) {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).unwrap();
    (File::from(read), File::from(write))
}

#[test]
fn a_readable_channel_is_called_only_when_bytes_arrive() {
    with_loop(|event_loop| {
        let (ours, mut theirs) = pair();
        let seen = Recorder::new();
        let s = seen.clone();
        let channel = Channel::new(event_loop, ours, Interest::READABLE, move |event| {
            let ready = event.readiness();
            assert!(ready.is_readable() && !ready.is_read_closed() && !ready.is_error());
            s.record(drain(event));
        })
        .unwrap();
        turn(event_loop);
        for _ in 0..3 {
            assert_eq!(seen.take(), []);
            theirs.write_all(b"hello").unwrap();
            event_loop.run_once(None).unwrap();
            assert_eq!(seen.take(), [(5, false)]);
            turn(event_loop);
        }
        assert!(channel.is_open());
    });
}

#[test]
fn a_writable_channel_is_called_while_the_pipe_accepts_bytes() {
    with_loop(|event_loop| {
        let (mut read, write) = pipe();
        let calls = Count::default();
        let c = calls.clone();
        let channel = Channel::new(event_loop, write, Interest::WRITABLE, move |event| {
            assert!(event.readiness().is_writable() && !event.readiness().is_write_closed());
            c.add();
        })
        .unwrap();
        for round in 1..=3 {
            turn(event_loop);
            assert_eq!(calls.get(), round, "level-triggered");
        }
        let mut filled = 0;
        channel.with(|mut write| {
            while let Ok(n) = write.write(&[0; 4096]) {
                filled += n;
            }
        });
        turn(event_loop);
        assert_eq!(calls.get(), 3, "a full pipe");
        let mut emptied = vec![0; filled];
        read.read_exact(&mut emptied).unwrap();
        event_loop.run_once(None).unwrap();
        assert_eq!(calls.get(), 4);
    });
}

#[test]
fn a_partial_read_is_followed_by_another_call() {
    with_loop(|event_loop| {
        let (ours, mut theirs) = pair();
        theirs.write_all(b"0123456789").unwrap();
        let seen = Recorder::new();
        let s = seen.clone();
        let _channel = Channel::new(event_loop, ours, Interest::READABLE, move |event| {
            let mut bytes = [0; 4];
            s.record(event.source().read(&mut bytes).unwrap());
        })
        .unwrap();
        for expected in [&[4][..], &[4], &[2], &[], &[]] {
            turn(event_loop);
            assert_eq!(seen.take(), expected);
        }
    });
}

#[test]
fn unread_input_is_reported_in_every_turn() {
    with_loop(|event_loop| {
        let ((ours, mut theirs), calls) = (pair(), Count::default());
        let _channel = counted(event_loop, ours, &calls);
        theirs.write_all(b"x").unwrap();
        for round in 1..=5 {
            event_loop.run_once(None).unwrap();
            assert_eq!(calls.get(), round);
        }
    });
}

#[test]
fn an_interest_can_include_reading_and_writing() {
    with_loop(|event_loop| {
        let (ours, mut theirs) = pair();
        let seen = Recorder::new();
        let s = seen.clone();
        let both = Interest::READABLE | Interest::WRITABLE;
        let channel = Channel::new(event_loop, ours, both, move |event| {
            s.record((event.readiness().is_readable(), event.readiness().is_writable()));
        })
        .unwrap();
        assert_eq!(channel.interest(), both);
        turn(event_loop);
        assert_eq!(seen.take(), [(false, true)]);
        theirs.write_all(b"x").unwrap();
        turn(event_loop);
        assert_eq!(seen.take(), [(true, true)], "one call for both");
    });
}

#[test]
fn a_hang_up_without_bytes_is_end_of_input() {
    with_loop(|event_loop| {
        let (read, write) = pipe();
        let seen = Recorder::new();
        let s = seen.clone();
        let channel = Channel::new(event_loop, read, Interest::READABLE, move |event| {
            let ready = event.readiness();
            assert!(ready.is_readable() && ready.is_read_closed());
            s.record(drain(event));
        })
        .unwrap();
        turn(event_loop);
        assert_eq!(seen.take(), []);
        drop(write);
        for _ in 0..2 {
            // The kernel reports only EPOLLHUP, and reports it as long as the channel is
            // registered.
            event_loop.run_once(None).unwrap();
            assert_eq!(seen.take(), [(0, true)]);
        }
        channel.close();
        turn(event_loop);
        assert_eq!(seen.take(), []);
    });
}

#[test]
fn end_of_input_follows_the_remaining_bytes() {
    with_loop(|event_loop| {
        let (read, mut write) = pipe();
        write.write_all(b"last words").unwrap();
        drop(write);
        let seen = Recorder::new();
        let s = seen.clone();
        let _channel = Channel::new(event_loop, read, Interest::READABLE, move |event| {
            let mut bytes = [0; 64];
            s.record(event.source().read(&mut bytes).unwrap());
        })
        .unwrap();
        turn(event_loop);
        turn(event_loop);
        assert_eq!(seen.take(), [10, 0]);
    });
}

#[test]
fn a_half_closed_socket_is_only_read_closed() {
    with_loop(|event_loop| {
        let (ours, theirs) = pair();
        theirs.shutdown(Shutdown::Write).unwrap();
        let seen = Recorder::new();
        let s = seen.clone();
        let channel = Channel::new(event_loop, ours, Interest::READABLE, move |event| {
            let ready = event.readiness();
            s.record((ready.is_read_closed(), ready.is_write_closed(), drain(event)));
        })
        .unwrap();
        turn(event_loop);
        assert_eq!(seen.take(), [(true, false, (0, true))]);
        channel.with(|mut ours| ours.write_all(b"still works").unwrap()).unwrap();
        assert_eq!((&theirs).read(&mut [0; 64]).unwrap(), 11);
    });
}

#[test]
fn readiness_includes_events_outside_the_interest() {
    with_loop(|event_loop| {
        let (ours, theirs) = pair();
        let seen = Recorder::new();
        let s = seen.clone();
        let _channel = Channel::new(event_loop, ours, Interest::READABLE, move |event| {
            let ready = event.readiness();
            s.record((ready.is_read_closed(), ready.is_write_closed()));
        })
        .unwrap();
        drop(theirs);
        turn(event_loop);
        assert_eq!(seen.take(), [(true, true)], "a write-close is reported without write interest");
    });
}

#[test]
fn a_writer_is_notified_when_the_reader_closes() {
    with_loop(|event_loop| {
        let (read, mut write) = pipe();
        while write.write(&[0; 4096]).is_ok() {}
        let seen = Recorder::new();
        let s = seen.clone();
        let _channel = Channel::new(event_loop, write, Interest::WRITABLE, move |event| {
            let ready = event.readiness();
            s.record((ready.is_writable(), ready.is_write_closed(), ready.is_error()));
        })
        .unwrap();
        turn(event_loop);
        assert_eq!(seen.take(), [], "a full pipe");
        drop(read);
        event_loop.run_once(None).unwrap();
        assert_eq!(seen.take(), [(true, true, true)]);
    });
}

#[test]
fn urgent_data_is_an_exceptional_condition() {
    with_loop(|event_loop| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (theirs, _) = listener.accept().unwrap();
        let seen = Recorder::new();
        let s = seen.clone();
        let _channel = Channel::new(event_loop, ours, Interest::PRIORITY, move |event| {
            s.record(event.readiness().is_priority());
        })
        .unwrap();
        (&theirs).write_all(b"usual").unwrap();
        turn(event_loop);
        assert_eq!(seen.take(), [], "ordinary data is not an exceptional condition");
        rustix::net::send(&theirs, b"!", SendFlags::OOB).unwrap();
        event_loop.run_once(None).unwrap();
        assert_eq!(seen.take(), [true]);
    });
}

#[test]
fn an_eventfd_can_be_a_channel() {
    with_loop(|event_loop| {
        let seen = Recorder::new();
        let s = seen.clone();
        let channel = Channel::new(event_loop, EventFd::new(0).unwrap(), Interest::READABLE, move |event| {
            s.record(event.source().read().unwrap());
        })
        .unwrap();
        turn(event_loop);
        assert_eq!(seen.take(), []);
        channel.with(|eventfd| eventfd.write(3).unwrap());
        channel.with(|eventfd| eventfd.write(4).unwrap());
        event_loop.run_once(None).unwrap();
        turn(event_loop);
        assert_eq!(seen.take(), [7]);
    });
}

#[test]
fn an_empty_interest_receives_no_events_until_changed() {
    with_loop(|event_loop| {
        let ((ours, mut theirs), calls) = (pair(), Count::default());
        let channel = counted(event_loop, ours, &calls);
        channel.set_interest(Interest::EMPTY).unwrap();
        assert_eq!(channel.interest(), Interest::EMPTY);
        channel.set_interest(Interest::EMPTY).unwrap();
        theirs.write_all(b"x").unwrap();
        turn(event_loop);
        assert_eq!(calls.get(), 0);
        channel.set_interest(Interest::READABLE).unwrap();
        turn(event_loop);
        assert_eq!(calls.get(), 1, "existing readiness is reported");

        channel.set_interest(Interest::EMPTY).unwrap();
        drop(theirs);
        turn(event_loop);
        assert_eq!(calls.get(), 1, "not even for a hang-up");
        assert!(!is_readable(event_loop), "and it does not wake the loop");
        channel.set_interest(Interest::READABLE).unwrap();
        turn(event_loop);
        assert_eq!(calls.get(), 2);
    });
}

#[test]
fn a_channel_can_be_created_with_an_empty_interest() {
    with_loop(|event_loop| {
        let ((ours, mut theirs), calls) = (pair(), Count::default());
        theirs.write_all(b"x").unwrap();
        let c = calls.clone();
        let channel = Channel::new(event_loop, ours, Interest::EMPTY, move |_| c.add()).unwrap();
        turn(event_loop);
        assert_eq!(calls.get(), 0);
        channel.set_interest(Interest::READABLE).unwrap();
        turn(event_loop);
        assert_eq!(calls.get(), 1);

        let (ours, theirs) = pair();
        Channel::new(event_loop, ours, Interest::EMPTY, |_| ()).unwrap().close();
        assert!(is_closed(&theirs));
    });
}

#[test]
fn an_interest_can_change_from_reading_to_writing() {
    with_loop(|event_loop| {
        let (ours, mut theirs) = pair();
        let seen = Recorder::new();
        let s = seen.clone();
        let channel = Channel::new(event_loop, ours, Interest::READABLE, move |event| {
            s.record((event.readiness().is_readable(), event.readiness().is_writable()));
        })
        .unwrap();
        theirs.write_all(b"x").unwrap();
        turn(event_loop);
        assert_eq!(seen.take(), [(true, false)]);
        channel.set_interest(Interest::WRITABLE).unwrap();
        turn(event_loop);
        assert_eq!(seen.take(), [(false, true)]);
        channel.set_interest(Interest::READABLE).unwrap();
        turn(event_loop);
        assert_eq!(seen.take(), [(true, false)], "the byte is still there");
    });
}

#[test]
fn a_callback_may_change_its_own_interest() {
    with_loop(|event_loop| {
        let (ours, mut theirs) = pair();
        theirs.write_all(b"x").unwrap();
        let seen = Recorder::new();
        let s = seen.clone();
        let channel = Channel::new(event_loop, ours, Interest::READABLE, move |event| {
            if event.readiness().is_readable() {
                s.record("read");
                event.set_interest(Interest::WRITABLE).unwrap();
            } else {
                s.record("write");
                event.set_interest(Interest::EMPTY).unwrap();
            }
        })
        .unwrap();
        for _ in 0..4 {
            turn(event_loop);
        }
        assert_eq!(seen.take(), ["read", "write"]);
        assert_eq!(channel.interest(), Interest::EMPTY);
        channel.set_interest(Interest::READABLE).unwrap();
        turn(event_loop);
        assert_eq!(seen.take(), ["read"]);
    });
}

#[test]
fn busy_channels_do_not_delay_a_due_timer() {
    with_loop(|event_loop| {
        let calls = Count::default();
        let mut kept = Vec::new();
        for _ in 0..50 {
            let (ours, mut theirs) = pair();
            theirs.write_all(b"x").unwrap();
            kept.push((counted(event_loop, ours, &calls), theirs));
        }
        let fired = Rc::new(Cell::new(false));
        let f = Rc::clone(&fired);
        event_loop.run_at(Instant::now(), move |_| f.set(true));
        turn(event_loop);
        assert_eq!(calls.get(), 50, "every channel once");
        assert!(fired.get());
    });
}
