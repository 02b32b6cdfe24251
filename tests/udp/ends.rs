//! UDP sockets on a loop: errors and panics of their handlers, their ends, and their handles, which
//! outlive them.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::thread;

use crate::support::udp::{
    HandlerCall, Script, address, datagram, plain, receive, recording, wait_for_calls,
};
use crate::support::{LIMIT, Recorder, turn, with_catching_loop, with_loop, with_watchdog};
use reveille::net::DatagramError;
use reveille::{EventLoop, UdpSocket};

// --- Errors and ends -----------------------------------------------------------------------------

#[test]
fn a_handler_error_is_reported_and_ends_nothing() {
    with_loop(|event_loop| {
        let events = Recorder::new();
        let failing = Script::new(&events).on_datagram(|_, bytes, _| match bytes {
            b"bad" => Err(ErrorKind::InvalidData.into()),
            _ => Ok(()),
        });
        let socket = UdpSocket::bind(event_loop, "127.0.0.1:0").unwrap().serve(failing).unwrap();
        let other = plain();
        for text in ["bad", "good"] {
            other.send_to(text.as_bytes(), socket.local_addr().unwrap()).unwrap();
        }
        let error = HandlerCall::Error(ErrorKind::InvalidData, Some(address(&other)));
        assert_eq!(wait_for_calls(event_loop, &events, 3), [datagram("bad"), datagram("good"), error]);
        assert!(socket.is_open());
    });
}

#[test]
fn a_handler_panic_ends_only_its_socket() {
    with_catching_loop(|event_loop| {
        let events = Recorder::new();
        let panicking = Script::new(&events).on_datagram(|_, _, _| panic!("as the test wants it"));
        let socket = UdpSocket::bind(event_loop, "127.0.0.1:0").unwrap().serve(panicking).unwrap();
        let handle = socket.handle();
        let (other, told_other) = recording(event_loop);
        let sender = plain();
        for _ in 0..2 {
            sender.send_to(b"boo", socket.local_addr().unwrap()).unwrap();
        }
        let all = wait_for_calls(event_loop, &events, 2);
        assert_eq!(all, [datagram("boo"), HandlerCall::Close("a callback panicked".to_owned())]);
        assert_eq!(event_loop.handle().counters().panics, 1);
        assert!(!socket.is_open() && !handle.is_open());
        sender.send_to(b"well", other.local_addr().unwrap()).unwrap();
        assert_eq!(wait_for_calls(event_loop, &told_other, 1), [datagram("well")]);
    });
}

/// The inode of the kernel's socket, which identifies it.
fn inode(socket: &UdpSocket) -> PathBuf {
    let fd = socket.with(|socket| socket.as_fd().as_raw_fd()).expect("an open socket");
    fs::read_link(format!("/proc/self/fd/{fd}")).expect("an open descriptor")
}

fn is_open(inode: &Path) -> bool {
    let descriptors = fs::read_dir("/proc/self/fd").expect("a list of descriptors");
    // A descriptor that another test closes meanwhile cannot be read, and is not the one in
    // question.
    descriptors.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()).any(|path| path == inode)
}

#[test]
fn a_dropped_socket_is_silent_and_leaves_no_descriptor() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::builder().propagate_panics().build().unwrap();
        let (socket, events) = recording(&event_loop);
        let (at, name) = (socket.local_addr().unwrap(), inode(&socket));
        assert!(is_open(&name));
        plain().send_to(b"too late", at).unwrap();
        drop(socket);
        turn(&event_loop);
        assert_eq!(events.take(), [HandlerCall::Close("closed by this end".to_owned())]);
        assert!(!is_open(&name));
        // A socket whose loop ends first.
        let (socket, events) = recording(&event_loop);
        let name = inode(&socket);
        drop(event_loop);
        assert_eq!(events.take(), [HandlerCall::Close("the event loop has ended".to_owned())]);
        assert!(!is_open(&name) && !socket.is_open());
        assert!(matches!(socket.send_to("x", at), Err(DatagramError::Closed)));
    });
}

