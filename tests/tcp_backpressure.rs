//! Peers that do not read, producers that do not stop, handlers that do not want to read: memory stays bounded, nothing is lost,
//! and others are served.

mod support;

use std::cell::{Cell, RefCell};
use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use reveille::{
    Buffer, ConnectionHandle, ConnectionHandler, EventLoop, SendError, Sent, TcpConnection, TcpServer,
};
use rustix::event::PollFlags;
use socket2::SockRef;
use support::net::{self, End, Host, Journal, Script, Told, message, pattern, scripted, scripted_with};
use support::{LIMIT, with_loop, with_watchdog};

const KIB: usize = 1024;

// --- The limit ------------------------------------------------------------------------------------

#[test]
fn a_send_that_would_pass_the_limit_is_refused_whole() {
    const MAX: usize = 300 * KIB + 7;
    const PIECE: usize = 1000;
    with_watchdog(LIMIT, || {
        // A stream without end: the pattern over and over, of which no piece is longer than one round.
        let round = pattern(1 << 20);
        let twice = [&round[..], &round[..]].concat();
        let (report, reported) = mpsc::channel();
        let (host, journal) = scripted_with(
            |builder| builder.max_unsent(MAX),
            move |script| {
                let (report, twice) = (report.clone(), twice.clone());
                script.on_open(move |conn| {
                    let piece = |from: usize, len: usize| &twice[from % (twice.len() / 2)..][..len];
                    let mut accepted = 0;
                    // What the kernel takes at once is not unsent, so the pieces go on until both are full.
                    let refusal = loop {
                        let before = conn.unsent();
                        match conn.send(piece(accepted, PIECE)) {
                            Ok(Sent::Written) => assert_eq!((before, conn.unsent()), (0, 0)),
                            Ok(Sent::Queued) => assert!(conn.unsent() > before && conn.unsent() <= MAX),
                            Err(refusal) => {
                                assert_eq!(conn.unsent(), before, "a refused send leaves nothing");
                                assert!(before + PIECE > MAX, "refused at {before}");
                                break refusal;
                            }
                        }
                        accepted += PIECE;
                    };
                    assert_eq!(refusal, SendError::Full);
                    // What fits exactly is taken, and then not a byte more.
                    let room = MAX - conn.unsent();
                    assert_eq!(conn.send(piece(accepted, room)), Ok(Sent::Queued));
                    assert_eq!(conn.unsent(), MAX);
                    assert_eq!(conn.send(b"!"), Err(SendError::Full));
                    assert_eq!(conn.send(b""), Ok(Sent::Queued));
                    assert_eq!(conn.unsent(), MAX);
                    conn.shutdown();
                    report.send(accepted + room).unwrap();
                    Ok(())
                })
            },
        );
        let mut client = host.connect();
        let accepted = reported.recv_timeout(net::LIMIT).unwrap();
        let received = net::read_to_end(&mut client);
        assert_eq!(received.len(), accepted);
        let whole = received.chunks(round.len()).all(|piece| *piece == round[..piece.len()]);
        assert!(whole, "the stream has a hole in it");
        drop(client);
        assert_eq!(journal.end_of(0), End::Finished);
        assert_eq!(host.handle().counters().panics, 0);
    });
}

#[test]
fn of_a_send_larger_than_the_limit_nothing_is_sent() {
    with_watchdog(LIMIT, || {
        let (host, _journal) = scripted_with(
            |builder| builder.max_unsent(KIB),
            |script| {
                script.on_open(|conn| {
                    assert_eq!(conn.send([1; KIB + 1]), Err(SendError::Full));
                    assert_eq!(conn.send([2; KIB]), Ok(Sent::Written));
                    conn.shutdown();
                    Ok(())
                })
            },
        );
        assert_eq!(net::read_to_end(&mut host.connect()), [2; KIB]);
        assert_eq!(host.handle().counters().panics, 0);
    });
}

