//! Clients over time: retries, reconnects and panics.

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::support::client::{
    Refusing, Reported, Reporting, Reports, backoff, echo_server, loopback, turn_until_idle,
};
use crate::support::clock::HOUR;
use crate::support::net::{self, End, HandlerCall, Journal, message};
use crate::support::{panic_of, turn, with_catching_loop, with_loop};
use reveille::net::Backoff;
use reveille::{EventLoop, TcpClient, TcpServer};

/// A server that closes each connection as soon as it opens.
fn closing_server(event_loop: &EventLoop) -> TcpServer {
    let journal = Journal::new();
    TcpServer::bind(event_loop, loopback())
        .unwrap()
        .serve(move |_| journal.script().on_open(|conn| conn.shutdown()))
        .unwrap()
}

fn refused(address: SocketAddr) -> Reported {
    Reported::Failed(Some(address), ErrorKind::ConnectionRefused)
}

// --- Retries -------------------------------------------------------------------------------------

#[test]
fn a_client_retries_until_its_server_appears() {
    with_loop(|event_loop| {
        let refusing = Refusing::new();
        let address = refusing.address();
        let reports = Reports::new();
        let (refusing, server) = (RefCell::new(Some(refusing)), Rc::new(RefCell::new(None)));
        let (reporting, starting) = (reports.clone(), Rc::clone(&server));
        let client = TcpClient::connect(event_loop, address)
            .retry(backoff())
            .on_attempt(move |event_loop, attempt| {
                reporting.record(Reported::from(attempt));
                if attempt.round == 3 {
                    drop(refusing.take());
                    *starting.borrow_mut() = Some(echo_server(event_loop, address));
                }
            })
            .serve_fn(|_, _| ())
            .unwrap();
        net::turn_until(event_loop, || client.handle().is_some());
        let failure = refused(address);
        assert_eq!(reports.take(), [failure.clone(), failure.clone(), failure, Reported::Connected(address)]);
        assert_eq!(event_loop.next_deadline(), None, "a timer of the client is left");
    });
}

#[test]
fn a_client_gives_up_after_its_allowed_retries() {
    with_loop(|event_loop| {
        for retries in [0, 1, 3] {
            let refusing = [Refusing::new(), Refusing::new()];
            let addresses: Vec<SocketAddr> = refusing.iter().map(Refusing::address).collect();
            let reports = Reports::new();
            let _client = TcpClient::connect(event_loop, addresses.clone())
                .retry(backoff().max_retries(retries))
                .reporting(&reports)
                .serve_fn(|_, _| ())
                .unwrap();
            let attempts = 2 * (retries as usize + 1);
            net::turn_until(event_loop, || reports.len() > attempts);
            turn_until_idle(event_loop);
            let reports = reports.take();
            for (n, report) in reports[..attempts].iter().enumerate() {
                assert_eq!(*report, refused(addresses[n % 2]));
            }
            let gave_up = Reported::RetriesExhausted(ErrorKind::ConnectionRefused, retries + 1, 2);
            assert_eq!(reports[attempts..], [gave_up]);
        }
    });
}

#[test]
fn a_name_is_looked_up_in_every_round() {
    with_loop(|event_loop| {
        let reports = Reports::new();
        // A label of a name cannot be that long, so no name server is queried.
        let _client = TcpClient::connect(event_loop, ("x".repeat(300), 80))
            .retry(backoff().max_retries(2))
            .reporting(&reports)
            .serve_fn(|_, _| ())
            .unwrap();
        net::turn_until(event_loop, || reports.len() == 4);
        let reports = reports.take();
        assert!(reports[..3].iter().all(|report| matches!(report, Reported::Failed(None, _))), "{reports:?}");
        assert!(matches!(reports[3], Reported::RetriesExhausted(_, 3, 1)), "{reports:?}");
    });
}

/// With a timeout of 1 ns a lookup may still complete in time; the test repeats until one times
/// out.
#[test]
fn a_timed_out_lookup_ignores_its_late_reply() {
    with_loop(|event_loop| {
        let reports = Reports::new();
        let client = TcpClient::connect(event_loop, "no-such-host.invalid:80")
            .timeout(Duration::from_nanos(1))
            .retry(backoff())
            .reporting(&reports)
            .serve_fn(|_, _| ())
            .unwrap();
        let mut all = Vec::new();
        net::turn_until(event_loop, || {
            all.extend(reports.take());
            all.len() > 5 && all.contains(&Reported::Failed(None, ErrorKind::TimedOut))
        });
        assert!(all.iter().all(|report| matches!(report, Reported::Failed(None, _))), "{all:?}");
        drop(client);
        turn_until_idle(event_loop);
        assert_eq!(reports.take(), []);
    });
}

