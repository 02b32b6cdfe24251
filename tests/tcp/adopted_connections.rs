//! Connections of sockets that the program has: socket pairs, streams of the standard library, and
//! descriptors that were received.

use std::cell::Cell;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::mpsc;

use crate::support::net::{self, End, HandlerCall, Journal, Script, message, pattern};
use crate::support::unix::{abstract_name, connect};
use crate::support::{LIMIT, OnDrop, turn, with_catching_loop, with_loop, with_watchdog};
use reveille::net::{ConnectionLimits, ConnectionState, SendError};
use reveille::{
    Buffer, ConnectionHandle, ConnectionHandler, EventLoop, LoopThread, TcpConnection, TcpServer,
};
use rustix::fs::OFlags;
use rustix::io::FdFlags;

/// Adopts one end of a pair with a scripted handler. Returns the other end, the handle and the
/// journal.
fn adopted(
    event_loop: &EventLoop,
    script: impl FnOnce(Script) -> Script + 'static,
) -> (UnixStream, ConnectionHandle, Journal) {
    let (peer, socket) = UnixStream::pair().unwrap();
    peer.set_read_timeout(Some(net::LIMIT)).unwrap();
    let journal = Journal::new();
    let writing = journal.clone();
    let adopted = TcpConnection::adopt(event_loop, socket, move |_| script(writing.script()));
    (peer, adopted.expect("a connection"), journal)
}

fn is_closed(journal: &Journal) -> bool {
    journal.of(0).iter().any(|call| matches!(call, HandlerCall::Close(_)))
}

#[track_caller]
fn read_exact(stream: &mut impl Read, n: usize) -> Vec<u8> {
    let mut bytes = vec![0; n];
    stream.read_exact(&mut bytes).expect("too few bytes");
    bytes
}

#[test]
fn an_adopted_socket_pair_is_a_connection() {
    with_loop(|event_loop| {
        let (mut peer, handle, journal) = adopted(event_loop, |script| script);
        peer.write_all(b"hello").unwrap();
        net::turn_until(event_loop, || journal.of(0).len() == 2);
        assert_eq!(read_exact(&mut peer, 5), b"hello");
        assert!(handle.is_open());
        peer.shutdown(Shutdown::Write).unwrap();
        net::turn_until(event_loop, || is_closed(&journal));
        assert_eq!(
            journal.of(0),
            [
                HandlerCall::Open,
                message("hello"),
                HandlerCall::PeerShutdown,
                HandlerCall::Close(End::Finished)
            ]
        );
        assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0);
        assert!(!handle.is_open());
    });
}

#[test]
fn a_std_stream_delivers_what_arrived_before() {
    with_loop(|event_loop| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = net::connect(listener.local_addr().unwrap());
        let (stream, from) = listener.accept().unwrap();
        client.write_all(b"early").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        net::until(|| net::poll_flags(&stream).contains(rustix::event::PollFlags::RDHUP));
        let duplicate = stream.try_clone().unwrap();
        rustix::io::fcntl_setfd(&stream, FdFlags::empty()).unwrap();
        let number = stream.as_raw_fd();
        let journal = Journal::new();
        let writing = journal.clone();
        let adopted = TcpConnection::adopt(event_loop, stream, move |conn| {
            assert_eq!(conn.peer_addr().unwrap(), from);
            assert_eq!(conn.state(), ConnectionState::Open);
            assert_eq!(conn.as_fd().as_raw_fd(), number);
            assert_eq!(rustix::io::fcntl_getfd(conn).unwrap(), FdFlags::CLOEXEC);
            assert!(rustix::fs::fcntl_getfl(conn).unwrap().contains(OFlags::NONBLOCK));
            writing.script()
        });
        adopted.unwrap();
        drop(duplicate);
        net::turn_until(event_loop, || is_closed(&journal));
        assert_eq!(journal.of(0)[..2], [HandlerCall::Open, message("early")]);
        assert_eq!(net::read_to_end(&mut client), b"early");
    });
}

/// Adopts each descriptor that it receives, with an echo.
struct Adopting(Journal);