/// The loop is held up, so that what is sent through the handle stays on its way.
#[test]
fn a_handle_accepts_no_more_than_the_connection_could() {
    const MAX: usize = 100 * KIB;
    with_watchdog(LIMIT, || {
        let (give, given) = mpsc::channel();
        let (host, _journal) = scripted_with(
            |builder| builder.max_unsent(MAX),
            move |script| {
                let give = give.clone();
                script.on_open(move |conn| give.send(conn.handle()).unwrap())
            },
        );
        let mut client = host.connect();
        let handle: ConnectionHandle = given.recv_timeout(net::LIMIT).unwrap();
        let (release, held) = mpsc::channel::<()>();
        let (hold, holds) = mpsc::channel();
        let holding = move |_: &EventLoop| {
            hold.send(()).unwrap();
            let _ = held.recv_timeout(net::LIMIT);
        };
        host.handle().queue_in_loop(holding).unwrap();
        holds.recv_timeout(net::LIMIT).unwrap();
        for n in 0..100u8 {
            handle.send([n; KIB]).unwrap();
        }
        assert_eq!(handle.send([b'!']), Err(SendError::Full));
        assert_eq!(handle.send([]), Ok(()));
        drop(release);
        let received = net::read_exact(&mut client, MAX);
        assert!(received.chunks(KIB).enumerate().all(|(n, piece)| piece == [n as u8; KIB]));
        // What has reached the loop makes room.
        handle.send("and on").unwrap();
        assert_eq!(net::read_exact(&mut client, 6), b"and on");
    });
}

#[test]
fn a_connection_without_room_for_what_its_handle_accepted_is_closed() {
    with_watchdog(LIMIT, || {
        let (give, given) = mpsc::channel();
        let (host, journal) = scripted_with(
            |builder| builder.max_unsent(100 * KIB),
            move |script| {
                let give = give.clone();
                script.on_open(move |conn| {
                    while conn.send([0; KIB]).is_ok() {}
                    give.send(conn.handle()).unwrap()
                })
            },
        );
        let client = host.connect();
        let handle: ConnectionHandle = given.recv_timeout(net::LIMIT).unwrap();
        assert_eq!(handle.send([1; KIB]), Ok(()));
        let end = journal.end_of(0);
        assert!(matches!(end, End::Error(io::ErrorKind::StorageFull, _)), "{end:?}");
        assert_eq!(handle.send([1; KIB]), Err(SendError::Closed));
        drop(client);
    });
}

#[test]
fn a_handler_may_leave_as_much_unread_as_the_limit_says_and_no_more() {
    const MAX: usize = 50_000;
    with_watchdog(LIMIT, || {
        let unread = Arc::new(AtomicUsize::new(0));
        let noted = Arc::clone(&unread);
        let (host, journal) = scripted_with(
            |builder| builder.max_unread(MAX),
            move |script| {
                let noted = Arc::clone(&noted);
                script.terse().on_message(move |_, input| noted.store(input.len(), SeqCst))
            },
        );
        let mut client = host.connect();
        client.write_all(&[0; MAX]).unwrap();
        net::until(|| unread.load(SeqCst) == MAX);
        assert_eq!(host.open_connections(), 1);
        client.write_all(b"!").unwrap();
        match journal.end_of(0) {
            End::Error(io::ErrorKind::StorageFull, message) => {
                assert!(message.contains("unread"), "{message}")
            }
            end => panic!("{end:?}"),
        }
        net::wait_for_end(&mut client);
    });
}

// --- A peer that does not read --------------------------------------------------------------------

/// What an echo has seen of its connection.
#[derive(Default)]
struct Seen {
    most_unsent: AtomicUsize,
    held_back: AtomicBool,
    messages: AtomicUsize,
    /// Messages that came while more was unsent than the low-water mark, though the high one had been passed before.
    too_early: AtomicUsize,
    /// The most that was unsent when the first message came after the high-water mark had been passed.
    most_at_a_resumption: AtomicUsize,
}

/// An echo with a small send buffer, so that what the kernel takes at once is little beside the marks.
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
            self.seen.held_back.store(true, SeqCst);
        }
        Ok(())
    }
}

/// Floods a host's echo with `bytes` and reads nothing until the host has had enough, and then all.
fn flood(host: &Host, seen: &Seen, bytes: &[u8]) {
    let mut client = net::connect_with_small_packets(host.address());
    let mut writer = client.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            writer.write_all(bytes).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        net::until(|| seen.held_back.load(SeqCst));
        // Held back it stays, for as many turns as one likes.
        let messages = seen.messages.load(SeqCst);
        for _ in 0..20 {
            host.ask(|_, _| ());
        }
        assert_eq!(seen.messages.load(SeqCst), messages, "read on above the high-water mark");
        host.assert_rests();
        // Another one is served as if nothing was the matter.
        net::assert_echoes(&mut host.connect());

        assert!(net::read_to_end(&mut client) == bytes, "other bytes came back");
    });
}

