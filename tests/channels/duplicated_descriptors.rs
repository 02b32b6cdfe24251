//! Descriptors that are duplicated elsewhere: what has been closed on the loop no longer wakes it,
//! whatever happens to the duplicate.

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

/// Where a handler leaves what it has duplicated.
type Kept = Rc<RefCell<Option<OwnedFd>>>;

/// Has `arrive` make the duplicate readable again and again, of which the loop must not notice
/// anything.
#[track_caller]
fn assert_wakes_nobody(event_loop: &EventLoop, duplicate: impl AsFd, mut arrive: impl FnMut()) {
    (0..3).for_each(|_| turn(event_loop));
    for _ in 0..10 {
        arrive();
        wait_readable(&duplicate);
        assert!(!is_readable(event_loop), "the loop is woken for what it has closed");
    }
}

struct Duplicating(Kept);

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
        let kept = Kept::default();
        let making = Rc::clone(&kept);
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap();
        let server = server.serve(move |_| Duplicating(Rc::clone(&making))).unwrap();
        let mut client = net::connect(server.local_addr().unwrap());
        client.write_all(b"x").unwrap();
        net::turn_until(event_loop, || kept.borrow().is_some() && server.open_connections() == 0);
        let duplicate = kept.take().unwrap();
        assert_wakes_nobody(event_loop, duplicate, || client.write_all(b"x").unwrap());
    });
}

#[test]
fn a_closed_connection_of_a_unix_server_does_not_wake_the_loop() {
    with_loop(|event_loop| {
        let kept = Kept::default();
        let making = Rc::clone(&kept);
        let server = TcpServer::bind_unix(event_loop, unix::abstract_name()).unwrap();
        let server = server.serve(move |_| Duplicating(Rc::clone(&making))).unwrap();
        let mut client = unix::connect(&server);
        client.write_all(b"x").unwrap();
        net::turn_until(event_loop, || kept.borrow().is_some() && server.open_connections() == 0);
        let duplicate = kept.take().unwrap();
        assert_wakes_nobody(event_loop, duplicate, || client.write_all(b"x").unwrap());
    });
}

#[test]
fn a_stopped_client_does_not_wake_the_loop() {
    with_loop(|event_loop| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let kept = Kept::default();
        let making = Rc::clone(&kept);
        let client = TcpClient::connect(event_loop, listener.local_addr().unwrap());
        let client = client.serve(move |_| Duplicating(Rc::clone(&making))).unwrap();
        net::turn_until(event_loop, || kept.borrow().is_some());
        let (mut peer, _) = listener.accept().unwrap();
        drop(client);
        let duplicate = kept.take().unwrap();
        assert_wakes_nobody(event_loop, duplicate, || peer.write_all(b"x").unwrap());
    });
}

#[test]
fn a_closed_udp_socket_does_not_wake_the_loop() {
    with_loop(|event_loop| {
        let kept = Kept::default();
        let socket = UdpSocket::bind(event_loop, "127.0.0.1:0").unwrap();
        let socket = socket.serve(Duplicating(Rc::clone(&kept))).unwrap();
        let (plain, to) = (udp::plain(), socket.local_addr().unwrap());
        plain.send_to(b"x", to).unwrap();
        net::turn_until(event_loop, || kept.borrow().is_some());
        let duplicate = kept.take().unwrap();
        assert_wakes_nobody(event_loop, duplicate, || _ = plain.send_to(b"x", to).unwrap());
    });
}

/// However it has ended: by its owner, by its own callback, by a panic there.
#[test]
fn a_closed_channel_does_not_wake_the_loop() {
    for end in ["drop", "close", "panic"] {
        crate::support::with_catching_loop(move |event_loop| {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            let duplicate = ours.try_clone().unwrap();
            let channel = Channel::new(event_loop, ours, Interest::READABLE, move |event| match end {
                "close" => event.close(),
                "panic" => panic!("as I was told"),
                _ => _ = event.source().read(&mut [0; 16]).unwrap(),
            });
            let channel = channel.unwrap();
            theirs.write_all(b"x").unwrap();
            turn(event_loop);
            assert_eq!(channel.is_open(), end == "drop");
            drop(channel);
            assert_wakes_nobody(event_loop, duplicate, || theirs.write_all(b"x").unwrap());
        });
    }
}

#[test]
fn an_eventfd_that_is_not_watched_any_longer_does_not_wake_the_loop() {
    with_loop(|event_loop| {
        let eventfd = EventFd::new(0).unwrap();
        let duplicate = eventfd.try_clone().unwrap();
        let source = eventfd.watch(event_loop, |_, _| ()).unwrap();
        turn(event_loop);
        drop(source);
        assert_wakes_nobody(event_loop, &duplicate, || duplicate.signal().unwrap());
    });
}

#[test]
fn a_closed_end_of_a_shared_ring_does_not_wake_the_loop() {
    with_loop(|event_loop| {
        let (here, descriptors) = SharedRing::create(4096).unwrap();
        let bells = crate::support::ring::clones(&descriptors);
        let source = here.watch(event_loop, |_, _| ()).unwrap();
        turn(event_loop);
        drop(source);
        for bell in &bells[1..] {
            let bell = EventFd::from(bell.try_clone().unwrap());
            assert_wakes_nobody(event_loop, &bell, || bell.signal().unwrap());
        }
    });
}

/// Without a duplicate the close is enough, and costs no other call.
#[test]
fn a_connection_whose_descriptor_was_not_lent_does_not_wake_the_loop() {
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
