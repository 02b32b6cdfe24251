use super::*;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use std::io::{ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::thread;

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

fn kind<T: fmt::Debug>(result: io::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

/// Returns what a non-blocking poll reports of readable, writable and error.
fn polled(eventfd: &EventFd) -> PollFlags {
    let mut fds = [PollFd::new(eventfd, PollFlags::IN | PollFlags::OUT)];
    poll(&mut fds, Some(&NOW)).unwrap();
    fds[0].revents()
}

fn counter(eventfd: &EventFd) -> u64 {
    eventfd.counter().unwrap()
}

#[test]
fn reading_takes_the_whole_counter() {
    let eventfd = EventFd::new(0).unwrap();
    eventfd.write(2).unwrap();
    eventfd.write(3).unwrap();
    assert_eq!(counter(&eventfd), 5);
    assert_eq!(eventfd.read().unwrap(), 5);
    assert_eq!(counter(&eventfd), 0);
}

#[test]
fn the_counter_starts_at_any_32_bit_value() {
    for initial in [0, 1, u32::MAX] {
        assert_eq!(counter(&EventFd::new(initial).unwrap()), initial.into());
    }
    assert_eq!(EventFd::new(u32::MAX).unwrap().read().unwrap(), u32::MAX.into());
}

#[test]
fn a_non_blocking_read_of_zero_would_block() {
    assert_eq!(kind(EventFd::new(0).unwrap().read()), ErrorKind::WouldBlock);
    let semaphore = EventFd::builder().semaphore().build().unwrap();
    assert_eq!(kind(semaphore.read()), ErrorKind::WouldBlock);
}

#[test]
fn a_semaphore_is_read_one_at_a_time() {
    let semaphore = EventFd::builder().initial(1).semaphore().build().unwrap();
    semaphore.write(2).unwrap();
    for left in [2, 1, 0] {
        assert_eq!(semaphore.read().unwrap(), 1);
        assert_eq!(counter(&semaphore), left);
    }
    assert_eq!(kind(semaphore.read()), ErrorKind::WouldBlock);
}

#[test]
fn a_write_beyond_the_maximum_would_block_and_adds_nothing() {
    let eventfd = EventFd::new(0).unwrap();
    eventfd.write(EventFd::MAX - 1).unwrap();
    assert_eq!(kind(eventfd.write(2)), ErrorKind::WouldBlock);
    eventfd.write(1).unwrap();
    assert_eq!(kind(eventfd.write(1)), ErrorKind::WouldBlock);
    assert_eq!(eventfd.read().unwrap(), EventFd::MAX);
}

#[test]
fn the_largest_integer_cannot_be_written() {
    let eventfd = EventFd::new(0).unwrap();
    assert_eq!(kind(eventfd.write(u64::MAX)), ErrorKind::InvalidInput);
    assert_eq!(counter(&eventfd), 0);
}

#[test]
fn writing_zero_succeeds_and_signals_nothing() {
    let eventfd = EventFd::new(0).unwrap();
    eventfd.write(0).unwrap();
    assert_eq!(polled(&eventfd), PollFlags::OUT);
    eventfd.write(EventFd::MAX).unwrap();
    eventfd.write(0).unwrap();
}

#[test]
fn signalling_a_full_counter_is_no_error() {
    let eventfd = EventFd::new(0).unwrap();
    eventfd.signal().unwrap();
    assert_eq!(counter(&eventfd), 1);
    eventfd.write(EventFd::MAX - 1).unwrap();
    eventfd.signal().unwrap();
    assert_eq!(eventfd.read().unwrap(), EventFd::MAX);
}

#[test]
fn poll_reports_whether_it_is_readable_and_writable() {
    let eventfd = EventFd::new(0).unwrap();
    assert_eq!(polled(&eventfd), PollFlags::OUT);
    eventfd.write(1).unwrap();
    assert_eq!(polled(&eventfd), PollFlags::IN | PollFlags::OUT);
    eventfd.write(EventFd::MAX - 1).unwrap();
    assert_eq!(polled(&eventfd), PollFlags::IN);
    eventfd.read().unwrap();
    assert_eq!(polled(&eventfd), PollFlags::OUT);
}

#[test]
fn every_write_is_a_new_edge() {
    let eventfd = EventFd::new(0).unwrap();
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
    epoll::add(&epoll, &eventfd, epoll::EventData::new_u64(7), flags).unwrap();
    let edges = || {
        let mut events = Vec::with_capacity(4);
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&NOW)).unwrap();
        events.len()
    };
    assert_eq!(edges(), 0);
    for _ in 0..3 {
        eventfd.write(1).unwrap();
        assert_eq!(edges(), 1);
        assert_eq!(edges(), 0);
    }
    assert_eq!(eventfd.read().unwrap(), 3);
}