fn assert_kept_to(high: usize, seen: &Seen) {
    let most = seen.most_unsent.load(SeqCst);
    // One more message than the mark, and a message is a buffer full at most.
    assert!(most > high && most <= high + 64 * KIB, "{most} bytes were unsent");
    assert_eq!(seen.too_early.load(SeqCst), 0, "read on above the low-water mark");
}

#[test]
fn a_peer_that_floods_and_does_not_read_is_held_back_and_loses_nothing() {
    const HIGH: usize = 512 * KIB;
    const LOW: usize = 64 * KIB;
    with_watchdog(LIMIT, || {
        let seen = Arc::new(Seen::default());
        let watched = Arc::clone(&seen);
        let host = Host::new(move |event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?
                .water_marks(HIGH, LOW)
                .serve(move |_| Watched::new(&watched, HIGH, LOW))
        });
        flood(&host, &seen, &pattern(3 << 20));
        assert_kept_to(HIGH, &seen);
    });
}

#[test]
fn at_the_high_water_mark_reading_goes_on() {
    const HIGH: usize = 256 * KIB;
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted_with(
            |builder| builder.water_marks(HIGH, 0),
            |script| {
                script
                    .on_open(|conn| {
                        while conn.unsent() == 0 {
                            conn.send([0; 1000])?;
                        }
                        conn.send(vec![0; HIGH - conn.unsent()])?;
                        assert_eq!(conn.unsent(), HIGH);
                        Ok(())
                    })
                    .on_message(|_, input| input.clear())
            },
        );
        let mut client = host.connect();
        client.write_all(b"still there?").unwrap();
        journal.wait_for(0, |told| *told == message("still there?"));
        assert_eq!(host.handle().counters().panics, 0);
    });
}

/// What a peer has sent before its end has been offered before it, and is not offered again when the queue has come down.
#[test]
fn nothing_is_offered_after_the_peers_end() {
    const HIGH: usize = 256 * KIB;
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted_with(
            |builder| builder.water_marks(HIGH, HIGH / 2),
            |script| {
                script
                    .on_message(|_, _| ())
                    .on_peer_shutdown(|conn| {
                        while conn.unsent() <= HIGH {
                            conn.send([0; 1000])?;
                        }
                        Ok(())
                    })
                    // Some turns later, in which nothing is to happen.
                    .on_drained(|conn| conn.close_after(Duration::from_millis(20)))
            },
        );
        let mut client = host.connect();
        client.write_all(b"left").unwrap();
        journal.wait_for(0, |told| *told == message("left"));
        client.shutdown(Shutdown::Write).unwrap();
        assert!(net::read_to_end(&mut client).len() > HIGH);
        let life = [Told::Open, message("left"), Told::PeerShutdown, Told::Drained, Told::Close(End::Closed)];
        assert_eq!(journal.life_of(0), life);
    });
}

/// Each message is answered with so much that the queue passes the mark, and comes down to it in many steps.
#[test]
fn a_low_mark_above_the_high_one_is_taken_for_the_high_one() {
    const HIGH: usize = 256 * KIB;
    with_watchdog(LIMIT, || {
        let most_unsent = Arc::new(AtomicUsize::new(0));
        let noted = Arc::clone(&most_unsent);
        let (host, _journal) = scripted_with(
            |builder| builder.water_marks(HIGH, 100 * HIGH),
            move |script| {
                let noted = Arc::clone(&noted);
                script.terse().on_open(|conn| SockRef::from(conn).set_send_buffer_size(32 * KIB)).on_message(
                    move |conn, input| {
                        noted.fetch_max(conn.unsent(), SeqCst);
                        input.clear();
                        conn.send(vec![0; 4 * HIGH])
                    },
                )
            },
        );
        let mut client = net::connect_with_small_packets(host.address());
        client.write_all(&[0; 256 * KIB]).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        // A buffer full at a time at most, so there were several.
        assert!(net::read_to_end(&mut client).len() >= 4 * 4 * HIGH);
        let most = most_unsent.load(SeqCst);
        assert!(most <= HIGH, "a message came when {most} bytes were unsent");
    });
}

