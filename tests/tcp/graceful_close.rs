//! Graceful closes: orderly if the peer finishes in time, aborted at the timeout otherwise. The
//! connection reports the undelivered bytes.

use std::cell::{Cell, RefCell};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use crate::support::clock::MINUTE;
use crate::support::net::{
    self, End, HandlerCall, Journal, assert_written, message, pattern, reason, scripted_with,
};
use crate::support::{LIMIT, turn, with_watchdog};
use reveille::net::{ConnectionState, SendError};
use reveille::time::VirtualClock;
use reveille::{EventLoop, TcpConnection, TcpServer};

/// Far more than the kernel accepts with small buffers at both ends.
const PAYLOAD: usize = 1 << 20;

/// A server on a loop of this thread, with a virtual clock that the test advances.
struct Bench {
    event_loop: EventLoop,
    clock: VirtualClock,
    server: TcpServer,
    journal: Journal,
    /// The number of undelivered bytes of each closed connection.
    undelivered: Rc<RefCell<Vec<usize>>>,
}

impl Bench {
    /// Each connection calls `first` when it opens.
    fn new(first: impl Fn(&TcpConnection) + 'static) -> Bench {
        let clock = VirtualClock::new();
        let builder = EventLoop::builder().virtual_clock(clock.clone()).propagate_panics();
        let event_loop = builder.build().unwrap();
        let (journal, undelivered) = (Journal::new(), Rc::<RefCell<Vec<usize>>>::default());
        let (written, recorded, first) = (journal.clone(), Rc::clone(&undelivered), Rc::new(first));
        let builder = net::with_small_send_buffer(TcpServer::bind(&event_loop, "127.0.0.1:0").unwrap());
        let server = builder.serve(move |_| {
            let (recorded, first) = (Rc::clone(&recorded), Rc::clone(&first));
            written
                .script()
                .on_open(move |conn| first(conn))
                .on_close(move |conn, _| recorded.borrow_mut().push(conn.undelivered().unwrap()))
        });
        Bench { event_loop, clock, server: server.unwrap(), journal, undelivered }
    }

    fn connect(&self) -> TcpStream {
        let before = self.journal.handlers();
        let client = net::connect_with_small_receive_buffer(self.server.local_addr().unwrap());
        net::turn_until(&self.event_loop, || self.journal.handlers() > before);
        client
    }

    /// Turns the loop until the only connection is closed. Returns its end and the number of
    /// undelivered bytes.
    fn end(&self) -> (End, usize) {
        net::turn_until(&self.event_loop, || !self.undelivered.borrow().is_empty());
        assert_eq!(self.event_loop.next_deadline(), None, "a timer is left");
        (self.journal.end_of(0), self.undelivered.borrow()[0])
    }

    fn turns(&self) {
        for _ in 0..20 {
            turn(&self.event_loop);
        }
    }
}

#[test]
fn a_graceful_close_sends_queued_bytes_and_ignores_input() {
    with_watchdog(LIMIT, || {
        let bytes = pattern(PAYLOAD);
        let sent = bytes.clone();
        let (sender, reports) = mpsc::channel();
        let (host, journal) = scripted_with(net::with_small_send_buffer, move |script| {
            let (sent, sender) = (sent.clone(), sender.clone());
            script
                .on_message(move |conn, input| {
                    input.clear();
                    conn.send(&sent)?;
                    conn.close_gracefully(net::LIMIT);
                    assert_eq!(conn.state(), ConnectionState::Closing);
                    assert_eq!(conn.send("more"), Err(SendError::ShutDown));
                    assert!(conn.undelivered()? > 0);
                    io::Result::Ok(())
                })
                .on_close(move |conn, _| sender.send(conn.undelivered().unwrap()).unwrap())
        });
        let mut client = net::connect_with_small_receive_buffer(host.address());
        client.write_all(b"begin").unwrap();
        assert_eq!(net::read_exact(&mut client, 1), bytes[..1]);
        client.write_all(b"ignored").unwrap();
        assert!(net::read_to_end(&mut client) == bytes[1..], "the received bytes differ");
        client.write_all(b"also ignored").unwrap();
        drop(client);
        assert_eq!(reports.recv_timeout(net::LIMIT), Ok(0));
        let life =
            [HandlerCall::Open, message("begin"), HandlerCall::Drained, HandlerCall::Close(End::Finished)];
        assert_eq!(journal.calls_until_close(0), life);
    });
}

#[test]
fn a_peer_that_does_not_finish_is_reset_at_the_timeout() {
    with_watchdog(LIMIT, || {
        let bench = Bench::new(|conn| {
            conn.send("all there is").unwrap();
            conn.close_gracefully(MINUTE);
        });
        let mut client = bench.connect();
        assert_eq!(net::read_to_end(&mut client), b"all there is");
        bench.clock.advance(MINUTE - Duration::from_nanos(1));
        bench.turns();
        assert_eq!(bench.journal.of(0), [HandlerCall::Open]);
        assert_eq!(client.take_error().unwrap().map(|error| error.kind()), None);
        bench.clock.advance(Duration::from_nanos(1));
        assert_eq!(bench.end(), (End::DeadlinePassed, 0));
        // A reset leaves an error, an orderly close does not.
        net::until(|| client.take_error().unwrap().is_some());
    });
}

