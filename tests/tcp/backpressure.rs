//! Peers that do not read, and endless producers: a connection is throttled at its water marks and
//! loses no bytes. Other connections are served.

use std::io::{self, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use crate::support::net::{
    self, End, HandlerCall, Host, assert_queued, assert_written, message, pattern, scripted_with,
};
use crate::support::{KIB, LIMIT, with_watchdog};
use reveille::net::ConnectionLimits;
use reveille::{Buffer, ConnectionHandler, TcpConnection, TcpServer};
use socket2::SockRef;

// --- A peer that does not read

/// Statistics of a connection of [`Watched`].
#[derive(Default)]
struct Stats {
    max_unsent: AtomicUsize,
    throttled: AtomicBool,
    messages: AtomicUsize,
    /// Messages that arrived too early: after the high-water mark was exceeded, and while the
    /// unsent bytes still exceeded the low-water mark.
    too_early: AtomicUsize,
    /// The maximum number of unsent bytes at the first message after the high-water mark was
    /// exceeded.
    max_at_resumption: AtomicUsize,
}

/// An echo handler with a small send buffer: compared to the water marks, the kernel accepts few
/// bytes at a time.
struct Watched {
    stats: Arc<Stats>,
    high: usize,
    low: usize,
    passed_high: bool,
}

impl Watched {
    fn new(stats: &Arc<Stats>, high: usize, low: usize) -> Watched {
        Watched { stats: Arc::clone(stats), high, low, passed_high: false }
    }
}

impl ConnectionHandler for Watched {
    fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
        SockRef::from(conn).set_send_buffer_size(32 * KIB)
    }

    fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        self.stats.messages.fetch_add(1, SeqCst);
        if self.passed_high {
            self.stats.max_at_resumption.fetch_max(conn.unsent(), SeqCst);
            if conn.unsent() > self.low {
                self.stats.too_early.fetch_add(1, SeqCst);
            }
        }
        conn.send(input.take_all())?;
        self.stats.max_unsent.fetch_max(conn.unsent(), SeqCst);
        self.passed_high = conn.unsent() > self.high;
        if self.passed_high {
            self.stats.throttled.store(true, SeqCst);
        }
        Ok(())
    }
}

/// Sends `bytes` to the echo server of a host. Reads nothing until the server has stopped reading,
/// then reads all bytes.
fn flood(host: &Host, stats: &Stats, bytes: &[u8]) {
    let mut client = net::connect_with_small_packets(host.address());
    let mut writer = client.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            writer.write_all(bytes).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        net::until(|| stats.throttled.load(SeqCst));
        // The connection stays throttled for any number of turns.
        let messages = stats.messages.load(SeqCst);
        for _ in 0..20 {
            host.request(|_, _| ());
        }
        assert_eq!(stats.messages.load(SeqCst), messages, "reading continued above the high-water mark");
        host.assert_idle();
        // Another connection is served normally.
        net::assert_echoes(&mut host.connect());

        assert!(net::read_to_end(&mut client) == bytes, "the echoed bytes differ");
    });
}

fn assert_marks_held(high: usize, stats: &Stats) {
    let max = stats.max_unsent.load(SeqCst);
    // At most one message above the mark, and a message is at most a full buffer.
    assert!(max > high && max <= high + 64 * KIB, "{max} bytes were unsent");
    assert_eq!(stats.too_early.load(SeqCst), 0, "reading resumed above the low-water mark");
}

#[test]
fn a_flooding_peer_that_does_not_read_is_throttled_losslessly() {
    const HIGH: usize = 512 * KIB;
    const LOW: usize = 64 * KIB;
    with_watchdog(LIMIT, || {
        let stats = Arc::new(Stats::default());
        let watched = Arc::clone(&stats);
        let host = Host::new(move |event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?
                .limits(ConnectionLimits::new().water_marks(HIGH, LOW))
                .serve(move |_| Watched::new(&watched, HIGH, LOW))
        });
        flood(&host, &stats, &pattern(3 << 20));
        assert_marks_held(HIGH, &stats);
    });
}

