//! Channels: what they are told, what they may do to each other, and what becomes of their descriptors.
//!
//! Some tests here look at descriptor numbers, which belong to the process, so all of them run one after another.

mod support;

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reveille::{Channel, ChannelEvent, EventFd, EventLoop, Interest, LoopPool, LoopThread};
use rustix::net::SendFlags;
use rustix::pipe::PipeFlags;
use support::{Count, LIMIT, Recorder, is_readable, panic_of, turn, with_watchdog};

fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn alone<R>(test: impl FnOnce() -> R) -> R {
    let _turn = one_at_a_time();
    with_watchdog(LIMIT, test)
}

fn with_loop<R>(test: impl FnOnce(&EventLoop) -> R) -> R {
    let _turn = one_at_a_time();
    support::with_loop(test)
}

fn pair() -> (UnixStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    theirs.set_nonblocking(true).unwrap();
    (ours, theirs)
}

/// A pipe: the end to read from and the end to write to.
fn pipe() -> (File, File) {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).unwrap();
    (File::from(read), File::from(write))
}

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Whether the other end has been closed.
fn is_closed(mut theirs: &UnixStream) -> bool {
    match theirs.read(&mut [0; 64]) {
        Ok(n) => n == 0,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => true,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            false
        }
    }
}

/// A channel that counts its calls and reads nothing.
fn counted(event_loop: &EventLoop, source: UnixStream, calls: &Count) -> Channel<UnixStream> {
    let calls = calls.clone();
    Channel::new(event_loop, source, Interest::READABLE, move |_| calls.add()).unwrap()
}

/// Takes an event's stream to its end, or until it would block. Answers what was read, and whether that was the end.
fn drain(event: &ChannelEvent<'_, impl AsFd>) -> (usize, bool) {
    let (mut total, mut bytes) = (0, [0; 1024]);
    loop {
        match rustix::io::read(event.source(), &mut bytes) {
            Ok(0) => return (total, true),
            Ok(n) => total += n,
            Err(error) => {
                assert_eq!(error, rustix::io::Errno::AGAIN);
                return (total, false);
            }
        }
    }
}

#[test]
fn a_readable_channel_is_called_when_bytes_come_and_not_before() {
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
fn a_writable_channel_is_called_while_there_is_room() {
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
fn a_channel_that_reads_a_part_is_called_again_in_the_next_turn() {
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
fn a_channel_that_reads_nothing_is_called_in_every_turn() {
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
fn what_a_channel_waits_for_can_be_both() {
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
fn a_hang_up_without_a_byte_is_delivered_as_the_end_of_input() {
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
            // The kernel says EPOLLHUP alone, and says it for as long as the channel is there.
            event_loop.run_once(None).unwrap();
            assert_eq!(seen.take(), [(0, true)]);
        }
        channel.close();
        turn(event_loop);
        assert_eq!(seen.take(), []);
    });
}

#[test]
fn the_end_of_input_comes_with_the_bytes_before_it() {
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
fn a_half_closed_socket_is_read_closed_and_not_write_closed() {
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
        channel.with(|mut ours| ours.write_all(b"still heard").unwrap()).unwrap();
        assert_eq!((&theirs).read(&mut [0; 64]).unwrap(), 11);
    });
}

#[test]
fn a_channel_is_told_all_that_the_kernel_says_and_not_only_what_it_waits_for() {
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
        assert_eq!(seen.take(), [(true, true)], "a writer need not wait to find that out");
    });
}

