//! Handles of connections: bytes sent through them arrive in order or are refused, on whichever
//! thread the handle is used, and reach only the handle's own connection.

use std::io::{self, Write};
use std::sync::mpsc;
use std::thread;

use crate::support::bench::Bench;
use crate::support::endings::is_closed;
use crate::support::net::{self, End, HandlerCall, reason, scripted, scripted_with, scripted_with_handles};
use crate::support::{LIMIT, MIB, on_another_thread, with_watchdog};
use reveille::net::{ConnectionLimits, ConnectionState, SendError};
use reveille::{ConnectionHandle, EventLoop};

#[test]
fn a_handle_sends_from_another_thread_in_order() {
    with_watchdog(LIMIT, || {
        let (host, _, handles) = scripted_with_handles();
        let mut client = host.connect();
        let handle = handles.recv_timeout(net::LIMIT).unwrap();
        assert!(handle.is_open());
        let expected: String = (0..3000).map(|n| format!("{n}\n")).collect();
        for n in 0..3000 {
            // A clone refers to the same connection.
            let clone = handle.clone();
            if n % 2 == 0 { &handle } else { &clone }.send(format!("{n}\n")).unwrap();
        }
        handle.shutdown();
        assert_eq!(String::from_utf8(net::read_to_end(&mut client)).unwrap(), expected);
    });
}

#[test]
fn sends_on_the_loop_follow_earlier_sends_of_handles() {
    with_watchdog(LIMIT, || {
        let (host, _) = scripted(|script| {
            script.on_message(|conn, input| {
                input.clear();
                let handle = conn.handle();
                // The loop does not drain the mailbox during this callback.
                thread::spawn(move || ["1 ", "2 "].map(|text| handle.send(text).unwrap())).join().unwrap();
                conn.send("3 ")?;
                let handle = conn.handle();
                thread::spawn(move || handle.send("4 ").unwrap()).join().unwrap();
                conn.send_owned("5 ")?;
                conn.send_vectored(&[io::IoSlice::new(b"6 "), io::IoSlice::new(b"7")])?;
                conn.shutdown();
                Ok(())
            })
        });
        let mut client = host.connect();
        client.write_all(b"go").unwrap();
        assert_eq!(net::read_to_end(&mut client), b"1 2 3 4 5 6 7");
    });
}

#[test]
fn sends_of_several_threads_are_not_interleaved() {
    with_watchdog(LIMIT, || {
        let (host, _, handles) = scripted_with_handles();
        let mut client = host.connect();
        let handle = handles.recv_timeout(net::LIMIT).unwrap();
        thread::scope(|scope| {
            for name in ["a", "b", "c", "d"] {
                let handle = handle.clone();
                scope.spawn(move || {
                    for n in 0..300 {
                        handle.send(format!("{name} {n}\n")).unwrap();
                    }
                });
            }
        });
        handle.shutdown();
        let text = String::from_utf8(net::read_to_end(&mut client)).unwrap();
        for name in ["a", "b", "c", "d"] {
            let lines: Vec<_> = text.lines().filter(|line| line.starts_with(name)).collect();
            let expected: Vec<_> = (0..300).map(|n| format!("{name} {n}")).collect();
            assert_eq!(lines, expected);
        }
    });
}

#[test]
fn a_handle_closes_its_connection_and_reports_it_closed() {
    with_watchdog(LIMIT, || {
        let (host, journal, handles) = scripted_with_handles();
        let mut client = host.connect();
        let handle = handles.recv_timeout(net::LIMIT).unwrap();
        handle.close();
        net::wait_for_end(&mut client);
        assert_eq!(journal.calls_until_close(0), [HandlerCall::Open, HandlerCall::Close(End::Closed)]);
        assert!(!handle.is_open());
        assert_eq!(reason(handle.send("anybody?")), Err(SendError::Closed));
        handle.shutdown();
        handle.close();
        drop(host);
        assert_eq!(reason(handle.send("anybody?")), Err(SendError::Closed));
        journal.assert_opened_and_closed_once(1);
    });
}

