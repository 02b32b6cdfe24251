//! Eventfds on a loop. Each count reaches the callback, no read blocks the loop, and no signal is
//! lost.

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::thread;

use crate::support::{LIMIT, Recorder, turn, with_catching_loop, with_loop, with_watchdog};
use reveille::io::{Channel, EventFdSource, Interest};
use reveille::{EventFd, EventLoop};

/// Watches an eventfd. Returns the source, another descriptor of the same counter, and a recorder
/// of the counts received.
fn watch(event_loop: &EventLoop, eventfd: EventFd) -> (EventFdSource, EventFd, Recorder<u64>) {
    let (other, counts) = (eventfd.try_clone().unwrap(), Recorder::new());
    let recording = counts.clone();
    let source = eventfd.watch(event_loop, move |_, count| recording.record(count)).unwrap();
    (source, other, counts)
}

#[test]
fn simultaneous_signals_are_one_call_with_their_sum() {
    with_loop(|event_loop| {
        let (_source, other, counts) = watch(event_loop, EventFd::new(5).unwrap());
        turn(event_loop);
        assert_eq!(counts.take(), [5], "the initial value is reported");
        for _ in 0..3 {
            other.write(2).unwrap();
            other.signal().unwrap();
            turn(event_loop);
            assert_eq!(counts.take(), [3]);
            turn(event_loop);
            assert_eq!(counts.take(), []);
        }
        other.write(EventFd::MAX).unwrap();
        turn(event_loop);
        assert_eq!(counts.take(), [EventFd::MAX]);
    });
}

#[test]
fn each_semaphore_unit_is_a_call_without_starving_channels() {
    with_loop(|event_loop| {
        let semaphore = EventFd::builder().semaphore().initial(150).build().unwrap();
        let (_source, other, counts) = watch(event_loop, semaphore);
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"always readable").unwrap();
        let calls = Rc::new(Cell::new(0));
        let calling = Rc::clone(&calls);
        let _channel =
            Channel::new(event_loop, ours, Interest::READABLE, move |_| calling.set(calling.get() + 1));
        for (turns, units) in [64, 64, 22, 0].into_iter().enumerate() {
            turn(event_loop);
            assert_eq!(counts.take(), vec![1; units]);
            assert_eq!(calls.get(), turns + 1);
        }
        other.write(2).unwrap();
        turn(event_loop);
        assert_eq!(counts.take(), [1, 1]);
    });
}

#[test]
fn watching_a_blocking_eventfd_does_not_block_the_loop() {
    with_loop(|event_loop| {
        for semaphore in [false, true] {
            let builder = EventFd::builder().blocking();
            let builder = if semaphore { builder.semaphore() } else { builder };
            let ours = builder.clone().build().unwrap();
            let theirs = EventFd::from(OwnedFd::from(builder.build().unwrap()));
            for eventfd in [ours, theirs] {
                let (_source, other, counts) = watch(event_loop, eventfd);
                turn(event_loop);
                other.write(2).unwrap();
                turn(event_loop);
                assert_eq!(counts.take(), if semaphore { vec![1, 1] } else { vec![2] });
                // An edge with nothing to read: another reader was faster.
                other.write(1).unwrap();
                other.try_read().unwrap();
                turn(event_loop);
                assert_eq!(counts.take(), []);
            }
        }
    });
}

#[test]
fn a_signal_from_another_thread_wakes_the_loop() {
    with_loop(|event_loop| {
        let eventfd = EventFd::new(0).unwrap();
        let signals = eventfd.try_clone().unwrap();
        let mut sum = 0;
        let _source = eventfd
            .watch(event_loop, move |event_loop, count| {
                sum += count;
                if sum == 1000 {
                    event_loop.quit();
                }
            })
            .unwrap();
        let signaller = thread::spawn(move || (0..1000).for_each(|_| signals.signal().unwrap()));
        event_loop.run().unwrap();
        signaller.join().unwrap();
    });
}