#[test]
fn the_usual_marks_are_four_mebibytes_and_one() {
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
        // The low mark is no lower than that: it read on before all was sent.
        assert!(seen.most_at_a_resumption.load(SeqCst) > LOW / 2);
    });
}

#[test]
fn the_usual_limits_are_sixteen_mebibytes_each_way() {
    const MAX: usize = 16 << 20;
    with_watchdog(LIMIT, || {
        let unread = Arc::new(AtomicUsize::new(0));
        let noted = Arc::clone(&unread);
        let (host, journal) = scripted(move |script| {
            let noted = Arc::clone(&noted);
            script
                .terse()
                .on_open(|conn| {
                    assert_eq!(conn.send(vec![0; MAX + 1]), Err(SendError::Full));
                    assert_eq!(conn.send(vec![0; MAX]), Ok(Sent::Queued));
                    assert_eq!(conn.send(vec![0; MAX - conn.unsent() + 1]), Err(SendError::Full));
                    assert_eq!(conn.send(vec![0; MAX - conn.unsent()]), Ok(Sent::Queued));
                    assert_eq!(conn.unsent(), MAX);
                })
                .on_message(move |_, input| noted.store(input.len(), SeqCst))
        });
        let mut client = host.connect();
        // Reading is held back until the server has sent enough.
        let mut reader = client.try_clone().unwrap();
        thread::scope(|scope| {
            scope.spawn(move || io::copy(&mut reader, &mut io::sink()));
            client.write_all(&vec![0; MAX]).unwrap();
            net::until(|| unread.load(SeqCst) == MAX);
            client.write_all(b"!").unwrap();
            let end = journal.end_of(0);
            assert!(matches!(end, End::Error(io::ErrorKind::StorageFull, _)), "{end:?}");
        });
        assert_eq!(host.handle().counters().panics, 0);
    });
}

#[test]
fn a_handler_hears_once_that_its_queue_has_emptied() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(|script| {
            script
                .on_open(|conn| {
                    assert_eq!(conn.send(b"small"), Ok(Sent::Written));
                    assert_eq!(conn.send(vec![0; 8 << 20]), Ok(Sent::Queued));
                    assert_eq!(conn.send(b"behind"), Ok(Sent::Queued));
                    Ok(())
                })
                .on_drained(|conn| {
                    assert_eq!(conn.unsent(), 0);
                    Ok(())
                })
        });
        let mut client = host.connect();
        journal.wait_for(0, |told| *told == Told::Open);
        host.ask(|_, _| ());
        assert_eq!(journal.of(0), [Told::Open], "nothing has emptied yet");
        let bytes = net::read_exact(&mut client, 5 + (8 << 20) + 6);
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

// --- A producer that does not stop ----------------------------------------------------------------

/// Sends without end, a piece whenever the kernel has taken the last one; or echoes, if it is told so.
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
    let noted = Arc::clone(&most_unsent);
    let host = Host::new(move |event_loop| {
        TcpServer::bind(event_loop, "127.0.0.1:0")?
            .serve(move |_| Chargen { piece: pattern(piece), most_unsent: Arc::clone(&noted) })
    });
    (host, most_unsent)
}

