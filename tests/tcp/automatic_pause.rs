//! The automatic pause of reading: it applies to replies that the peer does not read, and never to
//! unsolicited output.

use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::rc::Rc;
use std::time::Duration;

use crate::support::net;
use crate::support::{KIB, MIB, Recorder, folder, turn, with_loop};
use reveille::net::{ConnectionLimits, SendError, SocketOptions, TcpServerBuilder};
use reveille::{Buffer, ConnectionHandler, EventLoop, TcpClient, TcpConnection, TcpServer};

const HIGH: usize = 256 * KIB;
const LOW: usize = 64 * KIB;
/// Far more than the kernel's limited buffers hold.
const PAYLOAD: usize = MIB;

fn marks() -> ConnectionLimits {
    ConnectionLimits::new().water_marks(HIGH, LOW)
}

/// A server with the marks, whose kernel buffers are limited.
fn server(event_loop: &EventLoop) -> TcpServerBuilder<'_> {
    net::with_small_send_buffer(TcpServer::bind(event_loop, "127.0.0.1:0").unwrap()).limits(marks())
}

type Callback = Box<dyn FnMut(&TcpConnection) -> io::Result<()>>;

/// Sends in one of its callbacks, and records the number of unsent bytes at each message.
struct Sender {
    on_open: Callback,
    on_message: Callback,
    messages: Recorder<usize>,
}

impl ConnectionHandler for Sender {
    fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
        (self.on_open)(conn)
    }

    fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        input.clear();
        self.messages.record(conn.unsent());
        (self.on_message)(conn)
    }
}

fn nothing() -> Callback {
    Box::new(|_| Ok(()))
}

/// A sender on a server with `settings`, and its peer, which reads nothing yet.
fn connect(
    event_loop: &EventLoop,
    settings: impl for<'a> Fn(TcpServerBuilder<'a>) -> TcpServerBuilder<'a>,
    on_open: Callback,
    on_message: Callback,
) -> (TcpServer, TcpStream, Recorder<usize>) {
    let messages = Recorder::new();
    let sender = Cell::new(Some(Sender { on_open, on_message, messages: messages.clone() }));
    let server = settings(server(event_loop)).serve(move |_| sender.take().expect("one connection")).unwrap();
    let peer = net::connect_with_small_receive_buffer(server.local_addr().unwrap());
    net::turn_until(event_loop, || server.open_connections() == 1);
    (server, peer, messages)
}

fn turns(event_loop: &EventLoop) {
    (0..20).for_each(|_| turn(event_loop));
}

/// Queues `PAYLOAD` bytes.
fn fill(conn: &TcpConnection) -> io::Result<()> {
    conn.send_owned(vec![0; PAYLOAD])?;
    assert!(conn.unsent() > HIGH);
    Ok(())
}

fn fill_once(mut fill: impl FnMut(&TcpConnection) -> io::Result<()> + 'static) -> Callback {
    let mut is_filled = false;
    Box::new(move |conn| if std::mem::replace(&mut is_filled, true) { Ok(()) } else { fill(conn) })
}

/// Asserts that the peer's messages are read while the connection has more unsent bytes than the
/// high-water mark.
#[track_caller]
fn assert_is_read(event_loop: &EventLoop, peer: &mut TcpStream, messages: &Recorder<usize>) {
    for _ in 0..3 {
        peer.write_all(b"x").unwrap();
        net::turn_until(event_loop, || messages.len() == 1);
        assert!(messages.take()[0] > HIGH);
    }
}

/// Asserts that a connection does not read until its peer has read.
#[track_caller]
fn assert_pauses(event_loop: &EventLoop, peer: &mut TcpStream, messages: &Recorder<usize>) {
    messages.take();
    peer.write_all(b"y").unwrap();
    turns(event_loop);
    assert_eq!(messages.take(), [], "a message was delivered above the high-water mark");
    peer.set_nonblocking(true).unwrap();
    net::turn_until(event_loop, || {
        let _ = peer.read(&mut [0; 16 * KIB]);
        messages.len() > 0
    });
    assert!(messages.take()[0] <= LOW, "reading resumed above the low-water mark");
}

