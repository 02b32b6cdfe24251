//! Received descriptors whose close blocks. Each is the only descriptor of a lingering TCP socket
//! with unsent bytes. No code path closes one on the thread of the loop. Here that is the thread of
//! the test, so such a close would block the test for an hour.

use std::cell::RefCell;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use crate::support::clock::HOUR;
use crate::support::unix::{abstract_name, connect};
use crate::support::{LIMIT, Recorder, net, turn, with_loop, with_watchdog};
use reveille::codec::{FrameHandler, Framed, LineCodec};
use reveille::ipc::SharedRing;
use reveille::{Buffer, ConnectionHandle, ConnectionHandler, EventLoop, TcpConnection, TcpServer};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use socket2::SockRef;

/// A socket whose close blocks for an hour unless its peer reads.
struct Lingering {
    socket: TcpStream,
    _peer: TcpStream,
}

impl Lingering {
    fn new() -> Lingering {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut socket = net::connect(listener.local_addr().unwrap());
        let (peer, _) = listener.accept().unwrap();
        socket.set_nonblocking(true).unwrap();
        loop {
            match socket.write(&[0; 1 << 16]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
        SockRef::from(&socket).set_linger(Some(HOUR)).unwrap();
        Lingering { socket, _peer: peer }
    }

    /// Sends `copies` descriptors of the socket and closes the original, so that those in transit
    /// are the only ones. Returns the peer, which must stay open until the end of the test, or an
    /// error if the receiver accepts no descriptors.
    fn send(self, client: &UnixStream, copies: usize) -> io::Result<TcpStream> {
        let borrowed = vec![self.socket.as_fd(); copies];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&borrowed)));
        let sent = rustix::net::sendmsg(client, &[IoSlice::new(b"x\n")], &mut control, SendFlags::empty());
        if sent.is_err() {
            SockRef::from(&self.socket).set_linger(None).unwrap();
        }
        sent?;
        Ok(self._peer)
    }
}

/// An echo handler that calls a function in `on_open`.
struct Echo<F>(F);

