//! Connections that end in order: the peer finishes, or this end shuts down or closes. In each case
//! `on_close` is called once.

use std::io::{self, Write};
use std::net::Shutdown;
use std::sync::mpsc;
use std::time::Duration;

use crate::support::endings::{is_closed, scripted_here};
use crate::support::net::{self, End, Script, Told, message, pattern, scripted, scripted_with};
use crate::support::{LIMIT, with_loop, with_watchdog};
use reveille::net::{ConnectionState, SendError, SendStatus};
use reveille::{ConnectionHandle, EventLoop, TcpConnection};
use rustix::event::PollFlags;

// --- The peer finishes

#[test]
fn a_finished_peer_receives_the_reply_before_the_close() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(|script| {
            script.on_peer_shutdown(|conn| {
                conn.send(b", and goodbye")?;
                conn.shutdown();
                Ok(())
            })
        });
        let mut client = host.connect();
        client.write_all(b"hello").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(net::read_to_end(&mut client), b"hello, and goodbye");
        assert_eq!(
            journal.life_of(0),
            [Told::Open, message("hello"), Told::PeerShutdown, Told::Close(End::Finished)]
        );
        drop(host);
        journal.assert_whole_lives(1);
    });
}

#[test]
fn a_handler_may_keep_sending_to_a_finished_peer() {
    with_watchdog(LIMIT, || {
        let (give, given) = mpsc::channel();
        let (host, journal) = scripted(move |script| {
            let give = give.clone();
            script.on_peer_shutdown(move |conn| give.send(conn.handle()).unwrap())
        });
        let mut client = host.connect();
        client.shutdown(Shutdown::Write).unwrap();
        let handle: ConnectionHandle = given.recv_timeout(net::LIMIT).unwrap();
        for n in 0..100u8 {
            handle.send([n]).unwrap();
            assert_eq!(net::read_exact(&mut client, 1), [n]);
        }
        assert_eq!(journal.of(0), [Told::Open, Told::PeerShutdown]);
        handle.shutdown();
        assert_eq!(net::read_to_end(&mut client), b"");
        assert_eq!(journal.end_of(0), End::Finished);
    });
}

/// The kernel reports both with one event, and one read returns only the bytes.
#[test]
fn bytes_and_end_of_input_in_one_event_are_delivered() {
    with_watchdog(LIMIT, || {
        for size in [1, 1000, 1024, 2048, 5000] {
            let event_loop = EventLoop::builder().input_buffer(1024).build().unwrap();
            let (server, journal, sockets) = scripted_here(&event_loop, |script| script);
            let mut client = net::connect(server.local_addr().unwrap());
            net::turn_until(&event_loop, || journal.handlers() == 1);
            let bytes = vec![b'x'; size];
            client.write_all(&bytes).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            net::until(|| net::condition(&sockets.borrow()[0]).contains(PollFlags::RDHUP));
            net::turn_until(&event_loop, || is_closed(&journal, 0));

            let events = journal.of(0);
            assert_eq!(events[events.len() - 2..], [Told::PeerShutdown, Told::Close(End::Finished)]);
            sockets.borrow_mut().clear();
            assert_eq!(net::read_to_end(&mut client), bytes);
        }
    });
}

#[test]
fn a_peer_that_finishes_before_reading_receives_all_bytes() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(Script::terse);
        let bytes = pattern(4 << 20);
        let mut client = host.connect();
        client.write_all(&bytes).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert!(net::read_to_end(&mut client) == bytes, "other bytes came back");
        assert_eq!(journal.end_of(0), End::Finished);
        assert_eq!(journal.of(0).iter().filter(|event| **event == Told::PeerShutdown).count(), 1);
    });
}

#[test]
fn on_peer_shutdown_is_called_once_before_on_close() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(|script| script.terse());
        let bytes = pattern(300_000);
        let mut client = host.connect();
        assert!(net::finish_meanwhile(&mut client, &bytes) == bytes, "other bytes came back");
        let life = journal.life_of(0);
        assert_eq!(life[life.len() - 2..], [Told::PeerShutdown, Told::Close(End::Finished)]);
        assert!(!life[..life.len() - 2].contains(&Told::PeerShutdown));
    });
}

#[test]
fn both_ends_may_shut_down_simultaneously_and_repeatedly() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(|script| {
            script
                .on_open(|conn| {
                    conn.shutdown();
                    conn.shutdown();
                    assert_eq!(conn.state(), ConnectionState::Closing);
                    Ok(())
                })
                .on_close(|conn, _| {
                    conn.shutdown();
                    conn.close();
                    assert_eq!(conn.state(), ConnectionState::Closed);
                })
        });
        for number in 0..20 {
            let mut client = host.connect();
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(net::read_to_end(&mut client), b"");
            assert_eq!(journal.life_of(number), [Told::Open, Told::PeerShutdown, Told::Close(End::Finished)]);
        }
        assert_eq!(host.handle().counters().panics, 0);
        drop(host);
        journal.assert_whole_lives(20);
    });
}