#[test]
fn a_writer_is_told_that_nobody_reads() {
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
        assert_eq!(seen.take(), [], "usual data is none");
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
fn an_interest_in_nothing_is_called_for_nothing_until_it_is_changed_back() {
    with_loop(|event_loop| {
        let ((ours, mut theirs), calls) = (pair(), Count::default());
        let channel = counted(event_loop, ours, &calls);
        channel.set_interest(Interest::NONE).unwrap();
        assert_eq!(channel.interest(), Interest::NONE);
        channel.set_interest(Interest::NONE).unwrap();
        theirs.write_all(b"x").unwrap();
        turn(event_loop);
        assert_eq!(calls.get(), 0);
        channel.set_interest(Interest::READABLE).unwrap();
        turn(event_loop);
        assert_eq!(calls.get(), 1, "what stands already counts");

        channel.set_interest(Interest::NONE).unwrap();
        drop(theirs);
        turn(event_loop);
        assert_eq!(calls.get(), 1, "not even for the news that the other end has gone");
        assert!(!is_readable(event_loop), "and the loop would sleep over it");
        channel.set_interest(Interest::READABLE).unwrap();
        turn(event_loop);
        assert_eq!(calls.get(), 2);
    });
}

#[test]
fn a_channel_may_be_made_with_an_interest_in_nothing() {
    with_loop(|event_loop| {
        let ((ours, mut theirs), calls) = (pair(), Count::default());
        theirs.write_all(b"x").unwrap();
        let c = calls.clone();
        let channel = Channel::new(event_loop, ours, Interest::NONE, move |_| c.add()).unwrap();
        turn(event_loop);
        assert_eq!(calls.get(), 0);
        channel.set_interest(Interest::READABLE).unwrap();
        turn(event_loop);
        assert_eq!(calls.get(), 1);

        let (ours, theirs) = pair();
        Channel::new(event_loop, ours, Interest::NONE, |_| ()).unwrap().close();
        assert!(is_closed(&theirs));
    });
}

#[test]
fn an_interest_can_be_changed_from_one_direction_to_the_other() {
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
                event.set_interest(Interest::NONE).unwrap();
            }
        })
        .unwrap();
        for _ in 0..4 {
            turn(event_loop);
        }
        assert_eq!(seen.take(), ["read", "write"]);
        assert_eq!(channel.interest(), Interest::NONE);
        channel.set_interest(Interest::READABLE).unwrap();
        turn(event_loop);
        assert_eq!(seen.take(), ["read"]);
    });
}

