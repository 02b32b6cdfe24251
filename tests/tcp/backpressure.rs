//! Peers that do not read and producers that do not stop: a connection is throttled at its water
//! marks, loses no bytes, and other connections are served.

use std::io::{self, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use crate::support::net::{self, End, Host, Told, message, pattern, scripted_with};
use crate::support::{KIB, LIMIT, with_watchdog};
use reveille::net::{ConnectionLimits, SendStatus};
use reveille::{Buffer, ConnectionHandler, TcpConnection, TcpServer};
use socket2::SockRef;

// --- A peer that does not read

/// Statistics of an echo's connection.
#[derive(Default)]
struct Seen {
    most_unsent: AtomicUsize,
    throttled: AtomicBool,
    messages: AtomicUsize,
    /// Messages that arrived while more bytes were unsent than the low-water mark, after the
    /// high-water mark had been exceeded.
    too_early: AtomicUsize,
    /// The maximum of unsent bytes at the first message after the high-water mark had been
    /// exceeded.
    most_at_a_resumption: AtomicUsize,
}

/// An echo with a small send buffer, so that the kernel accepts few bytes immediately compared to
/// the marks.
struct Watched {
    seen: Arc<Seen>,
    high: usize,
    low: usize,
    passed_high: bool,
}

impl Watched {
    fn new(seen: &Arc<Seen>, high: usize, low: usize) -> Watched {
        Watched { seen: Arc::clone(seen), high, low, passed_high: false }
    }
}

impl ConnectionHandler for Watched {
    fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
        SockRef::from(conn).set_send_buffer_size(32 * KIB)
    }

    fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        self.seen.messages.fetch_add(1, SeqCst);
        if self.passed_high {
            self.seen.most_at_a_resumption.fetch_max(conn.unsent(), SeqCst);
            if conn.unsent() > self.low {
                self.seen.too_early.fetch_add(1, SeqCst);
            }
        }
        conn.send(input.take_all())?;
        self.seen.most_unsent.fetch_max(conn.unsent(), SeqCst);
        self.passed_high = conn.unsent() > self.high;
        if self.passed_high {
            self.seen.throttled.store(true, SeqCst);
        }
        Ok(())
    }
}

/// Floods a host's echo with `bytes`. Reads nothing until the host has stopped reading, and then
/// everything.
fn flood(host: &Host, seen: &Seen, bytes: &[u8]) {
    let mut client = net::connect_with_small_packets(host.address());
    let mut writer = client.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            writer.write_all(bytes).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        net::until(|| seen.throttled.load(SeqCst));
        // The connection stays throttled for any number of turns.
        let messages = seen.messages.load(SeqCst);
        for _ in 0..20 {
            host.ask(|_, _| ());
        }
        assert_eq!(seen.messages.load(SeqCst), messages, "read on above the high-water mark");
        host.assert_rests();
        // Another connection is served normally.
        net::assert_echoes(&mut host.connect());

        assert!(net::read_to_end(&mut client) == bytes, "other bytes came back");
    });
}

fn assert_kept_to(high: usize, seen: &Seen) {
    let most = seen.most_unsent.load(SeqCst);
    // At most one message above the mark, and a message is at most a full buffer.
    assert!(most > high && most <= high + 64 * KIB, "{most} bytes were unsent");
    assert_eq!(seen.too_early.load(SeqCst), 0, "read on above the low-water mark");
}

#[test]
fn a_flooding_peer_that_does_not_read_is_throttled_losslessly() {
    const HIGH: usize = 512 * KIB;
    const LOW: usize = 64 * KIB;
    with_watchdog(LIMIT, || {
        let seen = Arc::new(Seen::default());
        let watched = Arc::clone(&seen);
        let host = Host::new(move |event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?
                .limits(ConnectionLimits::new().water_marks(HIGH, LOW))
                .serve(move |_| Watched::new(&watched, HIGH, LOW))
        });
        flood(&host, &seen, &pattern(3 << 20));
        assert_kept_to(HIGH, &seen);
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
        let mut client = net::connect_with_little_room(host.address());
        client.write_all(b"fill").unwrap();
        journal.wait_for(0, |event| *event == message("fill"));
        client.write_all(b"still there?").unwrap();
        journal.wait_for(0, |event| *event == message("still there?"));
        assert_eq!(host.handle().counters().panics, 0);
    });
}

/// Input that a peer has sent before its end of input is offered before it. It is not offered again
/// when the queue drains.
#[test]
fn no_input_is_offered_after_the_end_of_input() {
    const HIGH: usize = 256 * KIB;
    with_watchdog(LIMIT, || {
        let (filled, is_filled) = mpsc::channel();
        let (host, journal) = scripted_with(
            |builder| {
                net::with_little_room(builder.limits(ConnectionLimits::new().water_marks(HIGH, HIGH / 2)))
            },
            move |script| {
                let filled = filled.clone();
                script
                    .on_message(|_, _| ())
                    .on_peer_shutdown(move |conn| {
                        while conn.unsent() <= HIGH {
                            conn.send([0; 1000])?;
                        }
                        filled.send(()).unwrap();
                        Ok(())
                    })
                    // A few turns later, in which nothing may happen.
                    .on_drained(|conn| conn.close_after(Duration::from_millis(20)))
            },
        );
        let mut client = net::connect_with_little_room(host.address());
        client.write_all(b"left").unwrap();
        journal.wait_for(0, |event| *event == message("left"));
        client.shutdown(Shutdown::Write).unwrap();
        is_filled.recv_timeout(net::LIMIT).unwrap();
        assert!(net::read_to_end(&mut client).len() > HIGH);
        let life = [Told::Open, message("left"), Told::PeerShutdown, Told::Drained, Told::Close(End::Closed)];
        assert_eq!(journal.life_of(0), life);
    });
}