// --- Reconnects ----------------------------------------------------------------------------------

#[test]
fn a_client_without_reconnect_ends_with_its_session() {
    with_loop(|event_loop| {
        let server = closing_server(event_loop);
        let (journal, reports) = (Journal::new(), Reports::new());
        let writing = journal.clone();
        let client = TcpClient::connect(event_loop, server.local_addr().unwrap())
            .retry(backoff())
            .reporting(&reports)
            .serve(move |_| writing.script())
            .unwrap();
        net::turn_until(event_loop, || matches!(journal.of(0).last(), Some(HandlerCall::Close(_))));
        turn_until_idle(event_loop);
        assert_eq!(reports.take(), [Reported::Connected(server.local_addr().unwrap())]);
        assert!(client.handle().is_none());
        journal.assert_opened_and_closed_once(1);
    });
}

#[test]
fn each_session_of_a_reconnecting_client_has_its_handler() {
    with_loop(|event_loop| {
        let server = echo_server(event_loop, loopback());
        let (journal, reports) = (Journal::new(), Reports::new());
        let writing = journal.clone();
        let client = TcpClient::connect(event_loop, server.local_addr().unwrap())
            .retry(backoff())
            .reconnect()
            .reporting(&reports)
            .serve(move |_| {
                let script = writing.script();
                if let Some(before) = script.number().checked_sub(1) {
                    let life = writing.of(before);
                    assert!(
                        matches!(life.last(), Some(HandlerCall::Close(_))),
                        "the previous session was not closed: {life:?}"
                    );
                }
                // Each session ends in a different way.
                let number = script.number();
                script.on_open(|conn| Ok(conn.send("x")?)).on_message(move |conn, input| {
                    input.clear();
                    match number % 3 {
                        0 => conn.close(),
                        1 => conn.shutdown(),
                        _ => return Err(ErrorKind::InvalidData.into()),
                    }
                    Ok(())
                })
            })
            .unwrap();
        net::turn_until(event_loop, || journal.handlers() == 7);
        client.stop();
        turn_until_idle(event_loop);
        journal.assert_opened_and_closed_once(7);
        let expected = vec![Reported::Connected(server.local_addr().unwrap()); 7];
        assert_eq!(reports.take(), expected);
        let invalid = End::Error(ErrorKind::InvalidData, "invalid data".to_owned());
        let ends: Vec<End> = (0..6).map(|number| journal.end_of(number)).collect();
        let ways = [End::Closed, End::Finished, invalid];
        assert_eq!(ends, [&ways[..], &ways[..]].concat());
        for number in 0..6 {
            assert!(journal.of(number).contains(&message("x")));
        }
    });
}

#[test]
fn a_failed_reconnect_gives_up_after_its_retries() {
    with_loop(|event_loop| {
        for (retry, rounds) in [(None, 1), (Some(backoff().max_retries(2)), 3)] {
            let refusing = Refusing::new();
            let address = refusing.address();
            let server = echo_server(event_loop, address);
            let reports = Reports::new();
            let mut builder = TcpClient::connect(event_loop, address).reconnect().reporting(&reports);
            if let Some(backoff) = retry {
                builder = builder.retry(backoff);
            }
            let client = builder.serve_fn(|_, _| ()).unwrap();
            net::turn_until(event_loop, || client.handle().is_some());
            drop(server);
            net::turn_until(event_loop, || matches!(reports.len(), n if n == rounds + 2));
            turn_until_idle(event_loop);
            let mut expected = vec![Reported::Connected(address)];
            expected.extend(vec![refused(address); rounds]);
            expected.push(Reported::RetriesExhausted(ErrorKind::ConnectionRefused, rounds as u32, 1));
            assert_eq!(reports.take(), expected);
        }
    });
}

#[test]
fn a_session_resets_the_count_of_rounds() {
    with_loop(|event_loop| {
        let server = closing_server(event_loop);
        let rounds = crate::support::Recorder::new();
        let recording = rounds.clone();
        let _client = TcpClient::connect(event_loop, server.local_addr().unwrap())
            .retry(backoff().max_retries(0))
            .reconnect()
            .on_attempt(move |_, attempt| recording.record(attempt.round))
            .serve({
                let journal = Journal::new();
                move |_| journal.script()
            })
            .unwrap();
        net::turn_until(event_loop, || rounds.len() >= 4);
        assert!(rounds.take().iter().all(|round| *round == 1));
    });
}