#[test]
fn a_regular_file_is_refused_and_leaves_nothing_behind() {
    with_loop(|event_loop| {
        let before = open_descriptors();
        for path in ["/proc/self/exe", "/"] {
            let (file, drops) = (File::open(path).unwrap(), Count::default());
            let token = drops.drop_token();
            let error =
                Channel::new(event_loop, file, Interest::READABLE, move |_| token.keep()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{path}");
            assert_eq!(drops.get(), 1);
        }
        assert_eq!(open_descriptors(), before);

        let file = File::open("/proc/self/exe").unwrap();
        let channel = Channel::new(event_loop, file, Interest::NONE, |_| ()).unwrap();
        let error = channel.set_interest(Interest::READABLE).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert_eq!(channel.interest(), Interest::NONE);
        assert!(channel.is_open());
        turn(event_loop);
        channel.close();
        assert_eq!(open_descriptors(), before);
    });
}

#[test]
fn a_second_channel_for_one_descriptor_is_refused_and_does_not_disturb_the_first() {
    with_loop(|event_loop| {
        let ((ours, mut theirs), calls) = (pair(), Count::default());
        let shared = Rc::new(ours);
        let c = calls.clone();
        let first =
            Channel::new(event_loop, Rc::clone(&shared), Interest::READABLE, move |_| c.add()).unwrap();
        let second =
            Channel::new(event_loop, Rc::clone(&shared), Interest::READABLE, |_| panic!("not the first"));
        assert_eq!(second.unwrap_err().kind(), ErrorKind::AlreadyExists);
        theirs.write_all(b"x").unwrap();
        turn(event_loop);
        assert_eq!(calls.get(), 1);
        first.close();
        let c = calls.clone();
        let _third = Channel::new(event_loop, shared, Interest::READABLE, move |_| c.add()).unwrap();
        turn(event_loop);
        assert_eq!(calls.get(), 2);
    });
}

#[test]
fn closing_a_channel_closes_its_descriptor_at_once() {
    with_loop(|event_loop| {
        let ((ours, theirs), calls) = (pair(), Count::default());
        let channel = counted(event_loop, ours, &calls);
        assert!(!is_closed(&theirs));
        channel.close();
        assert!(is_closed(&theirs));

        let (ours, theirs) = pair();
        let channel = counted(event_loop, ours, &calls);
        drop(channel);
        assert!(is_closed(&theirs));
        turn(event_loop);
        assert_eq!(calls.get(), 0);
    });
}

#[test]
fn a_channel_that_closes_itself_keeps_its_descriptor_until_its_callback_has_returned() {
    with_loop(|event_loop| {
        let ((ours, mut theirs), calls) = (pair(), Count::default());
        theirs.write_all(b"x").unwrap();
        let own = Rc::new(RefCell::new(None));
        let (c, channel, peer) = (calls.clone(), Rc::clone(&own), theirs.try_clone().unwrap());
        let callback = move |event: &ChannelEvent<'_, UnixStream>| {
            c.add();
            event.close();
            event.close();
            assert!(!is_closed(&peer), "the callback still has the use of it");
            let mut ours = event.source();
            assert_eq!(ours.read(&mut [0; 8]).unwrap(), 1);
            ours.write_all(b"bye").unwrap();
            assert_eq!(event.set_interest(Interest::WRITABLE).unwrap_err().kind(), ErrorKind::NotFound);
            let channel: Channel<UnixStream> = channel.take().unwrap();
            assert!(!channel.is_open());
            assert_eq!(channel.with(|_| ()), None);
            assert_eq!(channel.interest(), Interest::NONE);
            assert_eq!(channel.set_interest(Interest::READABLE).unwrap_err().kind(), ErrorKind::NotFound);
        };
        own.replace(Some(Channel::new(event_loop, ours, Interest::READABLE, callback).unwrap()));
        turn(event_loop);
        turn(event_loop);
        assert_eq!(calls.get(), 1);
        let mut bytes = Vec::new();
        theirs.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"bye");
    });
}

#[test]
fn a_channel_may_be_dropped_in_its_own_callback() {
    with_loop(|event_loop| {
        let ((ours, mut theirs), calls) = (pair(), Count::default());
        theirs.write_all(b"x").unwrap();
        let own = Rc::new(RefCell::new(None));
        let (c, channel) = (calls.clone(), Rc::clone(&own));
        let callback = move |event: &ChannelEvent<'_, UnixStream>| {
            c.add();
            drop(channel.take());
            assert!(event.set_interest(Interest::READABLE).is_err());
            assert_eq!(event.source().read(&mut [0; 8]).unwrap(), 1);
        };
        own.replace(Some(Channel::new(event_loop, ours, Interest::READABLE, callback).unwrap()));
        turn(event_loop);
        turn(event_loop);
        assert_eq!(calls.get(), 1);
        assert!(is_closed(&theirs));
    });
}

#[test]
fn a_channel_may_register_its_descriptor_anew_in_its_own_callback() {
    with_loop(|event_loop| {
        let (ours, mut theirs) = pair();
        theirs.write_all(b"x").unwrap();
        let (own, successor) = (Rc::new(RefCell::new(None)), Rc::new(RefCell::new(None)));
        let seen = Recorder::new();
        let (s, first, next) = (seen.clone(), Rc::clone(&own), Rc::clone(&successor));
        let callback = move |event: &ChannelEvent<'_, Rc<UnixStream>>| {
            s.record("first");
            event.close();
            let s = s.clone();
            let source = Rc::clone(event.source());
            let again =
                Channel::new(event.event_loop(), source, Interest::READABLE, move |_| s.record("second"));
            next.replace(Some(again.unwrap()));
            // The new one has taken its place on the loop, and nothing that is left of the old one reaches it.
            event.close();
            assert!(event.set_interest(Interest::NONE).is_err());
            let first: Channel<Rc<UnixStream>> = first.take().unwrap();
            assert!(!first.is_open());
            drop(first);
        };
        own.replace(Some(Channel::new(event_loop, Rc::new(ours), Interest::READABLE, callback).unwrap()));
        turn(event_loop);
        assert_eq!(seen.take(), ["first"]);
        assert!(successor.borrow().as_ref().unwrap().is_open());
        turn(event_loop);
        assert_eq!(seen.take(), ["second"]);
    });
}

