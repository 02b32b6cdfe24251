//! Descriptors that cannot be streams: the error, and the unchanged descriptor.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use super::{Seen, pipe};
use crate::support::alone::alone_with_loop;
use crate::support::folder::Folder;
use crate::support::net::open_descriptors;
use crate::support::with_loop;
use reveille::{EventLoop, TcpConnection};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{Mode, OFlags, fcntl_getfl};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

fn flags(fd: impl AsFd) -> (OFlags, FdFlags) {
    (fcntl_getfl(&fd).unwrap(), fcntl_getfd(fd).unwrap())
}

/// Adopts `fd`, which must be refused unchanged.
#[track_caller]
fn refusal(event_loop: &EventLoop, fd: OwnedFd) -> Error {
    fcntl_setfd(&fd, FdFlags::empty()).unwrap();
    let before = (fd.as_raw_fd(), flags(&fd));
    let seen = Seen::default();
    let handler = seen.handler();
    let refused = TcpConnection::adopt(event_loop, fd, |_| handler).unwrap_err();
    let message = refused.to_string();
    let fd = refused.into_inner();
    assert_eq!((fd.as_raw_fd(), flags(&fd)), before);
    let handler = seen.handler();
    let refused = TcpConnection::adopt(event_loop, fd, |_| handler).unwrap_err();
    assert_eq!(refused.to_string(), message);
    Error::from(refused)
}

#[test]
fn descriptors_of_the_wrong_type_are_returned_unchanged() {
    with_loop(|event_loop| {
        let folder = Folder::new();
        let mut both = OpenOptions::new();
        both.read(true).write(true).create(true).truncate(false);
        let path_only = rustix::fs::open("/dev/null", OFlags::PATH, Mode::empty()).unwrap();
        let wrong: [(OwnedFd, &str); 7] = [
            (File::open(folder.path()).unwrap().into(), "directory"),
            (eventfd(0, EventfdFlags::empty()).unwrap(), "not a stream"),
            (event_loop.as_fd().try_clone_to_owned().unwrap(), "not a stream"),
            (TcpListener::bind("127.0.0.1:0").unwrap().into(), "listens"),
            (UdpSocket::bind("127.0.0.1:0").unwrap().into(), "not a stream socket"),
            (both.open(folder.join("file")).unwrap().into(), "one position"),
            (path_only, "a path"),
        ];
        for (fd, expected) in wrong {
            let error = refusal(event_loop, fd);
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            assert!(error.to_string().contains(expected), "{error}");
        }
        event_loop.run_until_idle().unwrap();
    });
}

#[test]
fn a_pair_with_one_wrong_descriptor_is_returned_unchanged() {
    with_loop(|event_loop| {
        let (input, output) = pipe();
        let before = (flags(&input), flags(&output));
        // Exchanged: the read end as the output.
        let handler = Seen::default().handler();
        let refused = TcpConnection::adopt_pipes(event_loop, output, input, |_| handler).unwrap_err();
        assert!(refused.to_string().contains("not open for reading"), "{refused}");
        let (output, input) = refused.into_inner();
        assert_eq!((flags(&input), flags(&output)), before);
        let handler = Seen::default().handler();
        let other = input.try_clone().unwrap();
        let refused = TcpConnection::adopt_pipes(event_loop, input, other, |_| handler).unwrap_err();
        assert!(refused.to_string().contains("not open for writing"), "{refused}");
        let (input, _) = refused.into_inner();
        assert_eq!(flags(&input), before.0);
    });
}

#[test]
fn a_socket_that_is_not_connected_is_refused() {
    with_loop(|event_loop| {
        let unconnected =
            rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None);
        let error = refusal(event_loop, unconnected.unwrap());
        assert_eq!(error.kind(), ErrorKind::NotConnected);
    });
}

#[test]
fn a_closed_descriptor_is_refused() {
    alone_with_loop(|event_loop| {
        // Its number stays free in this process, which has one thread that opens descriptors.
        let (fd, _other) = UnixStream::pair().unwrap();
        let copy = OwnedFd::from(fd.try_clone().unwrap());
        // A descriptor that other code has closed.
        drop(reopened_closed(&copy));
        let handler = Seen::default().handler();
        let refused = TcpConnection::adopt(event_loop, copy, |_| handler).unwrap_err();
        let error = refused.to_string();
        std::mem::forget(refused);
        assert!(error.contains("Bad file descriptor"), "{error}");
        drop(fd);
    });
}

/// Closes the number of `fd` behind its owner's back.
fn reopened_closed(fd: &OwnedFd) -> std::io::Result<()> {
    nix::unistd::close(fd.as_raw_fd()).map_err(Error::from)
}

#[test]
fn refusals_leave_no_descriptor_open() {
    alone_with_loop(|event_loop| {
        let before = open_descriptors();
        for _ in 0..3 {
            let handler = Seen::default().handler();
            let (input, output) = pipe();
            drop(TcpConnection::adopt_pipes(event_loop, output, input, |_| handler).unwrap_err());
            drop(refusal(event_loop, eventfd(0, EventfdFlags::empty()).unwrap()));
        }
        assert_eq!(open_descriptors(), before);
    });
}