#[test]
fn two_peers_that_both_send_before_they_read_finish() {
    struct Both {
        received: Rc<Cell<usize>>,
    }
    impl ConnectionHandler for Both {
        fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
            fill(conn)
        }
        fn on_message(&mut self, _: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
            self.received.set(self.received.get() + input.len());
            input.clear();
            Ok(())
        }
    }
    with_loop(|event_loop| {
        let counts = [Rc::<Cell<usize>>::default(), Rc::default()];
        let [at_server, at_client] = counts.clone();
        let server = server(event_loop).serve(move |_| Both { received: Rc::clone(&at_server) }).unwrap();
        let options = SocketOptions::new().send_buffer(32 * KIB).receive_buffer(32 * KIB);
        let _client = TcpClient::connect(event_loop, server.local_addr().unwrap())
            .socket_options(options)
            .limits(marks())
            .serve(move |_| Both { received: Rc::clone(&at_client) })
            .unwrap();
        net::turn_until(event_loop, || counts.iter().all(|received| received.get() == PAYLOAD));
    });
}

#[test]
fn replies_above_the_mark_stop_reading_until_the_low_mark() {
    with_loop(|event_loop| {
        let (_server, mut peer, messages) = connect(event_loop, |b| b, nothing(), fill_once(fill));
        peer.write_all(b"x").unwrap();
        net::turn_until(event_loop, || messages.len() == 1);
        assert_pauses(event_loop, &mut peer, &messages);
    });
}

#[test]
fn files_pause_reading_only_when_sent_as_replies() {
    let folder = folder::Folder::new();
    let path = folder.path().join("file");
    std::fs::write(&path, vec![0; PAYLOAD]).unwrap();
    let file = move |conn: &TcpConnection| {
        conn.send_file(std::fs::File::open(&path)?, 0, PAYLOAD as u64)?;
        Ok(())
    };
    with_loop(|event_loop| {
        let (_server, mut peer, messages) = connect(event_loop, |b| b, nothing(), fill_once(file.clone()));
        peer.write_all(b"x").unwrap();
        net::turn_until(event_loop, || messages.len() == 1);
        assert_pauses(event_loop, &mut peer, &messages);

        let (_server, mut peer, messages) = connect(event_loop, |b| b, fill_once(file), nothing());
        turns(event_loop);
        assert_is_read(event_loop, &mut peer, &messages);
    });
}

#[test]
fn no_unsolicited_output_stops_reading() {
    with_loop(|event_loop| {
        let (_server, mut peer, messages) = connect(event_loop, |b| b, Box::new(fill), nothing());
        assert_is_read(event_loop, &mut peer, &messages);

        let through_a_handle: Callback = Box::new(|conn| {
            conn.handle().send(vec![0; PAYLOAD])?;
            // This send also takes over the bytes that were sent through the handle.
            conn.send(b"a small reply")?;
            assert!(conn.unsent() > HIGH);
            Ok(())
        });
        let (_server, mut peer, messages) =
            connect(event_loop, |b| b, nothing(), fill_once(through_a_handle));
        peer.write_all(b"x").unwrap();
        net::turn_until(event_loop, || messages.take().len() == 1);
        assert_is_read(event_loop, &mut peer, &messages);

        let by_a_timer: Callback = Box::new(|conn| {
            let handle = conn.handle();
            conn.event_loop().run_after(Duration::ZERO, move |_| handle.send(vec![0; PAYLOAD]).unwrap());
            Ok(())
        });
        let (_server, mut peer, messages) = connect(event_loop, |b| b, by_a_timer, nothing());
        turns(event_loop);
        assert_is_read(event_loop, &mut peer, &messages);
    });
}