/// Two channels that are ready in one turn. Whichever is called first does `to_the_other` with the other one; answers the
/// calls of both, after three turns.
fn first_come(
    event_loop: &EventLoop,
    to_the_other: impl Fn(&EventLoop, &mut Option<Channel<UnixStream>>) + 'static,
) -> Vec<&'static str> {
    type Slots = [RefCell<Option<Channel<UnixStream>>>; 2];
    let (seen, channels, act) = (Recorder::new(), Rc::new(Slots::default()), Rc::new(to_the_other));
    let mut peers = Vec::new();
    for (number, name) in ["one", "other"].into_iter().enumerate() {
        let (ours, mut theirs) = pair();
        theirs.write_all(b"x").unwrap();
        peers.push(theirs);
        let (s, c, act) = (seen.clone(), Rc::clone(&channels), Rc::clone(&act));
        let callback = move |event: &ChannelEvent<'_, UnixStream>| {
            drain(event);
            s.record(name);
            act(event.event_loop(), &mut c[1 - number].borrow_mut());
        };
        let channel = Channel::new(event_loop, ours, Interest::READABLE, callback).unwrap();
        channels[number].replace(Some(channel));
    }
    for _ in 0..3 {
        turn(event_loop);
    }
    for slot in channels.iter() {
        slot.take();
    }
    seen.take()
}

#[test]
fn a_channel_that_another_one_closes_is_not_called_in_the_same_turn() {
    with_loop(|event_loop| {
        let called = first_come(event_loop, |_, other| other.take().unwrap().close());
        assert_eq!(called.len(), 1, "{called:?}");
        let called = first_come(event_loop, |_, other| drop(other.take()));
        assert_eq!(called.len(), 1, "{called:?}");
    });
}

#[test]
fn a_channel_that_another_one_silences_is_not_called_in_the_same_turn() {
    with_loop(|event_loop| {
        let called = first_come(event_loop, |_, other| {
            other.as_ref().unwrap().set_interest(Interest::NONE).unwrap();
        });
        assert_eq!(called.len(), 1, "{called:?}");
    });
}

#[test]
fn a_channel_that_another_one_changes_is_called_with_what_stands() {
    with_loop(|event_loop| {
        let called = first_come(event_loop, |_, other| {
            let other = other.as_ref().unwrap();
            // The same again: the event that was noted is void, and the kernel reports what still stands.
            other.set_interest(other.interest()).unwrap();
        });
        assert_eq!(called.len(), 2, "{called:?}");
    });
}

#[test]
fn a_change_of_interest_voids_what_was_noted_and_no_longer_stands() {
    with_loop(|event_loop| {
        let called = first_come(event_loop, |_, other| {
            let other = other.as_ref().unwrap();
            other.with(|mut ours| assert_eq!(ours.read(&mut [0; 8]).unwrap(), 1)).unwrap();
            other.set_interest(other.interest()).unwrap();
        });
        assert_eq!(called.len(), 1, "{called:?}");
    });
}