#[test]
fn bytes_aborted_by_the_timeout_are_counted() {
    with_watchdog(LIMIT, || {
        let bench = Bench::new(|conn| {
            conn.send_owned(pattern(PAYLOAD)).unwrap();
            conn.close_gracefully(MINUTE);
            assert!(conn.unsent() > 0, "the kernel accepted all bytes");
        });
        let mut client = bench.connect();
        bench.turns();
        bench.clock.advance(MINUTE);
        let (end, undelivered) = bench.end();
        assert_eq!(end, End::DeadlinePassed);
        let arrived = net::read_until_reset(&mut client).len();
        // The acknowledgement of a byte that has arrived may be too late to be counted. A byte that
        // has not arrived is never counted as delivered.
        assert!(arrived + undelivered >= PAYLOAD, "{arrived} bytes arrived, {undelivered} undelivered");
        assert!(undelivered > 0 && undelivered < PAYLOAD, "{undelivered} bytes undelivered");
    });
}

const PIECE: usize = 1000;

/// More than fits into the peer's receive buffer.
const IN_TRANSIT: usize = 16_000;

/// Both directions have ended and the queue is empty, but the kernel still holds bytes that the
/// peer has not received.
#[test]
fn a_graceful_close_waits_for_bytes_in_the_kernel() {
    with_watchdog(LIMIT, || {
        let sent = Rc::new(Cell::new(0));
        let sending = Rc::clone(&sent);
        let bench = Bench::new(move |conn| {
            while conn.undelivered().unwrap() < IN_TRANSIT {
                let piece = vec![(sending.get() / PIECE) as u8; PIECE];
                assert_written(conn, conn.send(piece));
                sending.set(sending.get() + PIECE);
            }
            conn.close_gracefully(MINUTE);
        });
        let mut client = bench.connect();
        client.shutdown(Shutdown::Write).unwrap();
        for _ in 0..10 {
            bench.turns();
            bench.clock.advance(Duration::from_secs(1));
        }
        assert_eq!(
            bench.journal.of(0),
            [HandlerCall::Open],
            "the connection closed before all bytes had arrived"
        );
        let mut read = Vec::new();
        client.set_nonblocking(true).unwrap();
        net::turn_until(&bench.event_loop, || {
            bench.clock.advance(Duration::from_millis(1));
            match client.read_to_end(&mut read) {
                Ok(_) => true,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    false
                }
            }
        });
        assert_eq!(read.len(), sent.get());
        assert!(
            read.chunks(PIECE).enumerate().all(|(n, piece)| piece == [n as u8; PIECE]),
            "the received bytes differ"
        );
        bench.clock.advance(Duration::from_millis(100));
        assert_eq!(bench.end(), (End::Finished, 0));
    });
}

#[test]
fn a_reset_of_bytes_in_the_kernel_leaves_no_timer() {
    with_watchdog(LIMIT, || {
        let bench = Bench::new(|conn| {
            while conn.undelivered().unwrap() < IN_TRANSIT {
                assert_written(conn, conn.send([0; PIECE]));
            }
            conn.close_gracefully(MINUTE);
        });
        let client = bench.connect();
        client.shutdown(Shutdown::Write).unwrap();
        // The next check of the acknowledged bytes is long before the timeout.
        let soon = bench.clock.now() + MINUTE / 2;
        net::turn_until(&bench.event_loop, || bench.event_loop.next_deadline().unwrap() < soon);
        net::reset(client);
        let (_, undelivered) = bench.end();
        assert!(undelivered > 0);
    });
}

#[test]
fn a_reset_during_a_graceful_close_leaves_undelivered_bytes() {
    with_watchdog(LIMIT, || {
        let bench = Bench::new(|conn| {
            conn.send_owned(pattern(PAYLOAD)).unwrap();
            conn.close_gracefully(MINUTE);
        });
        net::reset(bench.connect());
        let (end, undelivered) = bench.end();
        assert!(
            matches!(end, End::Error(io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe, _)),
            "{end:?}"
        );
        assert!(undelivered > 0);
    });
}

#[test]
fn the_timeout_of_a_graceful_close_can_be_changed() {
    with_watchdog(LIMIT, || {
        let bench = Bench::new(|conn| {
            conn.close_gracefully(60 * MINUTE);
            conn.close_gracefully(MINUTE);
        });
        let client = bench.connect();
        bench.clock.advance(MINUTE);
        assert_eq!(bench.end(), (End::DeadlinePassed, 0));
        drop(client);
    });
}

#[test]
fn a_close_aborts_a_graceful_close() {
    with_watchdog(LIMIT, || {
        let bench = Bench::new(|conn| {
            conn.shutdown();
            conn.close_gracefully(MINUTE);
            conn.handle().close();
        });
        let client = bench.connect();
        assert_eq!(bench.end(), (End::Closed, 0));
        drop(client);
    });
}

#[test]
fn a_graceful_close_of_a_handle_follows_its_sends() {
    with_watchdog(LIMIT, || {
        let (host, journal, handles) = net::scripted_with_handles();
        let mut client = host.connect();
        let handle = handles.recv_timeout(net::LIMIT).unwrap();
        handle.send("the last").unwrap();
        handle.close_gracefully(net::LIMIT);
        assert_eq!(reason(handle.send("too late")), Err(SendError::ShutDown));
        assert_eq!(net::read_to_end(&mut client), b"the last");
        client.write_all(b"ignored").unwrap();
        drop(client);
        assert_eq!(journal.calls_until_close(0), [HandlerCall::Open, HandlerCall::Close(End::Finished)]);
    });
}
