//! Descriptors with a duplicate. A closed object does not wake its loop when the duplicate becomes
//! ready.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use crate::support::{is_readable, net, turn, udp, unix, wait_readable, with_loop};
use reveille::io::{Channel, Interest};
use reveille::ipc::SharedRing;
use reveille::net::{DatagramHandler, UdpRef};
use reveille::{
    Buffer, ConnectionHandler, EventFd, EventLoop, TcpClient, TcpConnection, TcpServer, UdpSocket,
};

/// The duplicate that a handler has made.
type Duplicate = Rc<RefCell<Option<OwnedFd>>>;

/// Requires that the loop does not wake when `make_readable` makes the duplicate readable, several
/// times in a row.
#[track_caller]
fn assert_does_not_wake(event_loop: &EventLoop, duplicate: impl AsFd, mut make_readable: impl FnMut()) {
    (0..3).for_each(|_| turn(event_loop));
    for _ in 0..10 {
        make_readable();
        wait_readable(&duplicate);
        assert!(!is_readable(event_loop), "the loop is woken by a closed object");
    }
}

struct Duplicating(Duplicate);

impl ConnectionHandler for Duplicating {
    fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.0.replace(Some(conn.as_fd().try_clone_to_owned()?));
        Ok(())
    }

    fn on_message(&mut self, conn: &TcpConnection<'_>, _: &mut Buffer) -> io::Result<()> {
        conn.close();
        Ok(())
    }
}

impl DatagramHandler for Duplicating {
    fn on_datagram(&mut self, socket: &UdpRef<'_>, _: &[u8], _: SocketAddr) -> io::Result<()> {
        self.0.replace(Some(socket.as_fd().try_clone_to_owned()?));
        socket.close();
        Ok(())
    }
}

#[test]
fn a_closed_connection_of_a_server_does_not_wake_the_loop() {
    with_loop(|event_loop| {
        let kept_duplicate = Duplicate::default();
        let handler_copy = Rc::clone(&kept_duplicate);
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap();
        let server = server.serve(move |_| Duplicating(Rc::clone(&handler_copy))).unwrap();
        let mut client = net::connect(server.local_addr().unwrap());
        client.write_all(b"x").unwrap();
        net::turn_until(event_loop, || kept_duplicate.borrow().is_some() && server.open_connections() == 0);
        let duplicate = kept_duplicate.take().unwrap();
        assert_does_not_wake(event_loop, duplicate, || client.write_all(b"x").unwrap());
    });
}

#[test]
fn a_closed_connection_of_a_unix_server_does_not_wake_the_loop() {
    with_loop(|event_loop| {
        let kept_duplicate = Duplicate::default();
        let handler_copy = Rc::clone(&kept_duplicate);
        let server = TcpServer::bind_unix(event_loop, unix::abstract_name()).unwrap();
        let server = server.serve(move |_| Duplicating(Rc::clone(&handler_copy))).unwrap();
        let mut client = unix::connect(&server);
        client.write_all(b"x").unwrap();
        net::turn_until(event_loop, || kept_duplicate.borrow().is_some() && server.open_connections() == 0);
        let duplicate = kept_duplicate.take().unwrap();
        assert_does_not_wake(event_loop, duplicate, || client.write_all(b"x").unwrap());
    });
}

#[test]
fn a_stopped_client_does_not_wake_the_loop() {
    with_loop(|event_loop| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let kept_duplicate = Duplicate::default();
        let handler_copy = Rc::clone(&kept_duplicate);
        let client = TcpClient::connect(event_loop, listener.local_addr().unwrap());
        let client = client.serve(move |_| Duplicating(Rc::clone(&handler_copy))).unwrap();
        net::turn_until(event_loop, || kept_duplicate.borrow().is_some());
        let (mut peer, _) = listener.accept().unwrap();
        drop(client);
        let duplicate = kept_duplicate.take().unwrap();
        assert_does_not_wake(event_loop, duplicate, || peer.write_all(b"x").unwrap());
    });
}

#[test]
fn a_closed_udp_socket_does_not_wake_the_loop() {
    with_loop(|event_loop| {
        let kept_duplicate = Duplicate::default();
        let socket = UdpSocket::bind(event_loop, "127.0.0.1:0").unwrap();
        let socket = socket.serve(Duplicating(Rc::clone(&kept_duplicate))).unwrap();
        let (plain, to) = (udp::plain(), socket.local_addr().unwrap());
        plain.send_to(b"x", to).unwrap();
        net::turn_until(event_loop, || kept_duplicate.borrow().is_some());
        let duplicate = kept_duplicate.take().unwrap();
        assert_does_not_wake(event_loop, duplicate, || _ = plain.send_to(b"x", to).unwrap());
    });
}

/// A channel closes when it is dropped, closed in its callback, or when its callback panics.
#[test]
fn a_closed_channel_does_not_wake_the_loop() {
    for end in ["drop", "close", "panic"] {
        crate::support::with_catching_loop(move |event_loop| {
            let (local, mut peer) = UnixStream::pair().unwrap();
            local.set_nonblocking(true).unwrap();
            let duplicate = local.try_clone().unwrap();
            let channel = Channel::new(event_loop, local, Interest::READABLE, move |event| match end {
                "close" => event.close(),
                "panic" => panic!("intended by the test"),
                _ => _ = event.source().read(&mut [0; 16]).unwrap(),
            });
            let channel = channel.unwrap();
            peer.write_all(b"x").unwrap();
            turn(event_loop);
            assert_eq!(channel.is_open(), end == "drop");
            drop(channel);
            assert_does_not_wake(event_loop, duplicate, || peer.write_all(b"x").unwrap());
        });
    }
}

#[test]
fn an_unwatched_eventfd_does_not_wake_the_loop() {
    with_loop(|event_loop| {
        let eventfd = EventFd::new(0).unwrap();
        let duplicate = eventfd.try_clone().unwrap();
        let source = eventfd.watch(event_loop, |_, _| ()).unwrap();
        turn(event_loop);
        drop(source);
        assert_does_not_wake(event_loop, &duplicate, || duplicate.signal().unwrap());
    });
}

#[test]
fn a_closed_shared_ring_does_not_wake_the_loop() {
    with_loop(|event_loop| {
        let (ring, descriptors) = SharedRing::create(4096).unwrap();
        let bells = crate::support::ring::clones(&descriptors);
        let source = ring.watch(event_loop, |_, _| ()).unwrap();
        turn(event_loop);
        drop(source);
        for bell in &bells[1..] {
            let bell = EventFd::from(bell.try_clone().unwrap());
            assert_does_not_wake(event_loop, &bell, || bell.signal().unwrap());
        }
    });
}

/// Without a duplicate, the close of the descriptor is sufficient, and no other call is made.
#[test]
fn a_closed_connection_without_duplicate_does_not_wake_the_loop() {
    with_loop(|event_loop| {
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap();
        let server = server.serve_fn(|conn, _| conn.close()).unwrap();
        let mut client = net::connect(server.local_addr().unwrap());
        client.write_all(b"x").unwrap();
        net::turn_until(event_loop, || server.counters().accepted == 1 && server.open_connections() == 0);
        net::wait_for_end(&mut client);
        (0..3).for_each(|_| turn(event_loop));
        assert!(!is_readable(event_loop));
    });
}
