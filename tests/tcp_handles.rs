//! Handles of connections: what they send arrives in order or is refused, whichever thread they are
//! used on, and they reach their own connection only.

mod support;

use std::io::{self, Write};
use std::sync::mpsc;
use std::thread;

use reveille::ConnectionHandle;
use reveille::net::{ConnectionState, SendError};
use support::endings::is_closed;
use support::net::{self, End, Told, giving_handles, scripted, scripted_with};
use support::{LIMIT, MIB, with_watchdog};

#[test]
fn a_handle_sends_from_another_thread_in_order() {
    with_watchdog(LIMIT, || {
        let (host, _, given) = giving_handles();
        let mut client = host.connect();
        let handle = given.recv_timeout(net::LIMIT).unwrap();
        assert!(handle.is_open());
        let expected: String = (0..3000).map(|n| format!("{n}\n")).collect();
        for n in 0..3000 {
            // Clones speak to the same connection.
            let clone = handle.clone();
            if n % 2 == 0 { &handle } else { &clone }.send(format!("{n}\n")).unwrap();
        }
        handle.shutdown();
        assert_eq!(String::from_utf8(net::read_to_end(&mut client)).unwrap(), expected);
    });
}

#[test]
fn a_send_on_the_loop_goes_behind_what_handles_were_given_before() {
    with_watchdog(LIMIT, || {
        let (host, _) = scripted(|script| {
            script.on_message(|conn, input| {
                input.clear();
                let handle = conn.handle();
                // The loop is in this callback all the while, and reads no mailbox.
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
fn the_sends_of_several_threads_do_not_mix() {
    with_watchdog(LIMIT, || {
        let (host, _, given) = giving_handles();
        let mut client = host.connect();
        let handle = given.recv_timeout(net::LIMIT).unwrap();
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
            let theirs: Vec<_> = text.lines().filter(|line| line.starts_with(name)).collect();
            let expected: Vec<_> = (0..300).map(|n| format!("{name} {n}")).collect();
            assert_eq!(theirs, expected);
        }
    });
}

#[test]
fn a_handle_closes_its_connection_and_says_so() {
    with_watchdog(LIMIT, || {
        let (host, journal, given) = giving_handles();
        let mut client = host.connect();
        let handle = given.recv_timeout(net::LIMIT).unwrap();
        handle.close();
        net::wait_for_end(&mut client);
        assert_eq!(journal.life_of(0), [Told::Open, Told::Close(End::Closed)]);
        assert!(!handle.is_open());
        assert_eq!(handle.send("anybody?"), Err(SendError::Closed));
        handle.shutdown();
        handle.close();
        drop(host);
        assert_eq!(handle.send("anybody?"), Err(SendError::Closed));
        journal.assert_whole_lives(1);
    });
}

#[test]
fn a_handle_made_at_the_very_end_is_closed_from_the_start() {
    with_watchdog(LIMIT, || {
        let (give, given) = mpsc::channel();
        let (host, _journal) = scripted(move |script| {
            let give = give.clone();
            script.on_close(move |conn, _| give.send(conn.handle()).unwrap())
        });
        drop(host.connect());
        let handle: ConnectionHandle = given.recv_timeout(net::LIMIT).unwrap();
        assert!(!handle.is_open());
        assert_eq!(handle.send("too late"), Err(SendError::Closed));
    });
}

/// What a handle accepts is delivered, or its loss is reported: behind a shutdown nothing can be
/// delivered.
#[test]
fn a_handle_refuses_what_would_come_behind_a_shutdown() {
    with_watchdog(LIMIT, || {
        let (host, journal, given) = giving_handles();
        let mut client = host.connect();
        let handle = given.recv_timeout(net::LIMIT).unwrap();
        handle.send("before").unwrap();
        handle.shutdown();
        assert_eq!(handle.send("behind"), Err(SendError::Closed), "accepted, and then lost in silence");
        assert_eq!(net::read_to_end(&mut client), b"before");
        assert_eq!(handle.send("long after"), Err(SendError::Closed), "accepted, and then lost in silence");
        assert!(!is_closed(&journal, 0));
    });
}

#[test]
fn what_a_handle_has_accepted_goes_out_before_the_end() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted(|script| {
            script.on_message(|conn, input| {
                input.clear();
                let handle = conn.handle();
                conn.send("at once, ")?;
                // Still on its way when the connection is shut down.
                assert_eq!(handle.send("accepted"), Ok(()));
                conn.shutdown();
                assert_eq!(handle.send("too late"), Err(SendError::Closed));
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

/// What the loop has queued counts as well as what is on its way there.
#[test]
fn a_producer_that_heeds_its_refusals_keeps_the_connection() {
    with_watchdog(LIMIT, || {
        let (give, given) = mpsc::channel();
        let (host, journal) = scripted_with(
            |builder| builder.max_unsent(MIB),
            move |script| {
                let give = give.clone();
                script.on_open(move |conn| give.send(conn.handle()).unwrap())
            },
        );
        let mut client = host.connect();
        let handle = given.recv_timeout(net::LIMIT).unwrap();
        let (mut accepted, mut refused) = (0, 0);
        while refused < 100 {
            match handle.send([0; 10_000]) {
                Ok(()) => accepted += 10_000,
                Err(SendError::Full) => {
                    refused += 1;
                    // All that was on its way has arrived there.
                    host.ask(|_, _| ());
                }
                Err(error) => panic!("{error}"),
            }
            assert!(handle.unsent() <= MIB, "{}", handle.unsent());
        }
        assert!(handle.unsent() > MIB - 10_000, "{}", handle.unsent());
        net::read_exact(&mut client, accepted);
        net::until(|| handle.unsent() == 0);
        handle.send("the end").unwrap();
        handle.shutdown();
        assert_eq!(net::read_to_end(&mut client), b"the end");
        assert!(!is_closed(&journal, 0));
    });
}

#[test]
fn what_a_handle_has_accepted_and_a_close_has_lost_counts_as_unsent() {
    with_watchdog(LIMIT, || {
        let (lost, loses) = mpsc::channel();
        let (host, _journal) = scripted(move |script| {
            let lost = lost.clone();
            script
                .on_message(|conn, _| {
                    assert_eq!(conn.handle().send("accepted"), Ok(()));
                    conn.close();
                })
                .on_close(move |conn, _| lost.send(conn.unsent()).unwrap())
        });
        let mut client = host.connect();
        client.write_all(b"x").unwrap();
        assert_eq!(loses.recv_timeout(net::LIMIT).unwrap(), "accepted".len());
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
fn a_handle_never_speaks_to_another_connection() {
    with_watchdog(LIMIT, || {
        let (host, journal, given) = giving_handles();
        let mut past: Vec<ConnectionHandle> = Vec::new();
        for number in 0..200 {
            let mut client = host.connect();
            let handle = given.recv_timeout(net::LIMIT).unwrap();
            // On their way to the loop, or refused: either way they are for those who have gone.
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
            // Every other time the next one comes before this one has quite gone.
            if number % 2 == 0 {
                journal.end_of(number);
                assert_eq!(handle.send("gone?"), Err(SendError::Closed));
            }
            past.push(handle);
        }
        drop(host);
        journal.assert_whole_lives(200);
        assert!(past.iter().all(|handle| !handle.is_open()));
    });
}