#[test]
fn a_channel_that_takes_over_a_descriptor_number_does_not_get_the_event_of_the_one_before() {
    with_loop(|event_loop| {
        let (heir, calls) = (Rc::new(RefCell::new(None)), Count::default());
        let (h, c) = (Rc::clone(&heir), calls.clone());
        let called = first_come(event_loop, move |event_loop, other| {
            let other = other.take().unwrap();
            let number = other.with(|ours| ours.as_raw_fd()).unwrap();
            other.close();
            let (ours, theirs) = pair();
            assert_eq!(ours.as_raw_fd(), number, "the kernel gives the lowest number that is free");
            h.replace(Some((counted(event_loop, ours, &c), theirs)));
        });
        assert_eq!(called.len(), 1, "{called:?}");
        assert_eq!(calls.get(), 0, "nobody has written to the heir");
        let (channel, mut theirs) = heir.take().unwrap();
        assert!(channel.is_open());
        theirs.write_all(b"x").unwrap();
        event_loop.run_once(None).unwrap();
        assert_eq!(calls.get(), 1);
    });
}

#[test]
fn channels_may_be_closed_from_timers_and_tasks() {
    with_loop(|event_loop| {
        let ((ours, theirs), calls) = (pair(), Count::default());
        let channel = counted(event_loop, ours, &calls);
        event_loop.run_after(Duration::ZERO, move |_| channel.close());
        turn(event_loop);
        assert!(is_closed(&theirs));

        let (ours, theirs) = pair();
        let channel = counted(event_loop, ours, &calls);
        event_loop.queue_in_loop(move |_| drop(channel));
        turn(event_loop);
        assert!(is_closed(&theirs));
        assert_eq!(calls.get(), 0);
    });
}

#[test]
fn channels_may_be_made_in_any_number_and_closed_in_any_order() {
    with_loop(|event_loop| {
        let before = open_descriptors();
        let calls: Vec<_> = (0..60).map(|_| Count::default()).collect();
        let mut pairs = Vec::new();
        for (number, calls) in calls.iter().enumerate() {
            let (ours, mut theirs) = pair();
            theirs.write_all(b"x").unwrap();
            pairs.push(Some((counted(event_loop, ours, calls), theirs)));
            if number % 3 == 2 {
                // Its slot goes to the next one.
                pairs[number - 1] = None;
            }
        }
        turn(event_loop);
        for (number, calls) in calls.iter().enumerate() {
            assert_eq!(calls.get(), usize::from(number % 3 != 1), "channel {number}");
        }
        while !pairs.is_empty() {
            pairs.swap_remove(pairs.len() / 2);
        }
        assert_eq!(open_descriptors(), before);
    });
}

#[test]
fn a_detached_channel_goes_on_until_its_callback_closes_it() {
    with_loop(|event_loop| {
        let ((ours, mut theirs), seen) = (pair(), Recorder::new());
        let s = seen.clone();
        let channel = Channel::new(event_loop, ours, Interest::READABLE, move |event| {
            let (n, _) = drain(event);
            s.record(n);
            if s.len() == 2 {
                event.close();
            }
        });
        channel.unwrap().detach();
        for round in 1..=2 {
            theirs.write_all(b"x").unwrap();
            assert!(!is_closed(&theirs));
            turn(event_loop);
            assert_eq!(seen.len(), round);
        }
        assert!(is_closed(&theirs));
    });
}

#[test]
fn dropping_the_loop_closes_its_channels_and_what_is_left_of_them_is_inert() {
    alone(|| {
        let event_loop = EventLoop::new().unwrap();
        let ((ours, theirs), calls, drops) = (pair(), Count::default(), Count::default());
        let token = drops.drop_token();
        let kept = Channel::new(&event_loop, ours, Interest::READABLE, move |_| token.keep()).unwrap();
        let (detached, detached_peer) = pair();
        counted(&event_loop, detached, &calls).detach();
        drop(event_loop);
        assert!(is_closed(&theirs) && is_closed(&detached_peer));
        assert_eq!(drops.get(), 1);
        assert!(!kept.is_open());
        assert_eq!(kept.with(|_| ()), None);
        assert_eq!(kept.interest(), Interest::NONE);
        assert_eq!(kept.set_interest(Interest::READABLE).unwrap_err().kind(), ErrorKind::NotFound);
        assert!(!format!("{kept:?}").is_empty());

        // Nor does it reach the channel that has its place on the thread's next loop.
        let next = EventLoop::new().unwrap();
        let (ours, theirs) = pair();
        let other = counted(&next, ours, &calls);
        assert!(kept.set_interest(Interest::NONE).is_err());
        kept.close();
        assert!(other.is_open() && !is_closed(&theirs));
        assert_eq!(other.interest(), Interest::READABLE);
    });
}