impl ConnectionHandler for Adopting {
    fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
        conn.accept_descriptors(1)
    }

    fn on_descriptors(&mut self, conn: &TcpConnection, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        for descriptor in descriptors {
            let journal = self.0.clone();
            TcpConnection::adopt(conn.event_loop(), descriptor, move |_| journal.script())?;
            assert_eq!(self.0.handlers(), 0, "the factory was called within a callback");
        }
        Ok(())
    }

    fn on_message(&mut self, _: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        input.clear();
        Ok(())
    }
}

#[test]
fn a_received_descriptor_is_adopted_within_the_callback() {
    with_loop(|event_loop| {
        let journal = Journal::new();
        let giving = journal.clone();
        let server = TcpServer::bind_unix(event_loop, abstract_name()).unwrap();
        let server = server.serve(move |_| Adopting(giving.clone())).unwrap();
        let sender = connect(&server);
        let (mut peer, passed) = UnixStream::pair().unwrap();
        peer.set_read_timeout(Some(net::LIMIT)).unwrap();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
        let passed_fds = [passed.as_fd()];
        assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(&passed_fds)));
        let bytes = [io::IoSlice::new(b"x")];
        rustix::net::sendmsg(&sender, &bytes, &mut control, rustix::net::SendFlags::empty()).unwrap();
        drop(passed);
        peer.write_all(b"through").unwrap();
        net::turn_until(event_loop, || journal.of(0).len() == 2);
        assert_eq!(read_exact(&mut peer, 7), b"through");
    });
}

#[test]
fn a_connection_is_adopted_on_the_loop_of_another_thread() {
    with_watchdog(LIMIT, || {
        let thread = LoopThread::spawn("adopting").unwrap();
        let (mut peer, socket) = UnixStream::pair().unwrap();
        let (sender, handles) = mpsc::channel();
        let adopt = move |event_loop: &EventLoop| {
            let adopted = TcpConnection::adopt(event_loop, socket, |_| Journal::new().script());
            sender.send(adopted.map_err(|refused| refused.to_string())).unwrap();
        };
        thread.handle().run_in_loop(adopt).unwrap();
        let handle = handles.recv_timeout(net::LIMIT).unwrap().unwrap();
        peer.write_all(b"hello").unwrap();
        assert_eq!(read_exact(&mut peer, 5), b"hello");
        handle.send("from here").unwrap();
        assert_eq!(read_exact(&mut peer, 9), b"from here");
        handle.close();
        assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0);
    });
}

#[test]
fn requests_before_the_opening_are_carried_out() {
    with_loop(|event_loop| {
        let (mut peer, handle, journal) =
            adopted(event_loop, |script| script.on_open(|conn| Ok(conn.send("opened")?)));
        let called = Rc::new(Cell::new(0));
        let noted = Rc::clone(&called);
        handle.send("before, ").unwrap();
        let call = move |script: &mut Script, _: &TcpConnection<'_>| noted.set(script.number() + 1);
        handle.with_local(event_loop, call).expect("an open connection");
        assert_eq!((called.get(), journal.handlers()), (0, 0), "it has opened within the call");
        net::turn_until(event_loop, || called.get() > 0);
        assert_eq!(called.get(), 1);
        assert_eq!(read_exact(&mut peer, 14), b"before, opened");
        assert_eq!(journal.of(0), [HandlerCall::Open]);
    });
}

#[test]
fn a_connection_that_is_closed_before_it_opens_has_no_handler() {
    with_loop(|event_loop| {
        let dropped = Rc::new(Cell::new(false));
        for close in [ConnectionHandle::close, ConnectionHandle::reset] {
            dropped.set(false);
            let noted = Rc::clone(&dropped);
            let on_drop = OnDrop::new(move || noted.set(true));
            let (mut peer, handle, journal) = adopted(event_loop, move |script| {
                on_drop.keep();
                script
            });
            close(&handle);
            assert!(!handle.is_open());
            turn(event_loop);
            assert!(dropped.get(), "the factory was not dropped");
            assert_eq!(journal.handlers(), 0);
            assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0);
        }
    });
}