#[test]
fn a_socket_may_be_closed_in_its_callback() {
    with_loop(|event_loop| {
        let events = Recorder::new();
        let closing = Script::new(&events).on_datagram(|socket, _, from| {
            socket.close();
            assert!(matches!(socket.send_to("x", from), Err(DatagramError::Closed)));
            Ok(())
        });
        let socket = UdpSocket::bind(event_loop, "127.0.0.1:0").unwrap().serve(closing).unwrap();
        let sender = plain();
        for _ in 0..3 {
            sender.send_to(b"end", socket.local_addr().unwrap()).unwrap();
        }
        let close = HandlerCall::Close("closed by this end".to_owned());
        assert_eq!(wait_for_calls(event_loop, &events, 2), [datagram("end"), close]);
        assert!(!socket.is_open());
    });
}

// --- Handles -------------------------------------------------------------------------------------

#[test]
fn datagrams_from_another_thread_keep_their_order() {
    with_loop(|event_loop| {
        let (socket, events) = recording(event_loop);
        let other = plain();
        let (handle, to, quit) = (socket.handle(), address(&other), event_loop.handle());
        let sender = thread::spawn(move || {
            for n in 0..2000_u32 {
                while let Err(error) = handle.send_to(n.to_ne_bytes(), to) {
                    assert!(matches!(error, DatagramError::Full), "{error}");
                    thread::yield_now();
                }
                if n % 100 == 99 {
                    // The receiving socket would lose datagrams beyond its buffer.
                    (n - 99..=n).for_each(|n| assert_eq!(receive(&other), n.to_ne_bytes()));
                }
            }
            quit.quit();
        });
        event_loop.run().unwrap();
        sender.join().unwrap();
        assert!(events.take().iter().all(|event| *event == HandlerCall::Drained));
    });
}

#[test]
fn a_refused_datagram_is_reported_and_later_ones_are_sent() {
    with_loop(|event_loop| {
        let (socket, events) = recording(event_loop);
        let other = plain();
        let (handle, to) = (socket.handle(), address(&other));
        let nowhere: SocketAddr = "[::1]:9".parse().unwrap();
        let sender = thread::spawn(move || {
            for n in 0..100 {
                let to = if n == 30 { nowhere } else { to };
                handle.send_to(n.to_string(), to).unwrap();
            }
        });
        sender.join().unwrap();
        // Sending takes more than one turn, so the handler is also notified that the queue has
        // drained.
        let events = wait_for_calls(event_loop, &events, 2);
        let [HandlerCall::Drained, HandlerCall::Error(_, Some(peer))] = events[..] else {
            panic!("{events:?}")
        };
        assert_eq!(peer, nowhere);
        for n in (0..100).filter(|n| *n != 30) {
            assert_eq!(receive(&other), n.to_string().as_bytes());
        }
    });
}

#[test]
fn a_handle_closes_its_socket_after_its_datagrams() {
    with_loop(|event_loop| {
        let (_socket, events) = recording(event_loop);
        let other = plain();
        let handle = _socket.handle();
        handle.send_to("the last", address(&other)).unwrap();
        handle.close();
        assert!(matches!(handle.send_to("x", address(&other)), Err(DatagramError::Closed)));
        let close = HandlerCall::Close("closed by this end".to_owned());
        assert_eq!(wait_for_calls(event_loop, &events, 1), [close]);
        assert_eq!(receive(&other), b"the last");
    });
}

#[test]
fn a_handle_without_socket_or_loop_reports_closed() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let to = address(&plain());
        let (socket, _events) = recording(&event_loop);
        let dead = socket.handle();
        drop(socket);
        assert!(matches!(dead.send_to("x", to), Err(DatagramError::Closed)));
        let (socket, _events) = recording(&event_loop);
        let orphan = socket.handle();
        let remote = orphan.clone();
        drop(event_loop);
        let sender = thread::spawn(move || remote.send_to("x", to).map_err(io::Error::from));
        assert_eq!(sender.join().unwrap().unwrap_err().kind(), ErrorKind::BrokenPipe);
        assert!(!orphan.is_open());
    });
}