#[test]
fn a_channel_that_a_callback_of_another_one_owns_is_closed_with_it() {
    alone(|| {
        let event_loop = EventLoop::new().unwrap();
        let ((outer, outer_peer), (inner, inner_peer), calls) = (pair(), pair(), Count::default());
        let owned = counted(&event_loop, inner, &calls);
        let channel = Channel::new(&event_loop, outer, Interest::READABLE, move |_| {
            let _ = owned.is_open();
        })
        .unwrap();
        channel.close();
        assert!(is_closed(&outer_peer) && is_closed(&inner_peer));

        let ((outer, outer_peer), (inner, inner_peer)) = (pair(), pair());
        let owned = counted(&event_loop, inner, &calls);
        let channel = Channel::new(&event_loop, outer, Interest::READABLE, move |_| {
            let _ = owned.is_open();
        });
        channel.unwrap().detach();
        drop(event_loop);
        assert!(is_closed(&outer_peer) && is_closed(&inner_peer));
    });
}

#[test]
fn a_channel_whose_callback_panics_is_closed() {
    alone(|| {
        let event_loop = EventLoop::new().unwrap();
        let ((ours, mut theirs), calls) = (pair(), Count::default());
        theirs.write_all(b"x").unwrap();
        let c = calls.clone();
        let channel = Channel::new(&event_loop, ours, Interest::READABLE, move |_| {
            c.add();
            panic!("this channel is broken");
        })
        .unwrap();
        turn(&event_loop);
        turn(&event_loop);
        assert_eq!(calls.get(), 1);
        assert!(!channel.is_open());
        assert!(is_closed(&theirs));
        assert_eq!(event_loop.handle().counters().panics, 1);

        drop(event_loop);
        let event_loop = EventLoop::builder().propagate_panics(true).build().unwrap();
        let (ours, mut theirs) = pair();
        theirs.write_all(b"x").unwrap();
        let channel = Channel::new(&event_loop, ours, Interest::READABLE, |_| panic!("broken too"));
        assert_eq!(panic_of(|| event_loop.run()), "broken too");
        assert!(!channel.unwrap().is_open());
        assert!(is_closed(&theirs));
        turn(&event_loop);
    });
}

#[test]
fn a_duplicate_of_the_descriptor_does_not_keep_a_closed_channel_in_the_poller() {
    alone(|| {
        let event_loop = EventLoop::new().unwrap();
        let end = |how: &dyn Fn(Channel<UnixStream>)| {
            let ((ours, mut theirs), calls) = (pair(), Count::default());
            let duplicate = ours.try_clone().unwrap();
            how(counted(&event_loop, ours, &calls));
            theirs.write_all(b"x").unwrap();
            assert!(!is_readable(&event_loop), "the kernel reports nothing for it");
            turn(&event_loop);
            assert_eq!(calls.get(), 0);
            (duplicate, theirs)
        };
        end(&Channel::close);
        end(&|channel| drop(channel));
        end(&|channel| {
            channel.set_interest(Interest::NONE).unwrap();
            channel.close();
        });

        let ((ours, theirs), duplicate) = (pair(), Rc::new(Cell::new(None)));
        duplicate.set(Some(ours.try_clone().unwrap()));
        let channel = Channel::new(&event_loop, ours, Interest::WRITABLE, |_| panic!("closed by a panic"));
        turn(&event_loop);
        assert!(!channel.unwrap().is_open());
        assert!(!is_readable(&event_loop));
        drop((theirs, duplicate));
    });
}