#[test]
fn a_handle_made_in_on_close_is_closed() {
    with_watchdog(LIMIT, || {
        let (sender, handles) = mpsc::channel();
        let (host, _journal) = scripted(move |script| {
            let sender = sender.clone();
            script.on_close(move |conn, _| sender.send(conn.handle()).unwrap())
        });
        drop(host.connect());
        let handle: ConnectionHandle = handles.recv_timeout(net::LIMIT).unwrap();
        assert!(!handle.is_open());
        assert_eq!(reason(handle.send("too late")), Err(SendError::Closed));
    });
}

/// Bytes that a handle accepts are delivered or reported as lost. After a shutdown nothing can be
/// delivered.
#[test]
fn a_handle_refuses_bytes_after_a_shutdown() {
    with_watchdog(LIMIT, || {
        let (host, journal, handles) = scripted_with_handles();
        let mut client = host.connect();
        let handle = handles.recv_timeout(net::LIMIT).unwrap();
        handle.send("before").unwrap();
        handle.shutdown();
        assert_eq!(reason(handle.send("behind")), Err(SendError::ShutDown), "accepted after the shutdown");
        assert_eq!(net::read_to_end(&mut client), b"before");
        assert_eq!(
            reason(handle.send("long after")),
            Err(SendError::ShutDown),
            "accepted after the shutdown"
        );
        assert!(!is_closed(&journal, 0));
    });
}

#[test]
fn bytes_accepted_by_a_handle_are_sent_before_the_end() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(|script| {
            script.on_message(|conn, input| {
                input.clear();
                let handle = conn.handle();
                conn.send("at once, ")?;
                // Still in transit to the loop when the connection is shut down.
                assert_eq!(reason(handle.send("accepted")), Ok(()));
                conn.shutdown();
                assert_eq!(reason(handle.send("too late")), Err(SendError::ShutDown));
                assert_eq!(conn.state(), ConnectionState::Closing);
                Ok(())
            })
        });
        let mut client = host.connect();
        client.write_all(b"x").unwrap();
        assert_eq!(net::read_to_end(&mut client), b"at once, accepted");
        drop(client);
        assert_eq!(journal.end_of(0), End::Finished);
        assert_eq!(host.handle().counters().panics, 0);
    });
}

/// Bytes that the loop has queued count, and so do bytes in transit to the loop.
#[test]
fn a_producer_that_respects_refusals_keeps_its_connection() {
    with_watchdog(LIMIT, || {
        let (sender, handles) = mpsc::channel();
        let (host, journal) = scripted_with(
            |builder| builder.limits(ConnectionLimits::new().max_unsent(MIB)),
            move |script| {
                let sender = sender.clone();
                script.on_open(move |conn| sender.send(conn.handle()).unwrap())
            },
        );
        let mut client = host.connect();
        let handle = handles.recv_timeout(net::LIMIT).unwrap();
        let (mut accepted, mut refused) = (0, 0);
        while refused < 100 {
            match handle.send([0; 10_000]) {
                Ok(()) => accepted += 10_000,
                Err(error) => {
                    assert_eq!(error.reason(), SendError::Full);
                    refused += 1;
                    // All bytes in transit have reached the loop.
                    host.request(|_, _| ());
                }
            }
            assert!(handle.unsent() <= MIB, "{} unsent bytes", handle.unsent());
        }
        assert!(handle.unsent() > MIB - 10_000, "{} unsent bytes", handle.unsent());
        net::read_exact(&mut client, accepted);
        net::until(|| handle.unsent() == 0);
        handle.send("the end").unwrap();
        handle.shutdown();
        assert_eq!(net::read_to_end(&mut client), b"the end");
        assert!(!is_closed(&journal, 0));
    });
}