/// Each reply is so large that the queue exceeds the mark, and drains to it in many steps.
#[test]
fn a_low_mark_above_the_high_mark_is_clamped() {
    const HIGH: usize = 256 * KIB;
    with_watchdog(LIMIT, || {
        let most_unsent = Arc::new(AtomicUsize::new(0));
        let recorded = Arc::clone(&most_unsent);
        let (host, _journal) = scripted_with(
            |builder| builder.limits(ConnectionLimits::new().water_marks(HIGH, 100 * HIGH)),
            move |script| {
                let recorded = Arc::clone(&recorded);
                script.terse().on_open(|conn| SockRef::from(conn).set_send_buffer_size(32 * KIB)).on_message(
                    move |conn, input| {
                        recorded.fetch_max(conn.unsent(), SeqCst);
                        input.clear();
                        conn.send(vec![0; 4 * HIGH])
                    },
                )
            },
        );
        let mut client = net::connect_with_small_packets(host.address());
        // A message is at most a full buffer, so there were several.
        assert!(net::finish_meanwhile(&mut client, &[0; 256 * KIB]).len() >= 4 * 4 * HIGH);
        let most = most_unsent.load(SeqCst);
        assert!(most <= HIGH, "a message came when {most} bytes were unsent");
    });
}

#[test]
fn the_default_marks_are_four_mebibytes_and_one() {
    const HIGH: usize = 4 << 20;
    const LOW: usize = 1 << 20;
    with_watchdog(LIMIT, || {
        let seen = Arc::new(Seen::default());
        let watched = Arc::clone(&seen);
        let host = Host::new(move |event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?.serve(move |_| Watched::new(&watched, HIGH, LOW))
        });
        flood(&host, &seen, &pattern(6 << 20));
        assert_kept_to(HIGH, &seen);
        // The low mark is no lower than that: reading resumed before all bytes were sent.
        assert!(seen.most_at_a_resumption.load(SeqCst) > LOW / 2);
    });
}

#[test]
fn on_drained_is_called_once_when_the_queue_drains() {
    with_watchdog(LIMIT, || {
        const LARGE: usize = 2 << 20;
        let (host, journal) = scripted_with(net::with_little_room, |script| {
            script
                .on_open(|conn| {
                    assert_eq!(conn.send(b"small"), Ok(SendStatus::Written));
                    assert_eq!(conn.send(vec![0; LARGE]), Ok(SendStatus::Queued));
                    assert_eq!(conn.send(b"behind"), Ok(SendStatus::Queued));
                    Ok(())
                })
                .on_drained(|conn| {
                    assert_eq!(conn.unsent(), 0);
                    Ok(())
                })
        });
        let mut client = net::connect_with_little_room(host.address());
        journal.wait_for(0, |event| *event == Told::Open);
        host.ask(|_, _| ());
        assert_eq!(journal.of(0), [Told::Open], "nothing has emptied yet");
        let bytes = net::read_exact(&mut client, 5 + LARGE + 6);
        assert_eq!((&bytes[..5], &bytes[bytes.len() - 6..]), (&b"small"[..], &b"behind"[..]));
        net::assert_echoes(&mut client);
        host.assert_rests();
        drop(client);
        let life = [
            Told::Open,
            Told::Drained,
            message("are you there?"),
            Told::PeerShutdown,
            Told::Close(End::Finished),
        ];
        assert_eq!(journal.life_of(0), life);
        assert_eq!(host.handle().counters().panics, 0);
    });
}

// --- A producer that does not stop

/// Sends endlessly after the message `go`: one piece whenever the kernel has accepted the last one.
/// Echoes other messages.
struct Chargen {
    piece: Vec<u8>,
    most_unsent: Arc<AtomicUsize>,
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
        self.most_unsent.fetch_max(conn.unsent(), SeqCst);
        conn.notify_drained();
        Ok(())
    }
}

fn chargen(piece: usize) -> (Host, Arc<AtomicUsize>) {
    let most_unsent = Arc::new(AtomicUsize::new(0));
    let recorded = Arc::clone(&most_unsent);
    let host = Host::new(move |event_loop| {
        net::with_little_room(TcpServer::bind(event_loop, "127.0.0.1:0")?)
            .serve(move |_| Chargen { piece: pattern(piece), most_unsent: Arc::clone(&recorded) })
    });
    (host, most_unsent)
}

#[test]
fn an_endless_producer_is_paced_by_its_peer() {
    const PIECE: usize = 40_000;
    with_watchdog(LIMIT, || {
        let (host, most_unsent) = chargen(PIECE);
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
                    assert!(net::read_exact(&mut reader, PIECE) == piece, "other bytes came");
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
        let most = most_unsent.load(SeqCst);
        assert!(most <= PIECE, "{most} bytes were unsent");
    });
}

#[test]
fn an_endless_producer_sleeps_while_its_peer_does_not_read() {
    with_watchdog(LIMIT, || {
        let (host, most_unsent) = chargen(1 << 20);
        let mut stalled = net::connect_with_little_room(host.address());
        stalled.write_all(b"go").unwrap();
        net::until(|| most_unsent.load(SeqCst) > 0);
        net::assert_echoes(&mut host.connect());
        host.assert_rests();
        // As soon as the client reads, it is served again.
        let expected = pattern(1 << 20);
        for _ in 0..8 {
            assert!(net::read_exact(&mut stalled, 1 << 20) == expected, "other bytes came");
        }
        assert_eq!(host.handle().counters().panics, 0);
    });
}