#[test]
fn reading_continues_at_exactly_the_high_water_mark() {
    const HIGH: usize = 256 * KIB;
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted_with(
            |builder| builder.limits(ConnectionLimits::new().water_marks(HIGH, 0)),
            |script| {
                script.on_open(|conn| SockRef::from(conn).set_send_buffer_size(32 * KIB)).on_message(
                    |conn, input| {
                        if input.take_all() == b"fill" {
                            while conn.unsent() == 0 {
                                conn.send([0; 1000])?;
                            }
                            conn.send(vec![0; HIGH - conn.unsent()])?;
                            assert_eq!(conn.unsent(), HIGH);
                        }
                        io::Result::Ok(())
                    },
                )
            },
        );
        let mut client = net::connect_with_small_receive_buffer(host.address());
        client.write_all(b"fill").unwrap();
        journal.wait_for(0, |event| *event == message("fill"));
        client.write_all(b"still there?").unwrap();
        journal.wait_for(0, |event| *event == message("still there?"));
        assert_eq!(host.handle().counters().panics, 0);
    });
}

/// Unconsumed input is offered before the end of input. It is not offered again when the queue
/// drains.
#[test]
fn no_input_is_offered_after_the_end_of_input() {
    const HIGH: usize = 256 * KIB;
    with_watchdog(LIMIT, || {
        let (sender, filled) = mpsc::channel();
        let (host, journal) = scripted_with(
            |builder| {
                net::with_small_send_buffer(
                    builder.limits(ConnectionLimits::new().water_marks(HIGH, HIGH / 2)),
                )
            },
            move |script| {
                let sender = sender.clone();
                script
                    .on_message(|_, _| ())
                    .on_peer_shutdown(move |conn| {
                        while conn.unsent() <= HIGH {
                            conn.send([0; 1000])?;
                        }
                        sender.send(()).unwrap();
                        Ok(())
                    })
                    // The loop makes a few turns before the close. They must cause no callback.
                    .on_drained(|conn| conn.close_after(Duration::from_millis(20)))
            },
        );
        let mut client = net::connect_with_small_receive_buffer(host.address());
        client.write_all(b"left").unwrap();
        journal.wait_for(0, |event| *event == message("left"));
        client.shutdown(Shutdown::Write).unwrap();
        filled.recv_timeout(net::LIMIT).unwrap();
        assert!(net::read_to_end(&mut client).len() > HIGH);
        let expected = [
            HandlerCall::Open,
            message("left"),
            HandlerCall::PeerShutdown,
            HandlerCall::Drained,
            HandlerCall::Close(End::Closed),
        ];
        assert_eq!(journal.calls_until_close(0), expected);
    });
}

/// Each reply exceeds the high-water mark, and the queue drains to it in many steps.
#[test]
fn a_low_mark_above_the_high_mark_is_clamped() {
    const HIGH: usize = 256 * KIB;
    with_watchdog(LIMIT, || {
        let max_unsent = Arc::new(AtomicUsize::new(0));
        let recorded = Arc::clone(&max_unsent);
        let (host, _journal) = scripted_with(
            |builder| builder.limits(ConnectionLimits::new().water_marks(HIGH, 100 * HIGH)),
            move |script| {
                let recorded = Arc::clone(&recorded);
                script.terse().on_open(|conn| SockRef::from(conn).set_send_buffer_size(32 * KIB)).on_message(
                    move |conn, input| {
                        recorded.fetch_max(conn.unsent(), SeqCst);
                        input.clear();
                        Ok(conn.send(vec![0; 4 * HIGH])?)
                    },
                )
            },
        );
        let mut client = net::connect_with_small_packets(host.address());
        // A message is at most a full buffer, so the input takes several messages.
        assert!(net::finish_meanwhile(&mut client, &[0; 256 * KIB]).len() >= 4 * 4 * HIGH);
        let max = max_unsent.load(SeqCst);
        assert!(max <= HIGH, "a message was delivered while {max} bytes were unsent");
    });
}

#[test]
fn the_default_marks_are_four_and_one_mebibytes() {
    const HIGH: usize = 4 << 20;
    const LOW: usize = 1 << 20;
    with_watchdog(LIMIT, || {
        let stats = Arc::new(Stats::default());
        let watched = Arc::clone(&stats);
        let host = Host::new(move |event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?.serve(move |_| Watched::new(&watched, HIGH, LOW))
        });
        flood(&host, &stats, &pattern(6 << 20));
        assert_marks_held(HIGH, &stats);
        // With a much lower mark, reading would resume with fewer unsent bytes.
        assert!(stats.max_at_resumption.load(SeqCst) > LOW / 2);
    });
}