#[test]
fn an_endless_producer_keeps_the_pace_of_its_peer_and_others_are_served() {
    const PIECE: usize = 40_000;
    with_watchdog(LIMIT, || {
        let (host, most_unsent) = chargen(PIECE);
        let mut reader = host.connect();
        reader.write_all(b"go").unwrap();
        let piece = pattern(PIECE);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            // It is under way from before the first question until after the last answer.
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
fn an_endless_producer_whose_peer_does_not_read_rests() {
    with_watchdog(LIMIT, || {
        let (host, most_unsent) = chargen(1 << 20);
        let mut deaf = host.connect();
        deaf.write_all(b"go").unwrap();
        net::until(|| most_unsent.load(SeqCst) > 0);
        net::assert_echoes(&mut host.connect());
        host.assert_rests();
        // As soon as it reads it is served again.
        let expected = pattern(1 << 20);
        for _ in 0..8 {
            assert!(net::read_exact(&mut deaf, 1 << 20) == expected, "other bytes came");
        }
        assert_eq!(host.handle().counters().panics, 0);
    });
}

// --- Reading is paused ----------------------------------------------------------------------------

/// Pauses after each message, and goes on in a later turn.
#[test]
fn reading_paused_after_each_message_loses_nothing() {
    with_watchdog(LIMIT, || {
        let (host, _journal) = scripted(|script| {
            script
                .terse()
                .on_message(|conn, input| {
                    conn.pause_reading();
                    conn.send(input.take(input.len().min(5000)))?;
                    conn.notify_drained();
                    Ok(())
                })
                .on_drained(|conn| conn.resume_reading())
        });
        let bytes = pattern(1 << 20);
        let answer = net::exchange_meanwhile(&mut host.connect(), &bytes);
        assert!(answer == bytes, "other bytes came back");
    });
}

/// A script that takes a line a message and pauses then, until the next turn.
fn line_by_line(script: Script) -> Script {
    script
        .on_message(|conn, input| {
            if let Some(end) = input.find(b'\n') {
                conn.send(input.take(end + 1))?;
                conn.pause_reading();
                conn.notify_drained();
            }
            Ok(())
        })
        .on_drained(|conn| conn.resume_reading())
}

#[test]
fn what_is_left_when_reading_pauses_is_offered_again_though_nothing_new_has_come() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(line_by_line);
        let mut client = host.connect();
        assert_eq!(net::exchange(&mut client, b"one\ntwo\nthree\n"), b"one\ntwo\nthree\n");
        let offered: Vec<_> =
            journal.of(0).into_iter().filter(|told| matches!(told, Told::Message(_))).collect();
        assert_eq!(offered, [message("one\ntwo\nthree\n"), message("two\nthree\n"), message("three\n")]);
        assert_eq!(net::exchange(&mut client, b"four\n"), b"four\n");
    });
}

#[test]
fn what_is_left_when_reading_pauses_is_offered_again_though_the_peer_has_finished() {
    with_loop(|event_loop| {
        let journal = Journal::new();
        let sockets = Rc::new(RefCell::new(Vec::new()));
        let (writing, opening) = (journal.clone(), Rc::clone(&sockets));
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve(move |conn| {
            opening.borrow_mut().push(net::peephole(conn));
            line_by_line(writing.script())
        });
        let server = server.unwrap();
        let mut client = net::connect(server.local_addr());
        net::turn_until(event_loop, || journal.handlers() == 1);
        client.write_all(b"one\ntwo\nthree\n").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        net::until(|| net::condition(&sockets.borrow()[0]).contains(PollFlags::RDHUP));
        net::turn_until(event_loop, || journal.of(0).contains(&Told::PeerShutdown));
        sockets.borrow_mut().clear();
        let before: Vec<_> =
            journal.of(0).into_iter().filter(|told| matches!(told, Told::Message(_))).collect();
        assert_eq!(before, [message("one\ntwo\nthree\n"), message("two\nthree\n"), message("three\n")]);
        net::turn_until(event_loop, || server.open_connections() == 0);
        assert_eq!(net::read_to_end(&mut client), b"one\ntwo\nthree\n");
    });
}

/// Also after the end has been told, since the handler may pause for a reason of its own.
#[test]
fn what_is_left_is_offered_again_to_a_handler_that_pauses_after_the_end() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(|script| {
            let mut finished = false;
            script
                .on_message(move |conn, input| {
                    if finished {
                        conn.send(input.take_all())?;
                        conn.shutdown();
                    }
                    finished = true;
                    Ok(())
                })
                .on_peer_shutdown(|conn| {
                    conn.pause_reading();
                    conn.notify_drained();
                    Ok(())
                })
                .on_drained(|conn| conn.resume_reading())
        });
        let mut client = host.connect();
        client.write_all(b"for later").unwrap();
        journal.wait_for(0, |told| *told == message("for later"));
        client.shutdown(Shutdown::Write).unwrap();
        journal.wait_for(0, |told| *told == Told::Drained);
        // Two turns are more than enough.
        host.ask(|_, _| ());
        host.ask(|_, _| ());
        let offered = journal.of(0).into_iter().filter(|told| *told == message("for later")).count();
        assert_eq!(offered, 2, "resumed, and not offered again: {journal:?}");
        assert_eq!(net::read_to_end(&mut client), b"for later");
    });
}

