//! Clients that are stopped, and clients whose loop is dropped. No callback follows, in any phase
//! of the client.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use crate::support::client::{
    FullBacklog, Refusing, Reporting, Reports, backoff, channels, echo_server, loopback, turn_until_idle,
};
use crate::support::clock::HOUR;
use crate::support::net::{self, End, HandlerCall, Journal, Script, message};
use crate::support::{Count, LIMIT, on_another_thread, with_loop, with_watchdog};
use reveille::net::{Backoff, TcpClientBuilder};
use reveille::{EventLoop, TcpClient, TcpServer};

// --- Stopping ------------------------------------------------------------------------------------

type Kept = Rc<RefCell<Option<TcpClient>>>;

/// Stops a client, by a drop or by calls of `stop`.
fn stop(kept: &Kept, by_drop: bool) {
    if by_drop {
        let client = kept.borrow_mut().take();
        drop(client);
    } else if let Some(client) = &*kept.borrow() {
        client.stop();
        client.stop();
    }
}

/// Makes a client, turns the loop until `until` returns true, stops the client from outside its
/// callbacks, and checks that nothing follows.
fn stops_outside(
    make: impl for<'a> Fn(&'a EventLoop) -> TcpClientBuilder<'a> + Clone + Send + 'static,
    until: impl Fn(&EventLoop, &str, &Reports) -> bool + Clone + Send + 'static,
) {
    for by_drop in [true, false] {
        let (make, until) = (make.clone(), until.clone());
        with_loop(move |event_loop| {
            let (reports, given_up) = (Reports::new(), Count::default());
            let token = given_up.drop_token();
            let before = channels(event_loop);
            let client = make(event_loop)
                .reporting(&reports)
                .serve(move |_| -> Script {
                    token.keep();
                    unreachable!("no connection is possible")
                })
                .unwrap();
            net::turn_until(event_loop, || until(event_loop, &format!("{client:?}"), &reports));
            reports.take();
            let kept = Rc::new(RefCell::new(Some(client)));
            stop(&kept, by_drop);
            assert_eq!(event_loop.next_deadline(), None, "a timer outlives the client");
            assert_eq!(given_up.get(), 1, "the factory outlives the client");
            assert_eq!(channels(event_loop), before, "a channel of the client is left");
            turn_until_idle(event_loop);
            assert_eq!(reports.take(), [], "reported after the stop");
        });
    }
}

#[test]
fn a_client_stopped_before_its_first_turn_does_nothing() {
    let refusing = Refusing::new();
    let address = refusing.address();
    stops_outside(move |event_loop| TcpClient::connect(event_loop, address), |_, _, _| true);
}

#[test]
fn a_client_stopped_during_its_lookup_does_nothing_more() {
    stops_outside(
        |event_loop| TcpClient::connect(event_loop, "no-such-host.invalid:80").timeout(HOUR).retry(backoff()),
        |_, client, _| client.contains("looking up"),
    );
}

#[test]
fn a_client_stopped_while_connecting_does_nothing_more() {
    let silent = FullBacklog::new();
    let address = silent.address();
    stops_outside(
        move |event_loop| TcpClient::connect(event_loop, address).timeout(HOUR),
        |event_loop, client, _| client.contains("connecting") && event_loop.next_deadline().is_some(),
    );
}

#[test]
fn a_client_stopped_during_a_race_does_nothing_more() {
    let silent = [FullBacklog::new(), FullBacklog::new(), FullBacklog::new()];
    let addresses = silent.each_ref().map(FullBacklog::address);
    stops_outside(
        move |event_loop| {
            TcpClient::connect(event_loop, addresses).timeout(HOUR).attempt_delay(Duration::from_millis(10))
        },
        |event_loop, _, _| {
            // Two attempts are in progress, or all three. The loop has channels of its own.
            let own = on_another_thread(|| channels(&EventLoop::new().unwrap()));
            channels(event_loop) >= own + 2
        },
    );
}

/// The kernel has the failure, and the loop has not processed it yet.
#[test]
fn a_client_stopped_after_a_failed_attempt_reports_nothing() {
    let refusing = Refusing::new();
    let address = refusing.address();
    stops_outside(
        move |event_loop| TcpClient::connect(event_loop, address).timeout(HOUR),
        |event_loop, _, _| event_loop.next_deadline().is_some(),
    );
}

/// The kernel has made the connection, and the loop has not processed it yet.
#[test]
fn a_client_stopped_before_opening_never_opens() {
    let listener = std::net::TcpListener::bind(loopback()).unwrap();
    let address = listener.local_addr().unwrap();
    stops_outside(
        move |event_loop| TcpClient::connect(event_loop, address).timeout(HOUR),
        |event_loop, _, _| event_loop.next_deadline().is_some(),
    );
}

