//! The descriptors of a shared ring: invalid descriptors are refused, and no descriptor leaks or is
//! inherited.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::process::Command;

use crate::support::alone::alone;
use crate::support::net::until;
use crate::support::ring::{MAX_CAPACITY, pair, watch};
use crate::support::{LIMIT, turn, with_loop, with_watchdog};
use reveille::ipc::{Doorbell, SharedRing};
use reveille::{EventFd, EventLoop};
use rustix::fs::{MemfdFlags, OFlags, SealFlags};

/// Passes valid descriptors, modified by `change`, to the receiving end. Returns the kind and the
/// message of its error.
#[track_caller]
fn refused(change: impl FnOnce(&mut Vec<OwnedFd>)) -> (ErrorKind, String) {
    let (_here, mut descriptors) = SharedRing::create(4096).unwrap();
    change(&mut descriptors);
    let error = SharedRing::from_descriptors(descriptors, MAX_CAPACITY).unwrap_err();
    (error.kind(), error.to_string())
}

fn memfd(bytes: u64, seals: SealFlags) -> OwnedFd {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let memfd = rustix::fs::memfd_create("a test", flags).unwrap();
    rustix::fs::ftruncate(&memfd, bytes).unwrap();
    rustix::fs::fcntl_add_seals(&memfd, seals).unwrap();
    memfd
}

/// Returns memory with valid content.
fn copy_of(memory: &OwnedFd, bytes: u64, seals: SealFlags) -> OwnedFd {
    let mut content = vec![0; 4096];
    File::from(memory.try_clone().unwrap()).read_exact_at(&mut content, 0).unwrap();
    let copy = File::from(memfd(bytes, SealFlags::empty()));
    copy.write_all_at(&content, 0).unwrap();
    rustix::fs::fcntl_add_seals(&copy, seals).unwrap();
    copy.into()
}

const SIZE: u64 = 4096 + 2 * 4096;

#[test]
fn memory_whose_size_is_not_sealed_is_refused() {
    let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    for missing in [SealFlags::SHRINK, SealFlags::GROW, SealFlags::SEAL] {
        let (kind, message) =
            refused(|passed| passed[0] = copy_of(&passed[0], SIZE, all.difference(missing)));
        assert_eq!(kind, ErrorKind::InvalidInput);
        assert!(message.contains("not sealed"), "{message}");
    }
    // With all seals it is accepted, so the refusals above are due to the seals.
    let (_here, mut descriptors) = SharedRing::create(4096).unwrap();
    descriptors[0] = copy_of(&descriptors[0], SIZE, all);
    SharedRing::from_descriptors(descriptors, MAX_CAPACITY).unwrap();
}

#[test]
fn memory_with_a_wrong_header_or_size_is_refused() {
    let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    let (kind, message) = refused(|passed| passed[0] = memfd(SIZE, all));
    assert_eq!(kind, ErrorKind::InvalidData);
    assert!(message.contains("not that of a shared ring"), "{message}");
    for bytes in [4096, SIZE - 8, SIZE + 8, 2 * SIZE] {
        let (kind, message) = refused(|passed| passed[0] = copy_of(&passed[0], bytes, all));
        assert_eq!(kind, ErrorKind::InvalidData);
        assert!(message.contains("differs from that in its header"), "{message}");
    }
}

#[test]
fn read_only_memory_is_refused() {
    let (kind, message) = refused(|passed| {
        let path = format!("/proc/self/fd/{}", passed[0].as_raw_fd());
        passed[0] = File::open(path).unwrap().into();
    });
    assert_eq!(kind, ErrorKind::InvalidInput);
    assert!(message.contains("cannot be written"), "{message}");
    let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    let (_, message) = refused(|passed| passed[0] = copy_of(&passed[0], SIZE, all | SealFlags::WRITE));
    assert!(message.contains("cannot be written"), "{message}");
}

#[test]
fn descriptors_of_wrong_order_number_or_kind_are_refused() {
    type Change = fn(&mut Vec<OwnedFd>);
    let null = || OwnedFd::from(File::open("/dev/null").unwrap());
    // An epoll descriptor has the same kind of name in `/proc/self/fd` as an eventfd.
    let epoll = || rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).unwrap();
    let changes: [(Change, &str); 9] = [
        (|passed| passed.swap(0, 1), "not a memfd"),
        (|passed| passed.swap(0, 2), "not a memfd"),
        (|passed| passed.swap(1, 2), "in another order"),
        (|passed| passed[1] = passed[0].try_clone().unwrap(), "not an eventfd"),
        (|passed| passed[2] = passed[1].try_clone().unwrap(), "in another order"),
        (|passed| passed[2] = SharedRing::create(64).unwrap().1.remove(2), "not those of this shared ring"),
        (|passed| drop(passed.pop()), "3 descriptors, not 2"),
        (|passed| passed.clear(), "3 descriptors, not 0"),
        (|passed| passed.push(passed[0].try_clone().unwrap()), "3 descriptors, not 4"),
    ];
    for (change, expected) in changes {
        let (kind, message) = refused(change);
        assert_eq!(kind, ErrorKind::InvalidInput);
        assert!(message.contains(expected), "{message}");
    }
    for index in 0..3 {
        for other in [null(), epoll()] {
            let (kind, message) = refused(|passed| passed[index] = other);
            assert_eq!(kind, ErrorKind::InvalidInput);
            assert!(message.contains(["not a memfd", "not an eventfd"][index.min(1)]), "{message}");
        }
    }
}