/// Growing delays keep a client from reconnecting without pause to a server that accepts and drops
/// connections.
#[test]
fn delays_grow_over_short_sessions() {
    with_loop(|event_loop| {
        let server = closing_server(event_loop);
        let journal = Journal::new();
        let writing = journal.clone();
        let client = TcpClient::connect(event_loop, server.local_addr().unwrap())
            .retry(Backoff::new().start(Duration::from_millis(1)).cap(HOUR))
            .reconnect()
            .serve(move |_| writing.script())
            .unwrap();
        let mut before = Instant::now();
        net::turn_until(event_loop, || {
            let waits = journal.handlers() == 7 && format!("{client:?}").contains("waiting");
            if !waits {
                before = Instant::now();
            }
            waits
        });
        // After delays of at most 1, 2, 4, 8, 16 and 32 ms the next one is between 32 and 64 ms.
        let deadline = event_loop.next_deadline().expect("a timer");
        assert!(deadline - before >= Duration::from_millis(32), "{:?}", deadline - before);
    });
}

#[test]
fn a_lasting_session_resets_the_delay() {
    with_loop(|event_loop| {
        let server = echo_server(event_loop, loopback());
        let journal = Journal::new();
        let writing = journal.clone();
        let (start, cap) = (Duration::from_millis(1), Duration::from_millis(16));
        let client = TcpClient::connect(event_loop, server.local_addr().unwrap())
            .retry(Backoff::new().start(start).cap(cap))
            .reconnect()
            .serve(move |_| {
                let script = writing.script();
                let lasts = script.number() == 6;
                script.on_open(move |conn| if lasts { conn.close_after(2 * cap) } else { conn.close() })
            })
            .unwrap();
        net::turn_until(event_loop, || journal.handlers() == 7 && format!("{client:?}").contains("waiting"));
        let deadline = event_loop.next_deadline().expect("a timer");
        assert!(deadline <= Instant::now() + start, "the delay is longer than the first");
    });
}

// --- Panics --------------------------------------------------------------------------------------

#[test]
fn a_panic_in_a_report_changes_nothing() {
    with_catching_loop(|event_loop| {
        let refusing = [Refusing::new(), Refusing::new()];
        let addresses: Vec<SocketAddr> = refusing.iter().map(Refusing::address).collect();
        let reports = Reports::new();
        let (attempts, failures) = (reports.clone(), reports.clone());
        let _client = TcpClient::connect(event_loop, addresses)
            .retry(backoff().max_retries(1))
            .on_attempt(move |_, attempt| {
                attempts.record(attempt.into());
                panic!("intended by the test");
            })
            .on_failure(move |_, error| {
                failures.record((&error).into());
                panic!("intended by the test");
            })
            .serve_fn(|_, _| ())
            .unwrap();
        net::turn_until(event_loop, || reports.len() == 5);
        turn_until_idle(event_loop);
        assert_eq!(reports.take()[4], Reported::RetriesExhausted(ErrorKind::ConnectionRefused, 2, 2));
        assert_eq!(event_loop.handle().counters().panics, 5);
    });
}

/// A factory that panics leaves no handler to notify, so its session counts as ended.
#[test]
fn a_panicking_factory_or_handler_loses_only_its_session() {
    with_catching_loop(|event_loop| {
        let server = echo_server(event_loop, loopback());
        let (journal, factories) = (Journal::new(), Cell::new(0));
        let writing = journal.clone();
        let client = TcpClient::connect(event_loop, server.local_addr().unwrap())
            .retry(backoff())
            .reconnect()
            .serve(move |_| {
                factories.set(factories.get() + 1);
                match factories.get() {
                    1 => panic!("no handler"),
                    2 => writing.script().on_open(|_| -> () { panic!("no opening") }),
                    3 => writing
                        .script()
                        .on_open(|conn| Ok(conn.send("x")?))
                        .on_message(|_, _| -> () { panic!("no message") }),
                    4 => writing.script().on_open(|conn| conn.close()).on_close(|_, _| panic!("no closing")),
                    _ => writing.script(),
                }
            })
            .unwrap();
        net::turn_until(event_loop, || journal.handlers() == 4);
        net::turn_until(event_loop, || client.handle().is_some());
        let ends: Vec<End> = (0..3).map(|number| journal.end_of(number)).collect();
        assert_eq!(ends, [End::Panicked, End::Panicked, End::Closed]);
        assert_eq!(event_loop.handle().counters().panics, 4);
        assert!(client.handle().unwrap().is_open());
        drop(client);
        turn(event_loop);
        turn(event_loop);
        journal.assert_opened_and_closed_once(4);
    });
}

#[test]
fn a_panic_in_a_report_may_propagate_from_run() {
    with_loop(|event_loop| {
        let refusing = Refusing::new();
        let _client = TcpClient::connect(event_loop, refusing.address())
            .on_failure(|_, error| panic!("{error}"))
            .serve_fn(|_, _| ())
            .unwrap();
        assert!(panic_of(|| event_loop.run()).starts_with("cannot connect to 127.0.0.76"));
    });
}
