//! The descriptors of channels and loops: which descriptors are refused, and that none leaks, is
//! inherited on exec, or is reported after its channel has ended.
//!
//! These tests count the descriptors of the process, so each runs in a separate process.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use crate::support::alone::{alone, alone_with_loop};
use crate::support::channels::{counted, pair};
use crate::support::{Count, is_readable, turn};
use reveille::io::{Channel, Interest};
use reveille::{EventFd, EventLoop, LoopPool, LoopThread};

const NOT_WATCHED: &str = "epoll cannot watch a regular file or a directory; use FileIo for files";

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn a_regular_file_is_refused_without_leaks() {
    alone_with_loop(|event_loop| {
        let before = open_descriptors();
        for path in ["/proc/self/exe", "/"] {
            let (file, drops) = (File::open(path).unwrap(), Count::default());
            let token = drops.drop_token();
            let error =
                Channel::new(event_loop, file, Interest::READABLE, move |_| token.keep()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{path}");
            assert_eq!(error.to_string(), NOT_WATCHED, "{path}");
            assert_eq!(drops.get(), 1);

            let eventfd = EventFd::from(OwnedFd::from(File::open(path).unwrap()));
            let error = eventfd.watch(event_loop, |_, _| ()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{path}");
            assert_eq!(error.to_string(), NOT_WATCHED, "{path}");
        }
        assert_eq!(open_descriptors(), before);

        let file = File::open("/proc/self/exe").unwrap();
        let channel = Channel::new(event_loop, file, Interest::EMPTY, |_| ()).unwrap();
        let error = channel.set_interest(Interest::READABLE).unwrap_err();
        assert_eq!(error.to_string(), NOT_WATCHED);
        assert_eq!(channel.interest(), Interest::EMPTY);
        assert!(channel.is_open());
        turn(event_loop);
        channel.close();
        assert_eq!(open_descriptors(), before);
    });
}

#[test]
fn a_second_channel_for_one_descriptor_is_refused() {
    alone_with_loop(|event_loop| {
        let ((ours, mut theirs), calls) = (pair(), Count::default());
        let shared = Rc::new(ours);
        let c = calls.clone();
        let first =
            Channel::new(event_loop, Rc::clone(&shared), Interest::READABLE, move |_| c.add()).unwrap();
        let second = Channel::new(event_loop, Rc::clone(&shared), Interest::READABLE, |_| panic!("called"));
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
fn many_channels_can_be_closed_in_any_order() {
    alone_with_loop(|event_loop| {
        let before = open_descriptors();
        let calls: Vec<_> = (0..60).map(|_| Count::default()).collect();
        let mut pairs = Vec::new();
        for (number, calls) in calls.iter().enumerate() {
            let (ours, mut theirs) = pair();
            theirs.write_all(b"x").unwrap();
            pairs.push(Some((counted(event_loop, ours, calls), theirs)));
            if number % 3 == 2 {
                // The next channel reuses its slot.
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
fn a_duplicate_descriptor_does_not_keep_a_channel_registered() {
    alone(|| {
        let event_loop = EventLoop::new().unwrap();
        let end = |how: &dyn Fn(Channel<UnixStream>)| {
            let ((ours, mut theirs), calls) = (pair(), Count::default());
            let duplicate = ours.try_clone().unwrap();
            how(counted(&event_loop, ours, &calls));
            theirs.write_all(b"x").unwrap();
            assert!(!is_readable(&event_loop), "the kernel still reports the duplicate");
            turn(&event_loop);
            assert_eq!(calls.get(), 0);
            (duplicate, theirs)
        };
        end(&Channel::close);
        end(&|channel| drop(channel));
        end(&|channel| {
            channel.set_interest(Interest::EMPTY).unwrap();
            channel.close();
        });

        let ((ours, theirs), duplicate) = (pair(), Rc::new(Cell::new(None)));
        duplicate.set(Some(ours.try_clone().unwrap()));
        let channel = Channel::new(&event_loop, ours, Interest::WRITABLE, |_| panic!("intended by the test"));
        turn(&event_loop);
        assert!(!channel.unwrap().is_open());
        assert!(!is_readable(&event_loop));
        drop((theirs, duplicate));
    });
}

#[test]
fn a_dropped_loop_leaks_no_descriptor() {
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
fn threads_with_loops_leak_no_descriptor() {
    alone(|| {
        let before = open_descriptors();
        for _ in 0..5 {
            let thread = LoopThread::spawn("one").unwrap();
            thread.handle().queue_in_loop(|_| ()).unwrap();
            drop(thread);
            let pool = LoopPool::new(3, "of three").unwrap();
            pool.next().run_after(Duration::MAX, |_| ()).unwrap();
            drop(pool);
        }
        assert_eq!(open_descriptors(), before);

        // A handle keeps one descriptor: the eventfd that wakes the loop.
        let handle = LoopThread::spawn("gone").unwrap().handle().clone();
        assert!(open_descriptors() <= before + 1);
        drop(handle);
        assert_eq!(open_descriptors(), before);
    });
}

#[test]
fn an_executed_program_inherits_no_descriptor_of_a_loop() {
    alone_with_loop(|event_loop| {
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
        assert!(open_in_child().contains("eventfd"), "the list lacks an inherited eventfd");
        drop(inherited);
    });
}

#[test]
fn a_loop_without_enough_descriptors_is_an_error() {
    alone(|| {
        let before = open_descriptors();
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        for free_slots in 0.. {
            let mut few = limit;
            few.current = Some(lowest_free_number() + free_slots);
            rustix::process::setrlimit(rustix::process::Resource::Nofile, few).unwrap();
            let result = EventLoop::new();
            rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
            let Err(error) = result else {
                assert!(free_slots > 0);
                break;
            };
            assert_eq!(
                error.raw_os_error(),
                Some(rustix::io::Errno::MFILE.raw_os_error()),
                "{free_slots} free descriptors"
            );
            assert_eq!(open_descriptors(), before, "the failed loop left descriptors open");
        }
        turn(&EventLoop::new().expect("the thread has no loop"));
    });

    fn lowest_free_number() -> u64 {
        let probe = OwnedFd::from(File::open("/dev/null").unwrap());
        u64::try_from(probe.as_raw_fd()).unwrap()
    }
}