#[test]
fn a_source_dropped_in_its_callback_receives_no_more_counts() {
    with_loop(|event_loop| {
        let semaphore = EventFd::builder().semaphore().initial(3).build().unwrap();
        let other = semaphore.try_clone().unwrap();
        let kept = Rc::new(RefCell::new(None));
        let (keeping, counts) = (Rc::clone(&kept), Recorder::new());
        let recording = counts.clone();
        let source = semaphore.watch(event_loop, move |_, count| {
            recording.record(count);
            drop(keeping.borrow_mut().take());
        });
        *kept.borrow_mut() = Some(source.unwrap());
        turn(event_loop);
        turn(event_loop);
        assert_eq!(counts.take(), [1]);
        assert_eq!(other.counter().unwrap(), 2, "unread units stay in the counter");
    });
}

#[test]
fn a_dropped_source_is_deregistered_and_its_descriptor_closed() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::builder().propagate_panics().build().unwrap();
        let (source, other, counts) = watch(&event_loop, EventFd::new(0).unwrap());
        // Checks the descriptor by its number, which another test may reuse at once, and by the
        // kernel's id of the counter.
        let fd = source.with(|eventfd| eventfd.as_raw_fd()).unwrap();
        let id = |fd: i32| {
            let info = fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).ok()?;
            info.lines().find(|line| line.starts_with("eventfd-id:")).map(str::to_owned)
        };
        assert_eq!(id(fd), id(other.as_raw_fd()));
        drop(source);
        assert_ne!(id(fd), id(other.as_raw_fd()));
        other.signal().unwrap();
        turn(&event_loop);
        assert_eq!(counts.take(), []);
        let (source, _other, _counts) = watch(&event_loop, EventFd::new(0).unwrap());
        drop(event_loop);
        assert!(!source.is_open());
    });
}

#[test]
fn a_panic_in_the_callback_ends_only_its_watch() {
    with_catching_loop(|event_loop| {
        let eventfd = EventFd::new(1).unwrap();
        let bad = eventfd.watch(event_loop, |_, _| panic!("intended by the test")).unwrap();
        let (good, other, counts) = watch(event_loop, EventFd::new(1).unwrap());
        turn(event_loop);
        assert!(!bad.is_open() && good.is_open());
        assert_eq!(event_loop.handle().counters().panics, 1);
        other.signal().unwrap();
        turn(event_loop);
        assert_eq!(counts.take().into_iter().sum::<u64>(), 2);
    });
}

#[test]
fn a_descriptor_other_than_an_eventfd_ends_the_watch() {
    with_loop(|event_loop| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let source =
            EventFd::from(OwnedFd::from(ours)).watch(event_loop, |_, count| panic!("{count}")).unwrap();
        theirs.write_all(b"abc").unwrap();
        turn(event_loop);
        assert!(!source.is_open());
    });
}

/// Blocking mode belongs to the open file description, which all holders of the descriptor share.
/// An edge with nothing to read comes from a write and a read by another process.
#[test]
fn an_eventfd_made_blocking_elsewhere_does_not_block_the_loop() {
    with_loop(|event_loop| {
        let (_source, other, counts) = watch(event_loop, EventFd::new(0).unwrap());
        turn(event_loop);
        rustix::fs::fcntl_setfl(&other, rustix::fs::OFlags::empty()).unwrap();
        // Reported as readable when the loop waits, and emptied before its callback runs.
        let emptying = other.try_clone().unwrap();
        let first = EventFd::new(1).unwrap();
        let _first = first.watch(event_loop, move |_, _| assert_eq!(emptying.read().unwrap(), 1)).unwrap();
        other.write(1).unwrap();
        turn(event_loop);
        turn(event_loop);
        assert_eq!(counts.len(), 0);
        other.write(2).unwrap();
        turn(event_loop);
        assert_eq!(counts.take(), [2]);
    });
}
