//! The limits of unsent and unread bytes of a connection: a send that would exceed its limit is
//! refused as a whole, and input that would exceed its limit closes the connection.

use std::cell::Cell;
use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, mpsc};

use crate::support::net::{self, End, assert_queued, assert_written, pattern, reason, scripted_with};
use crate::support::{KIB, LIMIT, with_watchdog};
use reveille::net::{ConnectionLimits, SendError};
use reveille::{ConnectionHandle, EventLoop};

#[test]
fn a_send_that_would_exceed_the_limit_is_refused() {
    const MAX: usize = 300 * KIB + 7;
    const PIECE: usize = 1000;
    with_watchdog(LIMIT, || {
        // An endless stream: the pattern repeated. No piece is longer than one repetition.
        let round = pattern(1 << 20);
        let twice = [&round[..], &round[..]].concat();
        let (report, reported) = mpsc::channel();
        let (host, journal) = scripted_with(
            |builder| builder.limits(ConnectionLimits::new().max_unsent(MAX)),
            move |script| {
                let (report, twice) = (report.clone(), twice.clone());
                script.on_open(move |conn| {
                    let piece = |from: usize, len: usize| &twice[from % (twice.len() / 2)..][..len];
                    let mut accepted = 0;
                    // Bytes that the kernel accepts immediately do not count as unsent, so the
                    // sends continue until both are full.
                    let refusal = loop {
                        let before = conn.unsent();
                        match conn.send(piece(accepted, PIECE)) {
                            Ok(()) if conn.unsent() == 0 => assert_eq!(before, 0),
                            Ok(()) => assert!(conn.unsent() > before && conn.unsent() <= MAX),
                            Err(refusal) => {
                                assert_eq!(conn.unsent(), before, "a refused send changed the queue");
                                assert!(before + PIECE > MAX, "refused at {before}");
                                break refusal;
                            }
                        }
                        accepted += PIECE;
                    };
                    assert_eq!(refusal, SendError::Full);
                    // A send that reaches the limit exactly is accepted. One more byte is refused.
                    let capacity = MAX - conn.unsent();
                    assert_queued(conn, conn.send(piece(accepted, capacity)));
                    assert_eq!(conn.unsent(), MAX);
                    assert_eq!(conn.send(b"!"), Err(SendError::Full));
                    assert_queued(conn, conn.send(b""));
                    assert_eq!(conn.unsent(), MAX);
                    conn.shutdown();
                    report.send(accepted + capacity).unwrap();
                    Ok(())
                })
            },
        );
        let mut client = host.connect();
        let accepted = reported.recv_timeout(net::LIMIT).unwrap();
        let received = net::read_to_end(&mut client);
        assert_eq!(received.len(), accepted);
        let whole = received.chunks(round.len()).all(|piece| *piece == round[..piece.len()]);
        assert!(whole, "the received bytes differ");
        drop(client);
        assert_eq!(journal.end_of(0), End::Finished);
        assert_eq!(host.handle().counters().panics, 0);
    });
}

#[test]
fn no_part_of_a_send_above_the_limit_is_sent() {
    with_watchdog(LIMIT, || {
        let (host, _journal) = scripted_with(
            |builder| builder.limits(ConnectionLimits::new().max_unsent(KIB)),
            |script| {
                script.on_open(|conn| {
                    assert_eq!(conn.send([1; KIB + 1]), Err(SendError::Full));
                    assert_written(conn, conn.send([2; KIB]));
                    conn.shutdown();
                    Ok(())
                })
            },
        );
        assert_eq!(net::read_to_end(&mut host.connect()), [2; KIB]);
        assert_eq!(host.handle().counters().panics, 0);
    });
}