#[test]
fn output_for_another_connection_pauses_neither() {
    with_loop(|event_loop| {
        let handle = Rc::new(Cell::new(None));
        let handle_slot = Rc::clone(&handle);
        let store_handle: Callback = Box::new(move |conn| {
            handle_slot.set(Some(conn.handle()));
            Ok(())
        });
        let (_to, mut to, at_to) = connect(event_loop, |b| b, store_handle, nothing());
        let handle = handle.take().unwrap();
        let send_to_other: Callback = Box::new(move |_| Ok(handle.send(vec![0; PAYLOAD])?));
        let (_from, mut from, at_from) = connect(event_loop, |b| b, nothing(), fill_once(send_to_other));
        from.write_all(b"x").unwrap();
        net::turn_until(event_loop, || at_from.take().len() == 1);
        assert_is_read(event_loop, &mut to, &at_to);
        from.write_all(b"x").unwrap();
        net::turn_until(event_loop, || at_from.len() == 1);
    });
}

#[test]
fn reading_resumes_when_only_unsolicited_output_is_left() {
    with_loop(|event_loop| {
        let reply_first: Callback = Box::new(|conn| {
            conn.send_owned(vec![0; 2 * HIGH])?;
            conn.handle().send(vec![0; PAYLOAD])?;
            Ok(())
        });
        let (_server, mut peer, messages) = connect(event_loop, |b| b, nothing(), fill_once(reply_first));
        peer.write_all(b"x").unwrap();
        net::turn_until(event_loop, || messages.take().len() == 1);
        peer.write_all(b"y").unwrap();
        turns(event_loop);
        assert_eq!(messages.take(), [], "a message was delivered above the high-water mark");
        peer.set_nonblocking(true).unwrap();
        net::turn_until(event_loop, || {
            let _ = peer.read(&mut [0; 16 * KIB]);
            messages.len() > 0
        });
        assert!(messages.take()[0] > HIGH, "reading resumed only after unsolicited output was sent");
    });
}

#[test]
fn without_the_automatic_pause_replies_are_bounded_by_the_limit() {
    with_loop(|event_loop| {
        let (server, mut peer, messages) =
            connect(event_loop, |b| b.limits(marks().no_automatic_pause()), nothing(), fill_once(fill));
        peer.write_all(b"x").unwrap();
        net::turn_until(event_loop, || messages.take().len() == 1);
        assert_is_read(event_loop, &mut peer, &messages);
        drop(server);

        let to_the_limit: Callback = Box::new(|conn| {
            while conn.send([0; KIB]).is_ok() {}
            assert_eq!(conn.send([0; KIB]), Err(SendError::Full));
            Ok(())
        });
        let (_server, mut peer, messages) = connect(
            event_loop,
            |b| b.limits(marks().no_automatic_pause().max_unsent(2 * HIGH)),
            nothing(),
            to_the_limit,
        );
        peer.write_all(b"x").unwrap();
        net::turn_until(event_loop, || messages.take().len() == 1);
        assert_is_read(event_loop, &mut peer, &messages);
    });
}

#[test]
fn a_client_pauses_automatically_unless_disabled() {
    for disabled in [false, true] {
        with_loop(move |event_loop| {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            socket2::SockRef::from(&listener).set_recv_buffer_size(4096).unwrap();
            let messages = Recorder::new();
            let recorded = messages.clone();
            let options = SocketOptions::new().send_buffer(32 * KIB);
            let builder = TcpClient::connect(event_loop, listener.local_addr().unwrap())
                .socket_options(options)
                .limits(if disabled { marks().no_automatic_pause() } else { marks() });
            let _client = builder
                .serve(move |_| Sender {
                    on_open: nothing(),
                    on_message: fill_once(fill),
                    messages: recorded.clone(),
                })
                .unwrap();
            listener.set_nonblocking(true).unwrap();
            let mut accepted = None;
            net::turn_until(event_loop, || {
                accepted = listener.accept().ok();
                accepted.is_some()
            });
            let (mut peer, _) = accepted.expect("the client");
            peer.set_nonblocking(false).unwrap();
            peer.write_all(b"x").unwrap();
            net::turn_until(event_loop, || messages.len() == 1);
            if disabled {
                messages.take();
                assert_is_read(event_loop, &mut peer, &messages);
            } else {
                assert_pauses(event_loop, &mut peer, &messages);
            }
        });
    }
}