// --- This end finishes

#[test]
fn a_connection_that_was_shut_down_still_receives() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(|script| {
            script
                .on_open(|conn| {
                    assert_eq!(conn.state(), ConnectionState::Open);
                    conn.send(b"that is all")?;
                    conn.shutdown();
                    Ok(())
                })
                .on_message(|conn, input| {
                    input.clear();
                    assert_eq!(conn.send(b"more"), Err(SendError::Closed));
                    Ok(())
                })
        });
        let mut client = host.connect();
        assert_eq!(net::read_to_end(&mut client), b"that is all");
        for n in 0..3 {
            let text = format!("message {n}");
            client.write_all(text.as_bytes()).unwrap();
            journal.wait_for(0, |event| *event == message(&text));
        }
        assert!(!is_closed(&journal, 0));
        drop(client);
        assert_eq!(journal.end_of(0), End::Finished);
        assert_eq!(host.handle().counters().panics, 0);
        drop(host);
        journal.assert_whole_lives(1);
    });
}

#[test]
fn bytes_queued_before_a_shutdown_are_sent() {
    with_watchdog(LIMIT, || {
        let bytes = pattern(2 << 20);
        let (sent, has_sent) = mpsc::channel();
        let queued = bytes.clone();
        let (host, journal) = scripted_with(net::with_little_room, move |script| {
            let (queued, sent) = (queued.clone(), sent.clone());
            script.on_open(move |conn| {
                conn.send(&queued)?;
                assert!(conn.unsent() > 0, "nothing is read before the shutdown");
                conn.shutdown();
                sent.send(()).unwrap();
                Ok(())
            })
        });
        let mut client = net::connect_with_little_room(host.address());
        has_sent.recv_timeout(net::LIMIT).unwrap();
        assert!(net::read_to_end(&mut client) == bytes, "other bytes came");
        drop(client);
        assert_eq!(
            journal.life_of(0),
            [Told::Open, Told::Drained, Told::PeerShutdown, Told::Close(End::Finished)]
        );
    });
}

/// Both ends have finished before the loop polls: nothing is left to shut down, but there is input
/// to read.
#[test]
fn a_shutdown_with_on_drained_requested_ends_in_order() {
    with_loop(|event_loop| {
        let (server, journal, sockets) = scripted_here(event_loop, |script| {
            script
                .on_open(|conn| {
                    conn.notify_drained();
                    conn.shutdown();
                    Ok(())
                })
                .on_message(|_, input| input.clear())
        });
        let mut client = net::connect(server.local_addr().unwrap());
        net::turn_until(event_loop, || journal.handlers() == 1);
        assert_eq!(net::read_to_end(&mut client), b"");
        client.write_all(b"goodbye").unwrap();
        drop(client);
        net::until(|| net::condition(&sockets.borrow()[0]).contains(PollFlags::HUP));
        net::turn_until(event_loop, || is_closed(&journal, 0));
        sockets.borrow_mut().clear();
        let life =
            [Told::Open, Told::Drained, message("goodbye"), Told::PeerShutdown, Told::Close(End::Finished)];
        assert_eq!(journal.of(0), life);
    });
}

/// A script that closes in one of its callbacks, and the resulting events.
type Closing = (fn(Script) -> Script, &'static [Told]);

#[test]
fn a_connection_may_be_closed_in_any_callback() {
    const OPEN: Told = Told::Open;
    const CLOSED: Told = Told::Close(End::Closed);
    let closings: [Closing; 4] = [
        (|script| script.on_open(|conn| conn.close()), &[OPEN, CLOSED]),
        (
            |script| {
                // Drained and readable in one turn: events after the close are not delivered.
                script.on_open(|conn| conn.notify_drained()).on_drained(|conn| conn.close())
            },
            &[OPEN, Told::Drained, CLOSED],
        ),
        (|script| script.on_peer_shutdown(|conn| conn.close()), &[OPEN, Told::PeerShutdown, CLOSED]),
        (
            |script| script.on_open(|conn| conn.shutdown()).on_peer_shutdown(|conn| conn.close()),
            &[OPEN, Told::PeerShutdown, CLOSED],
        ),
    ];
    with_watchdog(LIMIT, move || {
        for (script, life) in closings {
            let (host, journal) = scripted(script);
            let mut client = host.connect();
            client.shutdown(Shutdown::Write).unwrap();
            net::wait_for_end(&mut client);
            assert_eq!(journal.life_of(0), life);
            assert_eq!(host.open_connections(), 0);
            drop(host);
            journal.assert_whole_lives(1);
        }
    });
}

#[test]
fn a_close_in_on_message_prevents_further_messages() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::builder().input_buffer(1024).build().unwrap();
        let (server, journal, sockets) = scripted_here(&event_loop, |script| {
            script.on_message(|conn, _| {
                conn.close();
                conn.close();
                assert_eq!(conn.state(), ConnectionState::Closed);
                assert_eq!(conn.send(b"late"), Err(SendError::Closed));
                // None of these calls affects the closed connection.
                conn.resume_reading();
                conn.notify_drained();
                conn.shutdown();
                Ok(())
            })
        });
        let mut client = net::connect(server.local_addr().unwrap());
        net::turn_until(&event_loop, || journal.handlers() == 1);
        client.write_all(&[b'x'; 3000]).unwrap();
        net::until(|| sockets.borrow()[0].peek(&mut [0; 3000]).unwrap() == 3000);
        net::turn_until(&event_loop, || is_closed(&journal, 0));
        sockets.borrow_mut().clear();
        for _ in 0..5 {
            event_loop.run_once(Duration::ZERO).unwrap();
        }
        let first = Told::Message("x".repeat(1024));
        assert_eq!(journal.of(0), [Told::Open, first, Told::Close(End::Closed)]);
        assert_eq!(event_loop.handle().counters().panics, 0);
        net::wait_for_end(&mut client);
    });
}