/// The loop is blocked, so bytes sent through the handle stay in transit.
#[test]
fn a_handle_enforces_the_limit_of_its_connection() {
    const MAX: usize = 100 * KIB;
    with_watchdog(LIMIT, || {
        let (sender, handles) = mpsc::channel();
        let (host, _journal) = scripted_with(
            |builder| builder.limits(ConnectionLimits::new().max_unsent(MAX)),
            move |script| {
                let sender = sender.clone();
                script.on_open(move |conn| sender.send(conn.handle()).unwrap())
            },
        );
        let mut client = host.connect();
        let handle: ConnectionHandle = handles.recv_timeout(net::LIMIT).unwrap();
        let (release, released) = mpsc::channel::<()>();
        let (sender, blocked) = mpsc::channel();
        let block = move |_: &EventLoop| {
            sender.send(()).unwrap();
            let _ = released.recv_timeout(net::LIMIT);
        };
        host.handle().queue_in_loop(block).unwrap();
        blocked.recv_timeout(net::LIMIT).unwrap();
        for n in 0..100u8 {
            handle.send([n; KIB]).unwrap();
        }
        assert_eq!(reason(handle.send([b'!'])), Err(SendError::Full));
        assert_eq!(reason(handle.send([])), Ok(()));
        drop(release);
        let received = net::read_exact(&mut client, MAX);
        assert!(received.chunks(KIB).enumerate().all(|(n, piece)| piece == [n as u8; KIB]));
        // Bytes that the kernel has accepted free capacity as soon as the loop has recorded them.
        net::until(|| handle.unsent() == 0);
        handle.send("more!!").unwrap();
        assert_eq!(net::read_exact(&mut client, 6), b"more!!");
    });
}

#[test]
fn a_handle_is_refused_while_the_handler_fills_the_limit() {
    with_watchdog(LIMIT, || {
        let (sender, handles) = mpsc::channel();
        let (release, released) = mpsc::channel();
        let released = Cell::new(Some(released));
        let (host, _) = scripted_with(
            |builder| {
                net::with_small_send_buffer(builder).limits(ConnectionLimits::new().max_unsent(100 * KIB))
            },
            move |script| {
                let (sender, released) = (sender.clone(), released.take().unwrap());
                script.on_open(move |conn| {
                    let handle = conn.handle();
                    let mut sent = 0;
                    while conn.send([0; KIB]).is_ok() {
                        sent += KIB;
                    }
                    sender.send((handle, sent)).unwrap();
                    // The loop makes no turn before the release, so no capacity is freed.
                    released.recv_timeout(net::LIMIT).unwrap();
                })
            },
        );
        let mut client = net::connect_with_small_receive_buffer(host.address());
        let (handle, sent): (ConnectionHandle, usize) = handles.recv_timeout(net::LIMIT).unwrap();
        assert_eq!(reason(handle.send([1; KIB])), Err(SendError::Full));
        assert!(handle.is_open() && handle.unsent() > 99 * KIB);
        release.send(()).unwrap();
        net::read_exact(&mut client, sent);
        net::until(|| handle.unsent() == 0);
        assert_eq!(reason(handle.send([1; KIB])), Ok(()));
        assert_eq!(net::read_exact(&mut client, KIB), [1; KIB]);
    });
}

#[test]
fn unread_input_above_the_limit_closes_the_connection() {
    const MAX: usize = 50_000;
    with_watchdog(LIMIT, || {
        let unread = Arc::new(AtomicUsize::new(0));
        let recorded = Arc::clone(&unread);
        let (host, journal) = scripted_with(
            |builder| builder.limits(ConnectionLimits::new().max_unread(MAX)),
            move |script| {
                let recorded = Arc::clone(&recorded);
                script.terse().on_message(move |_, input| recorded.store(input.len(), SeqCst))
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

#[test]
fn the_default_limits_are_sixteen_mebibytes_per_direction() {
    const MAX: usize = 16 << 20;
    with_watchdog(LIMIT, || {
        let unread = Arc::new(AtomicUsize::new(0));
        let recorded = Arc::clone(&unread);
        let (host, journal) = scripted_with(net::with_small_send_buffer, move |script| {
            let recorded = Arc::clone(&recorded);
            script
                .terse()
                .on_open(|conn| {
                    assert_eq!(conn.send(vec![0; MAX + 1]), Err(SendError::Full));
                    assert_queued(conn, conn.send(vec![0; MAX]));
                    assert_eq!(conn.send(vec![0; MAX - conn.unsent() + 1]), Err(SendError::Full));
                    assert_queued(conn, conn.send(vec![0; MAX - conn.unsent()]));
                    assert_eq!(conn.unsent(), MAX);
                })
                .on_message(move |_, input| recorded.store(input.len(), SeqCst))
        });
        // The client does not read the server's output. Both sides can still send.
        let mut client = net::connect_with_small_receive_buffer(host.address());
        client.write_all(&vec![0; MAX]).unwrap();
        net::until(|| unread.load(SeqCst) == MAX);
        client.write_all(b"!").unwrap();
        let end = journal.end_of(0);
        assert!(matches!(end, End::Error(io::ErrorKind::StorageFull, _)), "{end:?}");
        assert_eq!(host.handle().counters().panics, 0);
    });
}