#[test]
fn a_loop_and_all_that_was_on_it_leave_no_descriptor_behind() {
    alone(|| {
        let before = open_descriptors();
        for round in 0..30 {
            let event_loop = EventLoop::new().unwrap();
            assert_eq!(EventLoop::new().unwrap_err().kind(), ErrorKind::AlreadyExists);
            let calls = Count::default();
            let pairs: Vec<_> = (0..10).map(|_| pair()).collect();
            let mut kept = Vec::new();
            for (ours, mut theirs) in pairs {
                theirs.write_all(b"x").unwrap();
                match round % 3 {
                    0 => counted(&event_loop, ours, &calls).detach(),
                    1 => kept.push(counted(&event_loop, ours, &calls)),
                    _ => counted(&event_loop, ours, &calls).close(),
                }
            }
            event_loop.queue_in_loop(|_| ());
            event_loop.run_after(Duration::ZERO, |_| ());
            if round % 2 == 0 {
                turn(&event_loop);
            }
            drop(event_loop);
            assert_eq!(open_descriptors(), before, "round {round}");
        }
    });
}

#[test]
fn threads_with_loops_leave_no_descriptor_behind() {
    alone(|| {
        let before = open_descriptors();
        for _ in 0..5 {
            let thread = LoopThread::spawn("one").unwrap();
            thread.handle().queue_in_loop(|_| ()).unwrap();
            drop(thread);
            let pool = LoopPool::new(3.try_into().unwrap(), "of three").unwrap();
            pool.next().run_after(Duration::MAX, |_| ()).unwrap();
            drop(pool);
        }
        assert_eq!(open_descriptors(), before);

        // A handle keeps one: the counter that it would wake the loop by.
        let handle = LoopThread::spawn("gone").unwrap().handle().clone();
        assert!(open_descriptors() <= before + 1);
        drop(handle);
        assert_eq!(open_descriptors(), before);
    });
}

#[test]
fn a_program_that_is_executed_inherits_no_descriptor_of_a_loop() {
    with_loop(|event_loop| {
        event_loop.queue_in_loop(|_| ());
        turn(event_loop);
        let open_in_child = || {
            let output = Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap();
            assert!(output.status.success());
            String::from_utf8(output.stdout).unwrap()
        };
        let open = open_in_child();
        assert!(!open.contains("eventpoll") && !open.contains("eventfd"), "{open}");
        let inherited = EventFd::builder().inherit_on_exec().build().unwrap();
        assert!(open_in_child().contains("eventfd"), "which would show here");
        drop(inherited);
    });
}

#[test]
fn a_loop_that_cannot_have_another_descriptor_is_an_error() {
    alone(|| {
        let before = open_descriptors();
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        for room in 0.. {
            let mut few = limit;
            few.current = Some(lowest_free_number() + room);
            rustix::process::setrlimit(rustix::process::Resource::Nofile, few).unwrap();
            let result = EventLoop::new();
            rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
            let Err(error) = result else {
                assert!(room > 0);
                break;
            };
            assert_eq!(
                error.raw_os_error(),
                Some(rustix::io::Errno::MFILE.raw_os_error()),
                "room for {room}"
            );
            assert_eq!(open_descriptors(), before, "what it got it has given back");
        }
        turn(&EventLoop::new().expect("the thread is still free for one"));
    });

    fn lowest_free_number() -> u64 {
        let probe = OwnedFd::from(File::open("/dev/null").unwrap());
        u64::try_from(probe.as_raw_fd()).unwrap()
    }
}

#[test]
fn a_timer_due_at_once_and_a_ready_channel_are_both_served_however_busy_the_channels_are() {
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