#[test]
fn a_loop_that_ends_drops_a_connection_that_is_not_open_yet() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let (mut opened_peer, _, opened) = adopted(&event_loop, |script| script);
        turn(&event_loop);
        let (mut peer, handle, journal) = adopted(&event_loop, |script| script);
        drop(event_loop);
        assert_eq!(opened.of(0), [HandlerCall::Open, HandlerCall::Close(End::LoopEnded)]);
        assert_eq!(journal.handlers(), 0);
        assert!(!handle.is_open());
        assert_eq!(peer.read(&mut [0; 1]).unwrap() + opened_peer.read(&mut [0; 1]).unwrap(), 0);
    });
}

#[test]
fn a_panic_of_the_factory_closes_only_its_connection() {
    with_catching_loop(|event_loop| {
        let (mut peer, handle, journal) = adopted(event_loop, |_| panic!("on purpose"));
        let (mut other, _, other_journal) = adopted(event_loop, |script| script);
        other.write_all(b"hello").unwrap();
        net::turn_until(event_loop, || other_journal.of(0).len() == 2);
        assert_eq!(read_exact(&mut other, 5), b"hello");
        assert!(!handle.is_open());
        // The handler was never returned.
        assert_eq!(journal.of(0), []);
        assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0);
    });
}

#[test]
fn a_panic_of_a_destructor_stays_within_the_loop() {
    with_catching_loop(|event_loop| {
        let (_peer, socket) = UnixStream::pair().unwrap();
        let bomb = OnDrop::new(|| panic!("on purpose"));
        let never = move |_: &TcpConnection<'_>| -> Script {
            bomb.keep();
            unreachable!("it is closed before")
        };
        TcpConnection::adopt(event_loop, socket, never).unwrap().close();
        turn(event_loop);
        // A refused socket drops the factory too.
        let bomb = OnDrop::new(|| panic!("on purpose"));
        let never = move |_: &TcpConnection<'_>| -> Script {
            bomb.keep();
            unreachable!("it is refused")
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let refused = TcpConnection::adopt(event_loop, listener, never).expect_err("a listener");
        let (listener, error) = refused.into_parts();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        TcpStream::connect(listener.local_addr().unwrap()).expect("it still listens");
    });
}

#[test]
fn the_limits_of_the_builder_apply() {
    with_loop(|event_loop| {
        let (_peer, socket) = UnixStream::pair().unwrap();
        let limits = ConnectionLimits::new().max_unsent(10);
        let builder = TcpConnection::builder(event_loop).limits(limits);
        let handle = builder.adopt(socket, |_| Journal::new().script()).unwrap();
        turn(event_loop);
        let refused = handle.send("more than ten bytes").expect_err("more than the limit");
        assert_eq!(refused.reason(), SendError::Full);
        handle.send("0123456789").unwrap();
    });
}

/// The epoll descriptor's entries.
fn watched(event_loop: &EventLoop) -> usize {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", event_loop.as_fd().as_raw_fd())).unwrap();
    info.lines().filter(|line| line.starts_with("tfd:")).count()
}

#[test]
fn a_duplicate_does_not_stay_in_the_poller() {
    with_loop(|event_loop| {
        let (mut peer, socket) = UnixStream::pair().unwrap();
        let duplicate = socket.try_clone().unwrap();
        let handle = TcpConnection::adopt(event_loop, socket, |_| Journal::new().script()).unwrap();
        turn(event_loop);
        let before = watched(event_loop);
        handle.close();
        turn(event_loop);
        assert_eq!(watched(event_loop), before - 1);
        // The duplicate keeps the socket open.
        peer.write_all(b"hello").unwrap();
        assert_eq!(read_exact(&mut &duplicate, 5), b"hello");
    });
}

#[test]
fn an_adopted_connection_sends_much_to_a_slow_reader() {
    with_loop(|event_loop| {
        let bytes = pattern(4 << 20);
        let sent = bytes.clone();
        let (mut peer, handle, _journal) = adopted(event_loop, move |script| {
            script.on_open(move |conn| {
                conn.send(&sent)?;
                conn.shutdown();
                Ok(())
            })
        });
        let reader = std::thread::spawn(move || {
            let mut received = Vec::new();
            peer.read_to_end(&mut received).map(|_| received)
        });
        net::turn_until(event_loop, || !handle.is_open());
        assert!(reader.join().unwrap().unwrap() == bytes, "the bytes differ");
    });
}