/// A connection that pauses on open, until `go`.
fn paused_until(go: &Rc<Cell<bool>>, script: Script) -> Script {
    let go = Rc::clone(go);
    script
        .on_open(|conn| {
            conn.pause_reading();
            conn.notify_drained();
            Ok(())
        })
        .on_drained(move |conn| {
            if go.get() {
                conn.resume_reading()
            } else {
                conn.notify_drained()
            }
            Ok(())
        })
}

#[test]
fn bytes_and_an_end_that_come_while_reading_is_paused_are_seen_after_it() {
    for bytes in [&b""[..], b"in the meantime"] {
        with_loop(|event_loop| {
            let (go, journal) = (Rc::new(Cell::new(false)), Journal::new());
            let sockets = Rc::new(RefCell::new(Vec::<TcpStream>::new()));
            let (writing, opening, going) = (journal.clone(), Rc::clone(&sockets), Rc::clone(&go));
            let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve(move |conn| {
                opening.borrow_mut().push(net::peephole(conn));
                paused_until(&going, writing.script())
            });
            let server = server.unwrap();
            let mut client = net::connect(server.local_addr());
            net::turn_until(event_loop, || journal.handlers() == 1);
            client.write_all(bytes).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            net::until(|| net::condition(&sockets.borrow()[0]).contains(PollFlags::RDHUP));
            for _ in 0..10 {
                support::turn(event_loop);
            }
            sockets.borrow_mut().clear();
            let told = journal.of(0);
            assert!(told.iter().all(|told| matches!(told, Told::Open | Told::Drained)), "paused: {told:?}");

            go.set(true);
            net::turn_until(event_loop, || server.open_connections() == 0);
            let told: Vec<_> = journal.of(0).into_iter().filter(|told| *told != Told::Drained).collect();
            let mut expected = vec![Told::Open, Told::PeerShutdown, Told::Close(End::Finished)];
            if !bytes.is_empty() {
                expected.insert(1, message("in the meantime"));
            }
            assert_eq!(told, expected);
            assert_eq!(net::read_to_end(&mut client), bytes);
        });
    }
}

/// Both ends have finished, which the kernel reports as a hang-up whether one asks or not.
#[test]
fn a_hang_up_does_not_spin_the_loop_while_reading_is_paused() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(|script| {
            script.on_open(|conn| {
                conn.pause_reading();
                conn.shutdown();
                Ok(())
            })
        });
        let mut client = host.connect();
        client.write_all(b"unread").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(net::read_to_end(&mut client), b"");
        net::until(|| host.open_connections() == 1);
        host.assert_rests();
        assert_eq!(journal.of(0), [Told::Open]);
    });
}

#[test]
fn a_pause_in_the_middle_of_a_burst_is_a_pause_at_once() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::builder().input_buffer(KIB).build().unwrap();
        let (go, journal) = (Rc::new(Cell::new(false)), Journal::new());
        let sockets = Rc::new(RefCell::new(Vec::new()));
        let (writing, opening, going) = (journal.clone(), Rc::clone(&sockets), Rc::clone(&go));
        let server = TcpServer::bind(&event_loop, "127.0.0.1:0").unwrap().serve(move |conn| {
            opening.borrow_mut().push(net::peephole(conn));
            paused_until(&going, writing.script()).on_open(|_| Ok(())).on_message(|conn, input| {
                input.clear();
                conn.pause_reading();
                conn.notify_drained();
                Ok(())
            })
        });
        let server = server.unwrap();
        let mut client = net::connect(server.local_addr());
        net::turn_until(&event_loop, || journal.handlers() == 1);
        client.write_all(&[b'x'; 3 * KIB]).unwrap();
        net::until(|| sockets.borrow()[0].peek(&mut [0; 3 * KIB]).unwrap() == 3 * KIB);
        let messages = || journal.of(0).iter().filter(|told| matches!(told, Told::Message(_))).count();
        net::turn_until(&event_loop, || messages() == 1);
        for _ in 0..10 {
            support::turn(&event_loop);
        }
        assert_eq!(messages(), 1, "read on while paused");
        go.set(true);
        net::turn_until(&event_loop, || messages() == 3);
        sockets.borrow_mut().clear();
    });
}
