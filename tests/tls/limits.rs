//! Limits of connections, which count the bytes of handlers.

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::rc::Rc;

use reveille::net::{CloseReason, ConnectionLimits};
use reveille::testing::Peer;
use reveille::tls::ServerTls;
use reveille::{Buffer, ConnectionHandler, EventLoop, TcpConnection};

use crate::authority::{NAME, client_config, server_config};
use crate::recorder::{Mode, Recorder};
use crate::support::net::pattern;
use crate::support::{KIB, with_loop};
use crate::tls_peer::{TlsPeer, client_session};

fn connect<'a, H: ConnectionHandler>(
    event_loop: &'a EventLoop,
    max_unread: usize,
    handler: H,
) -> TlsPeer<'a> {
    let limits = ConnectionLimits::new().max_unread(max_unread);
    let tls = ServerTls::new(server_config());
    let builder = TcpConnection::builder(event_loop).limits(limits).tls(&tls).unwrap();
    TlsPeer::over(Peer::connect_with(builder, |_| handler).unwrap(), client_session(client_config(), NAME))
}

#[test]
fn incomplete_records_are_not_unread_input() {
    with_loop(|event_loop| {
        for max_unread in [0, 100] {
            let mut peer = connect(event_loop, max_unread, Recorder::new(Mode::Echo));
            peer.piece = 1000;
            for size in [1, 5000, 16 * KIB, 100 * KIB] {
                peer.assert_echoes(&pattern(size));
            }
        }
    });
}

#[test]
fn whole_records_that_wait_are_not_unread_input() {
    let event_loop = EventLoop::builder().input_buffer(1024 * KIB).propagate_panics().build().unwrap();
    let mut peer = connect(&event_loop, 100, Recorder::new(Mode::Echo));
    peer.assert_echoes(b"hello");
    // More than one call of the filter decodes, in one piece.
    std::io::Write::write_all(&mut peer.session.writer(), &pattern(60 * KIB)).unwrap();
    let mut records = peer.take_records();
    for _ in 0..5 {
        std::io::Write::write_all(&mut peer.session.writer(), &pattern(60 * KIB)).unwrap();
        records.extend(peer.take_records());
    }
    peer.end.send(&records).unwrap();
    assert!(peer.received() == pattern(60 * KIB).repeat(6));
}

/// Pauses reading when it is opened, and then leaves `self.0` bytes.
struct Pauses(usize, Rc<RefCell<Option<ErrorKind>>>);

impl ConnectionHandler for Pauses {
    fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
        conn.pause_reading();
        Ok(())
    }

    fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        let taken = input.len() - self.0;
        conn.send(&input.readable()[..taken])?;
        input.consume(taken);
        Ok(())
    }

    fn on_close(&mut self, _: &TcpConnection, reason: &CloseReason) {
        if let CloseReason::Error(error) = reason {
            *self.1.borrow_mut() = Some(error.kind());
        }
    }
}

#[test]
fn only_what_the_handler_leaves_is_unread_input() {
    with_loop(|event_loop| {
        for (left, expected) in [(0, None), (100, None), (101, Some(ErrorKind::StorageFull))] {
            let closed = Rc::default();
            let mut peer = connect(event_loop, 100, Pauses(left, Rc::clone(&closed)));
            // With the last message of the handshake: it is decoded though reading is paused.
            peer.flush();
            peer.receive();
            assert!(!peer.session.is_handshaking());
            std::io::Write::write_all(&mut peer.session.writer(), &pattern(16 * KIB)).unwrap();
            peer.flush();
            assert_eq!(*closed.borrow(), None);
            peer.end.connection().resume_reading();
            peer.turn();
            assert_eq!(*closed.borrow(), expected, "{left} bytes were left");
        }
    });
}