/// Changes the mode of the open file description, for every holder of the descriptor in this
/// process or another.
fn make_blocking(descriptor: &OwnedFd) {
    let flags = rustix::fs::fcntl_getfl(descriptor).unwrap();
    rustix::fs::fcntl_setfl(descriptor, flags.difference(OFlags::NONBLOCK)).unwrap();
}

#[test]
fn a_plain_eventfd_that_blocks_is_refused() {
    for index in [1, 2] {
        let (_here, passed) = SharedRing::create_with(4096, Doorbell::Plain).unwrap();
        make_blocking(&passed[index]);
        let error = SharedRing::from_descriptors_with(passed, MAX_CAPACITY, Doorbell::Plain).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("blocks"), "{error}");
    }
}

#[test]
fn bells_of_the_other_kind_are_refused() {
    for (made, taken) in [(Doorbell::Plain, Doorbell::NeverBlocks), (Doorbell::NeverBlocks, Doorbell::Plain)]
    {
        let (_here, passed) = SharedRing::create_with(4096, made).unwrap();
        let error = SharedRing::from_descriptors_with(passed, MAX_CAPACITY, taken).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(error.to_string().contains("bells of the other kind"), "{error}");
    }
    // The header specifies one kind, and the descriptors are of the other kind.
    for index in [1, 2] {
        let (kind, message) = refused(|passed| passed[index] = EventFd::new(u32::MAX).unwrap().into());
        assert_eq!(kind, ErrorKind::InvalidInput);
        assert!(
            message.contains("not a semaphore") || message.contains("not those of this shared ring"),
            "{message}"
        );
    }
}

#[test]
fn a_bell_that_is_empty_is_refused() {
    let empty = || OwnedFd::from(EventFd::builder().semaphore().build().unwrap());
    let (kind, message) = refused(|passed| passed[1] = empty());
    assert_eq!(kind, ErrorKind::InvalidInput);
    assert!(
        message.contains("has been emptied") || message.contains("not those of this shared ring"),
        "{message}"
    );
}

#[test]
fn a_bell_made_blocking_before_the_transfer_still_rings() {
    with_watchdog(LIMIT, || {
        let (here, passed) = SharedRing::create(4096).unwrap();
        make_blocking(&passed[1]);
        make_blocking(&passed[2]);
        let mut there = SharedRing::from_descriptors(passed, MAX_CAPACITY).unwrap();
        let event_loop = EventLoop::new().unwrap();
        let (_source, messages) = watch(&event_loop, here);
        turn(&event_loop);
        there.send("!").unwrap();
        turn(&event_loop);
        assert_eq!(messages.take(), [b"!"]);
    });
}

fn own_descriptors() -> BTreeSet<String> {
    let links = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
    links.filter_map(|link| Some(format!("{link:?} {:?}", fs::read_link(&link).ok()?))).collect()
}

/// Returns the numbers of the descriptors that `ls` lists as its own.
fn seen_by_another_program() -> String {
    let output = Command::new("ls").arg("/proc/self/fd").output().expect("ls");
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn no_descriptor_is_left_and_none_is_inherited() {
    alone(|| {
        let original = seen_by_another_program();
        let before = own_descriptors();
        for _ in 0..50 {
            let (here, there, _) = pair(4096);
            drop((here, there));
            refused(|passed| passed.swap(1, 2));
            refused(|passed| passed.swap(0, 1));
            refused(|passed| drop(passed.pop()));
        }
        // A thread of the crate closes refused descriptors, which may take a moment.
        until(|| own_descriptors() == before);
        {
            let (here, descriptors) = SharedRing::create(4096).unwrap();
            // Clears close-on-exec, as a careless receiver would have received them.
            for descriptor in &descriptors {
                rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::empty()).unwrap();
            }
            let there = SharedRing::from_descriptors(descriptors, MAX_CAPACITY).unwrap();
            assert_eq!(seen_by_another_program(), original);
            let event_loop = EventLoop::new().unwrap();
            let (here, _) = watch(&event_loop, here);
            let (there, _) = watch(&event_loop, there);
            turn(&event_loop);
            assert_eq!(seen_by_another_program(), original);
            here.close();
            drop(event_loop);
            drop(there);
        }
        assert_eq!(own_descriptors(), before);
    });
}

#[test]
fn the_memory_is_unmapped_when_both_ends_are_dropped() {
    alone(|| {
        let mapped =
            || fs::read_to_string("/proc/self/maps").unwrap().matches("reveille shared ring").count();
        let (here, there, _) = pair(1 << 20);
        assert_eq!(mapped(), 2);
        drop(here);
        assert_eq!(mapped(), 1);
        with_loop(move |event_loop| {
            let (source, _) = watch(event_loop, there);
            turn(event_loop);
            assert_eq!(mapped(), 1);
            source.close();
            assert_eq!(mapped(), 0);
        });
    });
}