#[test]
fn on_drained_is_called_once_when_the_queue_drains() {
    with_watchdog(LIMIT, || {
        const LARGE: usize = 2 << 20;
        let (host, journal) = scripted_with(net::with_small_send_buffer, |script| {
            script
                .on_open(|conn| {
                    assert_written(conn, conn.send(b"small"));
                    assert_queued(conn, conn.send(vec![0; LARGE]));
                    assert_queued(conn, conn.send(b"behind"));
                    Ok(())
                })
                .on_drained(|conn| {
                    assert_eq!(conn.unsent(), 0);
                    Ok(())
                })
        });
        let mut client = net::connect_with_small_receive_buffer(host.address());
        journal.wait_for(0, |event| *event == HandlerCall::Open);
        host.request(|_, _| ());
        assert_eq!(journal.of(0), [HandlerCall::Open], "on_drained was called before the queue drained");
        let bytes = net::read_exact(&mut client, 5 + LARGE + 6);
        assert_eq!((&bytes[..5], &bytes[bytes.len() - 6..]), (&b"small"[..], &b"behind"[..]));
        net::assert_echoes(&mut client);
        host.assert_idle();
        drop(client);
        let expected = [
            HandlerCall::Open,
            HandlerCall::Drained,
            message("are you there?"),
            HandlerCall::PeerShutdown,
            HandlerCall::Close(End::Finished),
        ];
        assert_eq!(journal.calls_until_close(0), expected);
        assert_eq!(host.handle().counters().panics, 0);
    });
}

// --- An endless producer

/// After the message `go`, sends without end: a new piece whenever the kernel has accepted the
/// previous one. Echoes other messages.
struct Chargen {
    piece: Vec<u8>,
    max_unsent: Arc<AtomicUsize>,
}

impl ConnectionHandler for Chargen {
    fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        if input.readable() == b"go" {
            input.clear();
            conn.notify_drained();
        } else {
            conn.send(input.take_all())?;
        }
        Ok(())
    }

    fn on_drained(&mut self, conn: &TcpConnection) -> io::Result<()> {
        assert_eq!(conn.unsent(), 0);
        conn.send(&self.piece)?;
        self.max_unsent.fetch_max(conn.unsent(), SeqCst);
        conn.notify_drained();
        Ok(())
    }
}

fn chargen(piece: usize) -> (Host, Arc<AtomicUsize>) {
    let max_unsent = Arc::new(AtomicUsize::new(0));
    let recorded = Arc::clone(&max_unsent);
    let host = Host::new(move |event_loop| {
        net::with_small_send_buffer(TcpServer::bind(event_loop, "127.0.0.1:0")?)
            .serve(move |_| Chargen { piece: pattern(piece), max_unsent: Arc::clone(&recorded) })
    });
    (host, max_unsent)
}

#[test]
fn an_endless_producer_is_paced_by_its_peer() {
    const PIECE: usize = 40_000;
    with_watchdog(LIMIT, || {
        let (host, max_unsent) = chargen(PIECE);
        let mut reader = host.connect();
        reader.write_all(b"go").unwrap();
        let piece = pattern(PIECE);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            // The stream is active from before the first request until after the last reply.
            assert!(net::read_exact(&mut reader, PIECE) == piece);
            let streaming = scope.spawn(|| {
                let mut pieces = 0;
                while !done.load(SeqCst) || pieces < 20 {
                    assert!(net::read_exact(&mut reader, PIECE) == piece, "the received bytes differ");
                    pieces += 1;
                }
            });
            let mut client = host.connect();
            for _ in 0..50 {
                net::assert_echoes(&mut client);
            }
            done.store(true, SeqCst);
            streaming.join().unwrap();
        });
        let max = max_unsent.load(SeqCst);
        assert!(max <= PIECE, "{max} bytes were unsent");
    });
}

#[test]
fn an_endless_producer_sleeps_while_its_peer_does_not_read() {
    with_watchdog(LIMIT, || {
        let (host, max_unsent) = chargen(1 << 20);
        let mut stalled = net::connect_with_small_receive_buffer(host.address());
        stalled.write_all(b"go").unwrap();
        net::until(|| max_unsent.load(SeqCst) > 0);
        net::assert_echoes(&mut host.connect());
        host.assert_idle();
        // When the client reads, it is served again.
        let expected = pattern(1 << 20);
        for _ in 0..8 {
            assert!(net::read_exact(&mut stalled, 1 << 20) == expected, "the received bytes differ");
        }
        assert_eq!(host.handle().counters().panics, 0);
    });
}