#[test]
fn accepted_bytes_lost_by_a_close_count_as_unsent() {
    with_watchdog(LIMIT, || {
        let (sender, reports) = mpsc::channel();
        let (host, _journal) = scripted(move |script| {
            let sender = sender.clone();
            script
                .on_message(|conn, _| {
                    assert_eq!(reason(conn.handle().send("accepted")), Ok(()));
                    conn.close();
                })
                .on_close(move |conn, _| sender.send(conn.unsent()).unwrap())
        });
        let mut client = host.connect();
        client.write_all(b"x").unwrap();
        assert_eq!(reports.recv_timeout(net::LIMIT).unwrap(), "accepted".len());
        net::wait_for_end(&mut client);
    });
}

#[test]
fn a_handle_used_on_the_loop_sends_in_order_with_the_connection() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(|script| {
            script.on_message(|conn, input| {
                input.clear();
                conn.handle().send("first, ").unwrap();
                conn.send("second, ")?;
                conn.handle().send("third").unwrap();
                Ok(())
            })
        });
        let mut client = host.connect();
        client.write_all(b"when then?").unwrap();
        assert_eq!(net::read_exact(&mut client, 20), b"first, second, third");
        assert!(!is_closed(&journal, 0));
    });
}

#[test]
fn a_handle_never_sends_to_another_connection() {
    with_watchdog(LIMIT, || {
        let (host, journal, handles) = scripted_with_handles();
        let mut past: Vec<ConnectionHandle> = Vec::new();
        for number in 0..200 {
            let mut client = host.connect();
            let handle = handles.recv_timeout(net::LIMIT).unwrap();
            // These connections have ended, or end while the bytes are in transit to the loop.
            for old in past.iter().rev().take(5) {
                let _ = old.send("for another one");
                old.shutdown();
                old.close();
            }
            net::assert_echoes(&mut client);
            match number % 4 {
                0 => net::reset(client),
                1 => drop(client),
                2 => handle.close(),
                _ => {
                    handle.send("goodbye").unwrap();
                    handle.close();
                    net::wait_for_end(&mut client);
                }
            }
            // In every second iteration the next connection arrives before this one has closed
            // completely.
            if number % 2 == 0 {
                journal.end_of(number);
                assert_eq!(reason(handle.send("gone?")), Err(SendError::Closed));
            }
            past.push(handle);
        }
        drop(host);
        journal.assert_opened_and_closed_once(200);
        assert!(past.iter().all(|handle| !handle.is_open()));
    });
}

/// Bytes in transit wait for the loop; the other unsent bytes wait for the peer.
#[test]
fn bytes_in_transit_tell_a_slow_loop_from_a_slow_peer() {
    const BYTES: usize = 2 * MIB;
    with_watchdog(LIMIT, || {
        let builder = EventLoop::builder().propagate_panics();
        let (bench, _) = Bench::scripted_on(builder, net::with_small_send_buffer, |script| script);
        let mut client = bench.connect_slow_reader();
        let handle = bench.handle(0);
        let amounts = || (handle.in_transit(), handle.unsent());
        assert_eq!(amounts(), (0, 0));
        // The loop does not turn.
        on_another_thread(|| handle.send(vec![0; BYTES]).unwrap());
        assert_eq!(amounts(), (BYTES, BYTES));
        assert_eq!(on_another_thread(amounts), (BYTES, BYTES));
        // The peer does not read.
        bench.settle();
        let (in_transit, unsent) = amounts();
        assert_eq!(in_transit, 0);
        assert!(0 < unsent && unsent < BYTES, "{unsent} bytes are unsent");
        on_another_thread(|| handle.send("more").unwrap());
        assert_eq!(amounts(), (4, unsent + 4));
        bench.read_exact(&mut client, BYTES + 4);
        bench.settle();
        assert_eq!(amounts(), (0, 0));
        handle.close();
        assert_eq!(handle.in_transit(), 0);
    });
}