#[test]
fn a_client_stopped_between_addresses_tries_no_other() {
    let refusing = [Refusing::new(), Refusing::new()];
    let addresses: Vec<SocketAddr> = refusing.iter().map(Refusing::address).collect();
    stops_outside(
        move |event_loop| TcpClient::connect(event_loop, addresses.clone()),
        |_, _, reports| reports.len() == 1,
    );
}

#[test]
fn a_client_stopped_during_its_delay_does_not_retry() {
    let refusing = Refusing::new();
    let address = refusing.address();
    stops_outside(
        move |event_loop| TcpClient::connect(event_loop, address).retry(Backoff::new().start(HOUR).cap(HOUR)),
        |_, client, _| client.contains("waiting"),
    );
}

/// The client stops itself in its `stopping`th report. No report may follow.
#[test]
fn a_client_may_be_stopped_in_each_of_its_reports() {
    for by_drop in [true, false] {
        for stopping in 1..=5 {
            with_loop(move |event_loop| {
                let refusing = [Refusing::new(), Refusing::new()];
                let addresses: Vec<SocketAddr> = refusing.iter().map(Refusing::address).collect();
                let (reports, given_up) = (Reports::new(), Count::default());
                let kept = Kept::default();
                let (in_attempt, in_failure) = (Rc::clone(&kept), Rc::clone(&kept));
                let (attempts, failures) = (reports.clone(), reports.clone());
                let token = given_up.drop_token();
                let client = TcpClient::connect(event_loop, addresses)
                    .retry(backoff().max_retries(1))
                    .on_attempt(move |_, attempt| {
                        token.keep();
                        attempts.record(attempt.into());
                        if attempts.len() == stopping {
                            stop(&in_attempt, by_drop);
                        }
                    })
                    .on_failure(move |_, error| {
                        failures.record((&error).into());
                        stop(&in_failure, by_drop);
                    })
                    .serve_fn(|_, _| ());
                *kept.borrow_mut() = Some(client.unwrap());
                net::turn_until(event_loop, || reports.len() == stopping);
                turn_until_idle(event_loop);
                assert_eq!(reports.len(), stopping, "{:?}", reports.take());
                assert_eq!(given_up.get(), 1, "what is the user's outlives the client");
            });
        }
    }
}

#[test]
fn a_client_stopped_in_its_connect_report_makes_no_handler() {
    for by_drop in [true, false] {
        with_loop(move |event_loop| {
            let server = echo_server(event_loop, loopback());
            let (kept, reports) = (Kept::default(), Count::default());
            let (stopping, reporting) = (Rc::clone(&kept), reports.clone());
            let client = TcpClient::connect(event_loop, server.local_addr().unwrap())
                .reconnect()
                .on_attempt(move |_, _| {
                    reporting.add();
                    stop(&stopping, by_drop);
                })
                .on_failure(|_, _| unreachable!("it has not failed"))
                .serve(|_| -> Script { unreachable!("it was stopped") });
            *kept.borrow_mut() = Some(client.unwrap());
            net::turn_until(event_loop, || reports.get() == 1);
            turn_until_idle(event_loop);
            net::turn_until(event_loop, || server.open_connections() == 0);
            assert_eq!(reports.get(), 1);
        });
    }
}

#[test]
fn a_client_may_be_stopped_in_any_callback() {
    let callbacks = ["factory", "on_open", "on_message", "on_drained", "on_peer_shutdown", "on_close"];
    for (callback, by_drop) in callbacks.iter().flat_map(|callback| [(*callback, true), (*callback, false)]) {
        with_loop(move |event_loop| {
            let server_side = Journal::new();
            let server = TcpServer::bind(event_loop, loopback())
                .unwrap()
                .serve(move |_| {
                    server_side.script().on_open(|conn| {
                        conn.send("x").unwrap();
                        conn.shutdown();
                    })
                })
                .unwrap();
            let (journal, kept, stopped) = (Journal::new(), Kept::default(), Count::default());
            let (writing, stopping, noting) = (journal.clone(), Rc::clone(&kept), stopped.clone());
            let client = TcpClient::connect(event_loop, server.local_addr().unwrap())
                .retry(backoff())
                .reconnect()
                .on_failure(|_, _| unreachable!("it has not failed"))
                .serve(move |_| {
                    let (kept, noting, script) = (Rc::clone(&stopping), noting.clone(), writing.script());
                    let end = move || {
                        noting.add();
                        stop(&kept, by_drop);
                    };
                    match callback {
                        "factory" => {
                            end();
                            script
                        }
                        "on_open" => script.on_open(move |_| end()),
                        "on_message" => script.on_message(move |_, _| end()),
                        "on_drained" => {
                            script.on_open(|conn| conn.notify_drained()).on_drained(move |_| end())
                        }
                        "on_peer_shutdown" => script.on_peer_shutdown(move |_| end()),
                        _ => script.on_close(move |_, _| end()),
                    }
                });
            *kept.borrow_mut() = Some(client.unwrap());
            net::turn_until(event_loop, || stopped.get() == 1);
            turn_until_idle(event_loop);
            assert_eq!(stopped.get(), 1, "called again after a stop in {callback}");
            let life = journal.of(0);
            if callback == "factory" {
                assert_eq!(life, [HandlerCall::Close(End::Stopped)]);
                return;
            }
            journal.assert_opened_and_closed_once(1);
            let expected = if callback == "on_close" { End::Finished } else { End::Stopped };
            assert_eq!(life.last(), Some(&HandlerCall::Close(expected)), "{callback}: {life:?}");
            // The end is the only event after the stop.
            let last = match callback {
                "on_open" => HandlerCall::Open,
                "on_message" => message("x"),
                "on_drained" => HandlerCall::Drained,
                _ => HandlerCall::PeerShutdown,
            };
            assert_eq!(life[life.len() - 2], last, "{callback}: {life:?}");
        });
    }
}