#[test]
fn a_blocking_read_waits_for_a_write() {
    for builder in [EventFd::builder(), EventFd::builder().semaphore()] {
        let eventfd = builder.blocking().build().unwrap();
        assert_eq!(while_asleep(|| eventfd.read(), || eventfd.signal().unwrap()).unwrap(), 1);
    }
}

#[test]
fn a_blocking_write_waits_for_a_read() {
    let eventfd = EventFd::builder().blocking().build().unwrap();
    eventfd.write(EventFd::MAX).unwrap();
    let make_room = || assert_eq!(eventfd.read().unwrap(), EventFd::MAX);
    while_asleep(|| eventfd.write(5), make_room).unwrap();
    assert_eq!(eventfd.read().unwrap(), 5);
}

/// Runs `sleep` on another thread and, once the kernel reports that thread as asleep, `wake` on
/// this one.
fn while_asleep<T: Send>(sleep: impl FnOnce() -> T + Send, wake: impl FnOnce()) -> T {
    let task = OnceLock::new();
    thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            task.set(std::fs::read_link("/proc/thread-self").unwrap()).unwrap();
            sleep()
        });
        let is_asleep = || {
            let stat = Path::new("/proc").join(task.get()?).join("stat");
            Some(std::fs::read_to_string(stat).ok()?.rsplit_once(')')?.1.starts_with(" S"))
        };
        while is_asleep() != Some(true) {
            assert!(!sleeper.is_finished(), "it did not sleep");
            thread::yield_now();
        }
        wake();
        sleeper.join().unwrap()
    })
}

#[test]
fn signals_of_many_threads_add_up() {
    let eventfd = EventFd::new(0).unwrap();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..250).for_each(|_| eventfd.signal().unwrap()));
        }
    });
    assert_eq!(eventfd.read().unwrap(), 1000);
}

#[test]
fn a_clone_shares_the_counter_and_outlives_the_original() {
    let eventfd = EventFd::new(1).unwrap();
    let clone = eventfd.try_clone().unwrap();
    clone.write(2).unwrap();
    assert_eq!(counter(&eventfd), 3);
    drop(eventfd);
    assert_eq!(clone.read().unwrap(), 3);
}

#[test]
fn conversion_through_owned_fd_keeps_counter_and_mode() {
    let fd = OwnedFd::from(EventFd::builder().initial(2).semaphore().build().unwrap());
    let raw = fd.as_raw_fd();
    let semaphore = EventFd::from(fd);
    assert_eq!(semaphore.as_raw_fd(), raw);
    assert_eq!(semaphore.as_fd().as_raw_fd(), raw);
    assert_eq!(format!("{semaphore:?}"), format!("EventFd {{ fd: {raw} }}"));
    assert_eq!(semaphore.read().unwrap(), 1);
    assert_eq!(counter(&semaphore), 1);
}

#[test]
fn only_an_inherited_descriptor_is_open_after_exec() {
    let is_open_after_exec = |eventfd: &EventFd| {
        let test = format!("test -e /proc/self/fd/{}", eventfd.as_raw_fd());
        Command::new("sh").arg("-c").arg(test).status().unwrap().success()
    };
    let inherited = EventFd::builder().inherit_on_exec().build().unwrap();
    assert!(is_open_after_exec(&inherited));
    assert!(!is_open_after_exec(&inherited.try_clone().unwrap()));
    assert!(!is_open_after_exec(&EventFd::new(0).unwrap()));
}

#[test]
fn the_counter_travels_in_host_byte_order() {
    let eventfd = EventFd::new(0).unwrap();
    let value = 0x0102_0304_0506_0708u64;
    eventfd.write(value).unwrap();
    assert_eq!(counter(&eventfd), value);
    let mut bytes = [0; 8];
    rustix::io::read(&eventfd, &mut bytes).unwrap();
    assert_eq!(bytes, value.to_ne_bytes());
}