#[test]
fn a_close_reports_its_unsent_bytes() {
    with_watchdog(LIMIT, || {
        const SENT: usize = 2 << 20;
        let (lost, loses) = mpsc::channel();
        let (host, journal) = scripted_with(net::with_little_room, move |script| {
            let lost = lost.clone();
            script
                .on_open(|conn| {
                    conn.send(vec![0; SENT])?;
                    conn.close();
                    Ok(())
                })
                .on_close(move |conn, _| lost.send(conn.unsent()).unwrap())
        });
        let mut client = net::connect_with_little_room(host.address());
        assert_eq!(journal.end_of(0), End::Closed);
        let lost = loses.recv_timeout(net::LIMIT).unwrap();
        // The reset also discards the bytes that the kernel has queued.
        let received = net::read_until_reset(&mut client).len();
        assert!(lost > 0 && received + lost <= SENT, "{received} bytes have come, and {lost} have not");
    });
}

/// Every way to end a connection with unsent bytes resets it. A peer that has received all bytes
/// sees an orderly end.
#[test]
fn a_peer_can_distinguish_truncated_from_complete_streams() {
    with_watchdog(LIMIT, || {
        type Close = fn(&TcpConnection<'_>) -> io::Result<()>;
        const ENDS: [Close; 3] = [
            |conn| {
                conn.close();
                Ok(())
            },
            |_| Err(io::Error::other("on purpose")),
            |_| panic!("on purpose"),
        ];
        for (end, owes) in ENDS.into_iter().flat_map(|end| [(end, false), (end, true)]) {
            let (sent, has_sent) = mpsc::channel();
            let (host, _) = scripted_with(net::with_little_room, move |script| {
                let sent = sent.clone();
                script.on_open(move |conn| {
                    conn.send("all")?;
                    if owes {
                        assert_eq!(conn.send(vec![0; 2 << 20]), Ok(SendStatus::Queued));
                    }
                    sent.send(()).unwrap();
                    end(conn)
                })
            });
            let mut client = net::connect_with_little_room(host.address());
            // The kernel accepts fewer bytes than are sent while the client does not read.
            has_sent.recv_timeout(net::LIMIT).unwrap();
            if owes {
                net::read_until_reset(&mut client);
            } else {
                assert_eq!(net::read_to_end(&mut client), b"all");
            }
        }
    });
}

#[test]
fn a_deadline_closes_only_its_own_connection() {
    with_watchdog(LIMIT, || {
        const DELAY: Duration = Duration::from_millis(20);
        let (host, journal) = scripted(|script| {
            let number = script.number();
            script.on_open(move |conn| {
                match number {
                    0 => conn.close_after(DELAY),
                    1 => {
                        conn.close_after(DELAY);
                        conn.close();
                    }
                    _ => {}
                }
                Ok(())
            })
        });
        let mut first = host.connect();
        net::wait_for_end(&mut first);
        assert_eq!(journal.life_of(0), [Told::Open, Told::Close(End::Closed)]);

        // The third connection reuses what the second has released, before the deadline of the
        // second.
        net::wait_for_end(&mut host.connect());
        let mut third = host.connect();
        net::assert_echoes(&mut third);
        let (later, is_later) = mpsc::channel();
        host.ask(move |event_loop, _| event_loop.run_after(2 * DELAY, move |_| later.send(()).unwrap()));
        is_later.recv_timeout(net::LIMIT).unwrap();
        net::assert_echoes(&mut third);
        assert_eq!(journal.life_of(1), [Told::Open, Told::Close(End::Closed)]);
        drop(host);
        journal.assert_whole_lives(3);
    });
}
