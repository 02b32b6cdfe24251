//! Clients over time: how they try again, connect again, and live through panics.

mod support;

use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use reveille::net::Backoff;
use reveille::{EventLoop, TcpClient, TcpServer};
use support::client::{Refusing, Reported, Reporting, Reports, backoff, echo_server, loopback, turn_to_rest};
use support::clock::HOUR;
use support::net::{self, End, Journal, Told, message};
use support::{panic_of, turn, with_catching_loop, with_loop};

/// A server that closes each connection as soon as it is there.
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

// --- Trying again
// ---------------------------------------------------------------------------------

#[test]
fn a_client_tries_again_until_its_server_appears() {
    with_loop(|event_loop| {
        let nobody = Refusing::new();
        let address = nobody.address();
        let reports = Reports::new();
        let (nobody, server) = (RefCell::new(Some(nobody)), Rc::new(RefCell::new(None)));
        let (reporting, starting) = (reports.clone(), Rc::clone(&server));
        let client = TcpClient::connect(event_loop, address)
            .retry(backoff())
            .on_attempt(move |event_loop, attempt| {
                reporting.record(Reported::from(attempt));
                if attempt.round == 3 {
                    drop(nobody.take());
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
fn a_client_gives_up_after_as_many_retries_as_it_was_allowed() {
    with_loop(|event_loop| {
        for retries in [0, 1, 3] {
            let nobodies = [Refusing::new(), Refusing::new()];
            let addresses: Vec<SocketAddr> = nobodies.iter().map(Refusing::address).collect();
            let reports = Reports::new();
            let _client = TcpClient::connect(event_loop, addresses.clone())
                .retry(backoff().max_retries(retries))
                .reporting(&reports)
                .serve_fn(|_, _| ())
                .unwrap();
            let attempts = 2 * (retries as usize + 1);
            net::turn_until(event_loop, || reports.len() > attempts);
            turn_to_rest(event_loop);
            let reports = reports.take();
            for (n, report) in reports[..attempts].iter().enumerate() {
                assert_eq!(*report, refused(addresses[n % 2]));
            }
            let gave_up = Reported::GaveUp(ErrorKind::ConnectionRefused, retries + 1, 2);
            assert_eq!(reports[attempts..], [gave_up]);
        }
    });
}

#[test]
fn a_name_is_looked_up_in_every_round() {
    with_loop(|event_loop| {
        let reports = Reports::new();
        // No label of a name is that long, so no server is asked for it.
        let _client = TcpClient::connect(event_loop, ("x".repeat(300), 80))
            .retry(backoff().max_retries(2))
            .reporting(&reports)
            .serve_fn(|_, _| ())
            .unwrap();
        net::turn_until(event_loop, || reports.len() == 4);
        let reports = reports.take();
        assert!(reports[..3].iter().all(|report| matches!(report, Reported::Failed(None, _))), "{reports:?}");
        assert!(matches!(reports[3], Reported::GaveUp(_, 3, 1)), "{reports:?}");
    });
}

/// Unless it is answered in next to no time, and then a later one is not.
#[test]
fn a_lookup_may_be_timed_out_and_its_late_answer_disturbs_nothing() {
    with_loop(|event_loop| {
        let reports = Reports::new();
        let client = TcpClient::connect(event_loop, "no-such-host.invalid:80")
            .timeout(Duration::ZERO)
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
        turn_to_rest(event_loop);
        assert_eq!(reports.take(), []);
    });
}

// --- Connecting again
// -----------------------------------------------------------------------------

#[test]
fn a_client_whose_session_has_ended_is_at_its_end() {
    with_loop(|event_loop| {
        let server = closing_server(event_loop);
        let (journal, reports) = (Journal::new(), Reports::new());
        let writing = journal.clone();
        let client = TcpClient::connect(event_loop, server.local_addr())
            .retry(backoff())
            .reporting(&reports)
            .serve(move |_| writing.script())
            .unwrap();
        net::turn_until(event_loop, || matches!(journal.of(0).last(), Some(Told::Close(_))));
        turn_to_rest(event_loop);
        assert_eq!(reports.take(), [Reported::Connected(server.local_addr())]);
        assert!(client.handle().is_none());
        journal.assert_whole_lives(1);
    });
}

#[test]
fn a_client_that_reconnects_has_session_after_session_each_with_its_handler() {
    with_loop(|event_loop| {
        let server = echo_server(event_loop, loopback());
        let (journal, reports) = (Journal::new(), Reports::new());
        let writing = journal.clone();
        let client = TcpClient::connect(event_loop, server.local_addr())
            .retry(backoff())
            .reconnect(true)
            .reporting(&reports)
            .serve(move |_| {
                let script = writing.script();
                if let Some(before) = script.number().checked_sub(1) {
                    let life = writing.of(before);
                    assert!(matches!(life.last(), Some(Told::Close(_))), "not told of its end: {life:?}");
                }
                // Each ends in a way of its own.
                let number = script.number();
                script.on_open(|conn| conn.send("x")).on_message(move |conn, input| {
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
        turn_to_rest(event_loop);
        journal.assert_whole_lives(7);
        let expected = vec![Reported::Connected(server.local_addr()); 7];
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
fn a_client_that_cannot_reconnect_gives_up_when_its_retries_are_used_up() {
    with_loop(|event_loop| {
        for (retry, rounds) in [(None, 1), (Some(backoff().max_retries(2)), 3)] {
            let place = Refusing::new();
            let address = place.address();
            let server = echo_server(event_loop, address);
            let reports = Reports::new();
            let mut builder = TcpClient::connect(event_loop, address).reconnect(true).reporting(&reports);
            if let Some(backoff) = retry {
                builder = builder.retry(backoff);
            }
            let client = builder.serve_fn(|_, _| ()).unwrap();
            net::turn_until(event_loop, || client.handle().is_some());
            drop(server);
            net::turn_until(event_loop, || matches!(reports.len(), n if n == rounds + 2));
            turn_to_rest(event_loop);
            let mut expected = vec![Reported::Connected(address)];
            expected.extend(vec![refused(address); rounds]);
            expected.push(Reported::GaveUp(ErrorKind::ConnectionRefused, rounds as u32, 1));
            assert_eq!(reports.take(), expected);
        }
    });
}

#[test]
fn rounds_are_counted_anew_after_a_session() {
    with_loop(|event_loop| {
        let server = closing_server(event_loop);
        let rounds = support::Recorder::new();
        let recording = rounds.clone();
        let _client = TcpClient::connect(event_loop, server.local_addr())
            .retry(backoff().max_retries(0))
            .reconnect(true)
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

/// Or a server that takes connections and drops them would be called as often as one can.
#[test]
fn delays_grow_from_one_short_session_to_the_next() {
    with_loop(|event_loop| {
        let server = closing_server(event_loop);
        let journal = Journal::new();
        let writing = journal.clone();
        let client = TcpClient::connect(event_loop, server.local_addr())
            .retry(Backoff::new().start(Duration::from_millis(1)).cap(HOUR))
            .reconnect(true)
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
        // After 1, 2, 4, 8, 16 and 32 ms it is 64, or half of that at least.
        let deadline = event_loop.next_deadline().expect("a timer");
        assert!(deadline - before >= Duration::from_millis(32), "{:?}", deadline - before);
    });
}

#[test]
fn delays_begin_anew_after_a_session_that_has_lasted() {
    with_loop(|event_loop| {
        let server = echo_server(event_loop, loopback());
        let journal = Journal::new();
        let writing = journal.clone();
        let (start, cap) = (Duration::from_millis(1), Duration::from_millis(16));
        let client = TcpClient::connect(event_loop, server.local_addr())
            .retry(Backoff::new().start(start).cap(cap))
            .reconnect(true)
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

// --- Panics
// ---------------------------------------------------------------------------------------

#[test]
fn a_panic_in_a_report_changes_nothing() {
    with_catching_loop(|event_loop| {
        let nobodies = [Refusing::new(), Refusing::new()];
        let addresses: Vec<SocketAddr> = nobodies.iter().map(Refusing::address).collect();
        let reports = Reports::new();
        let (attempts, failures) = (reports.clone(), reports.clone());
        let _client = TcpClient::connect(event_loop, addresses)
            .retry(backoff().max_retries(1))
            .on_attempt(move |_, attempt| {
                attempts.record(attempt.into());
                panic!("as I was told");
            })
            .on_failure(move |_, error| {
                failures.record((&error).into());
                panic!("as I was told");
            })
            .serve_fn(|_, _| ())
            .unwrap();
        net::turn_until(event_loop, || reports.len() == 5);
        turn_to_rest(event_loop);
        assert_eq!(reports.take()[4], Reported::GaveUp(ErrorKind::ConnectionRefused, 2, 2));
        assert_eq!(event_loop.handle().counters().panics, 5);
    });
}

/// With nobody to tell, since there is no handler, a factory that panics is as good as a session
/// that has ended.
#[test]
fn a_client_whose_factory_or_handler_panics_loses_that_session_and_connects_again() {
    with_catching_loop(|event_loop| {
        let server = echo_server(event_loop, loopback());
        let (journal, factories) = (Journal::new(), Cell::new(0));
        let writing = journal.clone();
        let client = TcpClient::connect(event_loop, server.local_addr())
            .retry(backoff())
            .reconnect(true)
            .serve(move |_| {
                factories.set(factories.get() + 1);
                match factories.get() {
                    1 => panic!("no handler"),
                    2 => writing.script().on_open(|_| -> () { panic!("no opening") }),
                    3 => writing
                        .script()
                        .on_open(|conn| conn.send("x"))
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
        journal.assert_whole_lives(4);
    });
}

#[test]
fn a_panic_in_a_report_goes_on_from_run_if_the_loop_is_told_so() {
    with_loop(|event_loop| {
        let nobody = Refusing::new();
        let _client = TcpClient::connect(event_loop, nobody.address())
            .on_failure(|_, error| panic!("{error}"))
            .serve_fn(|_, _| ())
            .unwrap();
        assert!(panic_of(|| event_loop.run()).starts_with("cannot connect to 127.0.0.76"));
    });
}