#[test]
fn a_session_stopped_by_another_callback_gets_no_input() {
    with_loop(|event_loop| {
        let server = TcpServer::bind(event_loop, loopback())
            .unwrap()
            .serve({
                let journal = Journal::new();
                move |_| journal.script().on_open(|conn| Ok(conn.send("x")?))
            })
            .unwrap();
        // The first of the two that is called stops both, so the other is not called in the same
        // turn.
        let (kept, messages) = (Rc::new(RefCell::new(Vec::new())), Count::default());
        for _ in 0..2 {
            let (stopping, counting) = (Rc::clone(&kept), messages.clone());
            let client =
                TcpClient::connect(event_loop, server.local_addr().unwrap()).serve_fn(move |_, input| {
                    input.clear();
                    counting.add();
                    let clients: Vec<TcpClient> = stopping.borrow_mut().drain(..).collect();
                    drop(clients);
                });
            kept.borrow_mut().push(client.unwrap());
        }
        net::turn_until(event_loop, || messages.get() > 0);
        turn_until_idle(event_loop);
        assert_eq!(messages.get(), 1);
    });
}

// --- The end of the loop -------------------------------------------------------------------------

#[test]
fn dropping_a_loop_ends_its_clients_in_every_phase() {
    with_watchdog(LIMIT, || {
        let (refusing, silent) = (Refusing::new(), FullBacklog::new());
        let listener = std::net::TcpListener::bind(loopback()).unwrap();
        let phases = ["new", "connecting", "looking up", "waiting", "open"];
        for (phase, detaches) in phases.into_iter().flat_map(|phase| [(phase, false), (phase, true)]) {
            let (reports, drops, journal) = (Reports::new(), Count::default(), Journal::new());
            let event_loop = EventLoop::new().unwrap();
            let builder = match phase {
                "new" | "connecting" => TcpClient::connect(&event_loop, silent.address()),
                "looking up" => TcpClient::connect(&event_loop, "no-such-host.invalid:80"),
                "waiting" => TcpClient::connect(&event_loop, refusing.address()),
                _ => TcpClient::connect(&event_loop, listener.local_addr().unwrap()),
            };
            let (token, writing) = (drops.drop_token(), journal.clone());
            let client = builder
                .timeout(HOUR)
                .retry(Backoff::new().start(HOUR).cap(HOUR))
                .reconnect()
                .reporting(&reports)
                .serve(move |_| {
                    token.keep();
                    writing.script()
                })
                .unwrap();
            net::turn_until(&event_loop, || {
                phase == "new"
                    || (format!("{client:?}").contains(phase)
                        && (phase == "open" || event_loop.next_deadline().is_some()))
            });
            let mut client = Some(client);
            if detaches {
                client.take().unwrap().detach();
            }
            reports.take();
            assert_eq!(drops.get(), 0, "{phase}");
            let handle = event_loop.handle();
            drop(event_loop);
            assert_eq!(reports.take(), [], "reported by a client whose loop is dropped while {phase}");
            if let Some(client) = client {
                assert!(client.handle().is_none());
                client.stop();
            }
            assert_eq!(drops.get(), 1, "the factory outlives its client: {phase}");
            assert_eq!(handle.counters().panics, 0);
            let opened = usize::from(phase == "open");
            journal.assert_opened_and_closed_once(opened);
            (0..opened).for_each(|number| assert_eq!(journal.end_of(number), End::LoopEnded));
        }
    });
}
