//! `shutdown_read`: input is discarded, its end is reported, and the output continues.

use std::io::{ErrorKind, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::mpsc;

use crate::support::net::{
    self, End, HandlerCall, Journal, Script, message, pattern, scripted, scripted_with_handles,
};
use crate::support::{LIMIT, Recorder, turn, with_loop, with_watchdog};
use reveille::codec::{Framed, LineCodec};
use reveille::net::CloseReason;
use reveille::{ConnectionHandle, TcpConnection, TcpServer};

/// More than the buffers of both sockets hold.
const MUCH: usize = 16 << 20;

#[test]
fn later_input_is_discarded_and_its_end_reported() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(|script| {
            script
                .on_message(|conn, input| {
                    input.consume(1);
                    conn.shutdown_read();
                    conn.shutdown_read();
                    // Neither has an effect any more.
                    conn.pause_reading();
                    conn.resume_reading();
                    Ok(conn.send("enough")?)
                })
                .on_peer_shutdown(|conn| {
                    assert_eq!(conn.unread(), 0);
                    conn.send(", goodbye")?;
                    conn.shutdown();
                    Ok(())
                })
        });
        let mut client = host.connect();
        client.write_all(b"first").unwrap();
        assert_eq!(net::read_exact(&mut client, 6), b"enough");
        // The peer is not blocked, although nobody consumes this.
        client.write_all(&pattern(MUCH)).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(net::read_to_end(&mut client), b", goodbye");
        assert_eq!(
            journal.calls_until_close(0),
            [
                HandlerCall::Open,
                message("first"),
                HandlerCall::PeerShutdown,
                HandlerCall::Close(End::Finished)
            ]
        );
    });
}

#[test]
fn a_pause_ends_and_its_unread_input_is_dropped() {
    with_watchdog(LIMIT, || {
        let (sender, handles) = mpsc::channel();
        let (host, journal) = scripted(move |script| {
            let sender = sender.clone();
            script.on_message(move |conn, _| {
                conn.pause_reading();
                sender.send(conn.handle()).unwrap();
            })
        });
        let mut client = host.connect();
        client.write_all(b"left unread").unwrap();
        let handle: ConnectionHandle = handles.recv_timeout(net::LIMIT).unwrap();
        handle.shutdown_read();
        handle.send("still open").unwrap();
        assert_eq!(net::read_exact(&mut client, 10), b"still open");
        client.write_all(&pattern(MUCH)).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(net::read_to_end(&mut client), b"");
        assert_eq!(
            journal.calls_until_close(0),
            [
                HandlerCall::Open,
                message("left unread"),
                HandlerCall::PeerShutdown,
                HandlerCall::Close(End::Finished)
            ]
        );
    });
}

#[test]
fn a_handle_on_the_loop_ends_the_input_at_once() {
    with_watchdog(LIMIT, || {
        let (host, journal, handles) = scripted_with_handles();
        let mut client = host.connect();
        let handle = handles.recv_timeout(net::LIMIT).unwrap();
        let on_loop = handle.clone();
        host.request(move |_, _| on_loop.shutdown_read());
        client.write_all(b"discarded").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(net::read_to_end(&mut client), b"");
        assert_eq!(
            journal.calls_until_close(0),
            [HandlerCall::Open, HandlerCall::PeerShutdown, HandlerCall::Close(End::Finished)]
        );
        handle.shutdown_read();
    });
}

#[test]
fn a_partial_frame_that_is_dropped_is_no_error() {
    with_loop(|event_loop| {
        let reasons = Recorder::new();
        let recording = reasons.clone();
        struct Lines(Recorder<String>);
        impl reveille::codec::FrameHandler<LineCodec> for Lines {
            fn on_frame(&mut self, conn: &TcpConnection<'_>, line: &[u8]) -> std::io::Result<()> {
                assert_eq!(line, b"one");
                conn.shutdown_read();
                Ok(())
            }
            fn on_close(&mut self, _: &TcpConnection<'_>, reason: &CloseReason) {
                self.0.record(reason.to_string());
            }
        }
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap();
        let server =
            server.serve(move |_| Framed::new(LineCodec::new(100), Lines(recording.clone()))).unwrap();
        let mut client = net::connect(server.local_addr().unwrap());
        client.write_all(b"one\ntwo\nthr").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        net::turn_until(event_loop, || reasons.len() == 1);
        assert_eq!(reasons.take(), ["both ends have finished"]);
    });
}

#[test]
fn a_failed_write_closes_the_connection_at_once() {
    with_loop(|event_loop| {
        let (peer, socket) = UnixStream::pair().unwrap();
        let journal = Journal::new();
        let writing = journal.clone();
        let handle = TcpConnection::adopt(event_loop, socket, move |_| {
            writing.script().on_open(|conn| conn.shutdown_read())
        });
        let handle = handle.unwrap();
        turn(event_loop);
        drop(peer);
        handle.send("to nobody").unwrap();
        net::turn_until(event_loop, || !handle.is_open());
        turn(event_loop);
        let End::Error(kind, _) = journal.end_of(0) else { panic!("{:?}", journal.of(0)) };
        assert_eq!(kind, ErrorKind::BrokenPipe);
    });
}

#[test]
fn a_connection_without_input_cannot_be_relayed() {
    with_loop(|event_loop| {
        let handles: Vec<(UnixStream, ConnectionHandle)> = (0..2)
            .map(|_| {
                let (peer, socket) = UnixStream::pair().unwrap();
                (peer, TcpConnection::adopt(event_loop, socket, |_| Journal::new().script()).unwrap())
            })
            .collect();
        turn(event_loop);
        handles[0].1.shutdown_read();
        let refused = Rc::new(std::cell::Cell::new(0));
        for (from, to) in [(0, 1), (1, 0)] {
            let (other, counter) = (handles[to].1.clone(), Rc::clone(&refused));
            let relay = move |_: &mut Script, conn: &TcpConnection<'_>| {
                let error = conn.relay_to(&other).expect_err("its input is shut down");
                assert_eq!(error.kind(), ErrorKind::NotConnected);
                counter.set(counter.get() + 1);
            };
            handles[from].1.with_local(event_loop, relay).expect("an open connection");
        }
        assert_eq!(refused.get(), 2);
    });
}