#[test]
fn the_kernel_rejects_fewer_than_eight_bytes() {
    let eventfd = EventFd::new(1).unwrap();
    assert_eq!(rustix::io::read(&eventfd, &mut [0u8; 7]).unwrap_err(), rustix::io::Errno::INVAL);
    assert_eq!(rustix::io::write(&eventfd, &[0u8; 7]).unwrap_err(), rustix::io::Errno::INVAL);
    assert_eq!(counter(&eventfd), 1);
}

#[test]
fn a_descriptor_that_is_no_eventfd_is_reported() {
    let (socket, mut peer) = UnixStream::pair().unwrap();
    peer.write_all(b"abc").unwrap();
    assert_eq!(kind(EventFd::from(OwnedFd::from(socket)).read()), ErrorKind::InvalidData);
}

#[test]
fn reporting_the_counter_does_not_change_it() {
    let eventfd = EventFd::new(0).unwrap();
    for value in [0, 1, 0xffff_ffff, EventFd::MAX - 0xffff_ffff - 1] {
        eventfd.write(value).unwrap();
        assert_eq!(eventfd.counter().unwrap(), eventfd.counter().unwrap());
    }
    assert_eq!(eventfd.counter().unwrap(), EventFd::MAX);
    assert_eq!(eventfd.read().unwrap(), EventFd::MAX);
    assert_eq!(eventfd.counter().unwrap(), 0);
}

#[test]
fn the_counter_of_another_descriptor_is_an_error() {
    let (socket, _peer) = UnixStream::pair().unwrap();
    let error = EventFd::from(OwnedFd::from(socket)).counter().unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (ErrorKind::InvalidData, "the descriptor is not an eventfd")
    );
}

#[test]
fn the_kernel_reports_whether_it_is_a_semaphore() {
    for semaphore in [false, true] {
        let builder = EventFd::builder();
        let eventfd = if semaphore { builder.semaphore() } else { builder }.build().unwrap();
        let adopted = EventFd::from(OwnedFd::from(eventfd));
        match adopted.is_semaphore() {
            Ok(reported) => assert_eq!(reported, semaphore),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported),
        }
    }
}

/// Two that block: one created here, and one from elsewhere.
fn blocking() -> [EventFd; 2] {
    let make = || EventFd::builder().blocking().build().unwrap();
    [make(), EventFd::from(OwnedFd::from(make()))]
}

#[test]
fn signalling_a_full_blocking_counter_does_not_sleep() {
    for eventfd in blocking() {
        eventfd.signal().unwrap();
        eventfd.write(EventFd::MAX - 1).unwrap();
        // The test would hang if this slept.
        eventfd.signal().unwrap();
        eventfd.try_clone().unwrap().signal().unwrap();
        assert_eq!(eventfd.read().unwrap(), EventFd::MAX);
        eventfd.write(EventFd::MAX - 1).unwrap();
        eventfd.signal().unwrap();
        assert_eq!(counter(&eventfd), EventFd::MAX, "one was added");
    }
}

#[test]
fn try_read_of_a_blocking_eventfd_does_not_sleep() {
    for eventfd in blocking().into_iter().chain([EventFd::new(0).unwrap()]) {
        assert_eq!(kind(eventfd.try_read()), ErrorKind::WouldBlock);
        eventfd.write(7).unwrap();
        assert_eq!(eventfd.try_read().unwrap(), 7);
        assert_eq!(kind(eventfd.try_read()), ErrorKind::WouldBlock);
    }
    let semaphore = EventFd::builder().semaphore().blocking().initial(1).build().unwrap();
    assert_eq!(semaphore.try_read().unwrap(), 1);
    assert_eq!(kind(semaphore.try_read()), ErrorKind::WouldBlock);
}

/// The assumption of `signal`: if a kernel gets a non-blocking write, a signal can be exact in one
/// call.
#[test]
fn the_kernel_has_no_non_blocking_write() {
    let eventfd = EventFd::builder().blocking().build().unwrap();
    let one = [io::IoSlice::new(&[1, 0, 0, 0, 0, 0, 0, 0])];
    let refused = rustix::io::pwritev2(&eventfd, &one, u64::MAX, ReadWriteFlags::NOWAIT);
    assert_eq!(refused.unwrap_err(), rustix::io::Errno::OPNOTSUPP);
}