impl<F: FnMut(&TcpConnection<'_>) -> io::Result<()> + 'static> ConnectionHandler for Echo<F> {
    fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        (self.0)(conn)
    }

    fn on_message(&mut self, conn: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()> {
        conn.send(input.take_all()).map_err(io::Error::from)
    }
}

fn serve<F>(event_loop: &EventLoop, open: F) -> TcpServer
where
    F: FnMut(&TcpConnection<'_>) -> io::Result<()> + Clone + 'static,
{
    TcpServer::bind_unix(event_loop, abstract_name()).unwrap().serve(move |_| Echo(open.clone())).unwrap()
}

#[track_caller]
fn assert_echoes(event_loop: &EventLoop, client: &mut UnixStream, expected: &[u8]) {
    client.set_nonblocking(true).unwrap();
    let mut read = Vec::new();
    net::turn_until(event_loop, || {
        let mut bytes = [0; 64];
        match client.read(&mut bytes) {
            Ok(0) => panic!("the connection ended after {read:?}"),
            Ok(n) => read.extend_from_slice(&bytes[..n]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        read.len() >= expected.len()
    });
    assert_eq!(read, expected);
}

#[test]
fn a_descriptor_sent_before_the_accept_is_not_closed_on_the_loop() {
    with_loop(|event_loop| {
        let server = serve(event_loop, |_| Ok(()));
        let mut client = connect(&server);
        let _peer = Lingering::new().send(&client, 1).expect("a listener accepts descriptors");
        assert_echoes(event_loop, &mut client, b"x\n");
        client.write_all(b"again").unwrap();
        assert_echoes(event_loop, &mut client, b"again");
    });
}

/// The kernel fails the peer's send. A kernel that is too old for that delivers the descriptors,
/// and the connection closes them.
#[test]
fn a_connection_that_accepts_no_descriptors_rejects_them() {
    with_loop(|event_loop| {
        let server = serve(event_loop, |_| Ok(()));
        let mut client = connect(&server);
        client.write_all(b"first").unwrap();
        assert_echoes(event_loop, &mut client, b"first");
        match Lingering::new().send(&client, 1) {
            Ok(_peer) => assert_echoes(event_loop, &mut client, b"x\n"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::PermissionDenied),
        }
        client.write_all(b"again").unwrap();
        assert_echoes(event_loop, &mut client, b"again");
    });
}

#[test]
fn a_descriptor_ignored_by_its_handler_is_not_closed_on_the_loop() {
    with_loop(|event_loop| {
        let server = serve(event_loop, |conn| conn.accept_descriptors(2));
        let mut client = connect(&server);
        let _peer = Lingering::new().send(&client, 2).unwrap();
        assert_echoes(event_loop, &mut client, b"x\n");
    });
}

#[test]
fn descriptors_beyond_the_limit_are_not_closed_on_the_loop() {
    with_loop(|event_loop| {
        let server = serve(event_loop, |conn| conn.accept_descriptors(1));
        let client = connect(&server);
        let _peer = Lingering::new().send(&client, 5).unwrap();
        net::turn_until(event_loop, || server.counters().accepted == 1 && server.open_connections() == 0);
    });
}

#[test]
fn an_unread_descriptor_is_not_closed_on_the_loop() {
    for accepts in [false, true] {
        with_loop(move |event_loop| {
            let handles = Recorder::<ConnectionHandle>::new();
            let recording = handles.clone();
            let server = serve(event_loop, move |conn| {
                recording.record(conn.handle());
                conn.pause_reading();
                if accepts { conn.accept_descriptors(4) } else { Ok(()) }
            });
            let client = connect(&server);
            let _peer = Lingering::new().send(&client, 1).unwrap();
            net::turn_until(event_loop, || handles.len() == 1);
            handles.take().remove(0).close();
            net::turn_until(event_loop, || server.open_connections() == 0);
        });
    }
}

#[test]
fn a_descriptor_for_a_dropped_server_is_not_closed_on_the_loop() {
    for accepts in [false, true] {
        with_loop(move |event_loop| {
            let server = serve(event_loop, |conn| conn.accept_descriptors(1));
            let client = connect(&server);
            if accepts {
                net::turn_until(event_loop, || server.counters().accepted == 1);
            }
            let _peer = Lingering::new().send(&client, 1).unwrap();
            drop(server);
            (0..3).for_each(|_| turn(event_loop));
        });
    }
}

#[test]
fn a_descriptor_for_a_full_server_is_not_closed_on_the_loop() {
    with_loop(|event_loop| {
        let builder = TcpServer::bind_unix(event_loop, abstract_name()).unwrap();
        let builder = builder.max_connections(0).overflow_policy(reveille::net::OverflowPolicy::Reject);
        let server = builder.serve(|_| Echo(|_: &TcpConnection<'_>| Ok(()))).unwrap();
        let client = connect(&server);
        let _peer = Lingering::new().send(&client, 1).unwrap();
        net::turn_until(event_loop, || server.counters().rejected_at_maximum == 1);
    });
}

#[test]
fn a_descriptor_during_a_graceful_close_is_not_closed_on_the_loop() {
    with_loop(|event_loop| {
        let server = serve(event_loop, |conn| {
            conn.accept_descriptors(1)?;
            conn.close_gracefully(HOUR);
            Ok(())
        });
        let client = connect(&server);
        net::turn_until(event_loop, || server.counters().accepted == 1);
        let _peer = Lingering::new().send(&client, 1).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        net::turn_until(event_loop, || server.open_connections() == 0);
    });
}

/// A relay forwards bytes, and no descriptors.
#[test]
fn a_descriptor_sent_to_a_relay_is_not_closed_on_the_loop() {
    with_loop(|event_loop| {
        let first = Rc::new(RefCell::new(None::<ConnectionHandle>));
        let relaying = Rc::clone(&first);
        let server = serve(event_loop, move |conn| {
            conn.accept_descriptors(1)?;
            match relaying.take() {
                None => relaying.replace(Some(conn.handle())),
                Some(other) => return conn.relay_to(&other),
            };
            Ok(())
        });
        let mut reader = connect(&server);
        net::turn_until(event_loop, || first.borrow().is_some());
        let client = connect(&server);
        let _peer = Lingering::new().send(&client, 1).unwrap();
        assert_echoes(event_loop, &mut reader, b"x\n");
    });
}

/// There are more sockets than threads that close descriptors, and the last close is queued behind
/// all of them.
#[test]
fn lingering_sockets_do_not_delay_later_closes() {
    with_watchdog(LIMIT, || {
        let peers: Vec<_> = (0..20)
            .map(|_| {
                let Lingering { socket, _peer } = Lingering::new();
                reveille::net::close_descriptors([socket.into()]);
                _peer
            })
            .collect();
        let (mut reader, writer) = UnixStream::pair().unwrap();
        reveille::net::close_descriptors([writer.into()]);
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);
        drop(peers);
    });
}

// --- Frames --------------------------------------------------------------------------------------

/// A frame handler with the default callback for descriptors.
struct PlainLines;

impl FrameHandler<LineCodec> for PlainLines {
    fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        conn.accept_descriptors(2)
    }

    fn on_frame(&mut self, conn: &TcpConnection<'_>, line: &[u8]) -> io::Result<()> {
        conn.send(line).map_err(io::Error::from)
    }
}

#[test]
fn a_descriptor_ignored_by_a_frame_handler_is_not_closed_on_the_loop() {
    with_loop(|event_loop| {
        let server = TcpServer::bind_unix(event_loop, abstract_name()).unwrap();
        let server = server.serve(|_| Framed::new(LineCodec::new(80), PlainLines)).unwrap();
        let mut client = connect(&server);
        let _peer = Lingering::new().send(&client, 2).unwrap();
        assert_echoes(event_loop, &mut client, b"x");
    });
}

struct Lines(Recorder<OwnedFd>);

impl FrameHandler<LineCodec> for Lines {
    fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        conn.accept_descriptors(2)
    }

    fn on_frame(&mut self, conn: &TcpConnection<'_>, line: &[u8]) -> io::Result<()> {
        conn.send(line).map_err(io::Error::from)
    }

    fn on_descriptors(&mut self, _: &TcpConnection<'_>, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        descriptors.into_iter().for_each(|descriptor| self.0.record(descriptor));
        Ok(())
    }
}

#[test]
fn a_frame_handler_receives_descriptors() {
    with_loop(|event_loop| {
        let received = Recorder::new();
        let recording = received.clone();
        let server = TcpServer::bind_unix(event_loop, abstract_name()).unwrap();
        let server =
            server.serve(move |_| Framed::new(LineCodec::new(80), Lines(recording.clone()))).unwrap();
        let mut client = connect(&server);
        let _peer = Lingering::new().send(&client, 2).unwrap();
        assert_echoes(event_loop, &mut client, b"x");
        let received = received.take();
        assert_eq!(received.len(), 2);
        reveille::net::close_descriptors(received);
    });
}

/// Returns the names of the callbacks of a trait, read from its source file.
fn callbacks(file: &str, name: &str) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap();
    let (_, rest) = text.split_once(&format!("pub trait {name}")).expect("the trait");
    let (body, _) = rest.split_once("\n}\n").expect("its end");
    let names = body.lines().filter_map(|line| line.trim().strip_prefix("fn on_")?.split('(').next());
    names.map(str::to_owned).collect()
}

/// `on_frame` corresponds to `on_message`. A connection handler has no callbacks for the errors and
/// batches of frames. A frame handler has none for their time-out, which `Framed` turns into an
/// error. All other callbacks have the same names.
#[test]
fn a_frame_handler_has_every_callback_of_a_connection_handler() {
    let mut of_connections = callbacks("src/net/connection/handler.rs", "ConnectionHandler");
    let mut of_frames = callbacks("src/codec/framed.rs", "FrameHandler");
    of_connections.iter_mut().filter(|name| *name == "message").for_each(|name| *name = "frame".to_owned());
    of_frames.retain(|name| name != "frame_error" && name != "batch_end");
    of_connections.retain(|name| name != "frame_timeout");
    of_connections.sort();
    of_frames.sort();
    assert!(of_connections.len() >= 10, "only {of_connections:?} were read");
    assert_eq!(of_frames, of_connections);
    // `Framed` forwards each callback to its handler.
    let framed = std::fs::read_to_string("src/codec/framed.rs").unwrap();
    for name in of_frames {
        assert!(framed.contains(&format!("self.handler.on_{name}(")), "`Framed` does not forward on_{name}");
    }
}

/// The invalid descriptor replaces each of the three descriptors of a ring, or is a fourth.
#[test]
fn a_shared_ring_rejects_descriptors_without_closing_them_itself() {
    with_watchdog(LIMIT, || {
        for place in 0..=3 {
            let (_ring, mut descriptors) = SharedRing::create(4096).unwrap();
            let Lingering { socket, _peer } = Lingering::new();
            match descriptors.get_mut(place) {
                Some(replaced) => *replaced = socket.into(),
                None => descriptors.push(socket.into()),
            }
            let error = SharedRing::from_descriptors(descriptors, 4096).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{place}: {error}");
        }
    });
}
