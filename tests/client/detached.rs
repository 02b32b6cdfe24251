//! Clients that are left to their loops.

use crate::support::client::{FullBacklog, Refusing, Reported, Reporting, Reports, backoff, loopback};
use crate::support::client::{echo_server, turn_until_idle};
use crate::support::clock::HOUR;
use crate::support::net::{self, End, HandlerCall, Journal};
use crate::support::{Count, LIMIT, turn, with_loop, with_watchdog};
use reveille::net::Backoff;
use reveille::{EventLoop, TcpClient};

#[test]
fn a_detached_client_ends_with_its_session() {
    with_loop(|event_loop| {
        let server = echo_server(event_loop, loopback());
        let (journal, reports, drops) = (Journal::new(), Reports::new(), Count::default());
        let (writing, token) = (journal.clone(), drops.drop_token());
        TcpClient::connect(event_loop, server.local_addr().unwrap())
            .reporting(&reports)
            .serve(move |_| {
                token.keep();
                writing.script().on_open(|conn| Ok(conn.send("word")?)).on_message(|conn, input| {
                    assert_eq!(input.take_all(), b"word");
                    conn.shutdown();
                })
            })
            .unwrap()
            .detach();
        net::turn_until(event_loop, || matches!(journal.of(0).last(), Some(HandlerCall::Close(_))));
        turn_until_idle(event_loop);
        assert_eq!(journal.end_of(0), End::Finished);
        assert_eq!(reports.take(), [Reported::Connected(server.local_addr().unwrap())]);
        assert_eq!(drops.get(), 1, "the loop keeps nothing of the client");
        journal.assert_opened_and_closed_once(1);
    });
}

#[test]
fn a_detached_client_that_fails_reports_it_and_ends() {
    with_loop(|event_loop| {
        let (refusing, reports, drops) = (Refusing::new(), Reports::new(), Count::default());
        let token = drops.drop_token();
        TcpClient::connect(event_loop, refusing.address())
            .retry(backoff().max_retries(1))
            .reporting(&reports)
            .serve_fn(move |_, _| token.keep())
            .unwrap()
            .detach();
        net::turn_until(event_loop, || reports.len() == 3);
        assert!(matches!(reports.take()[2], Reported::RetriesExhausted(_, 2, 1)));
        turn(event_loop);
        assert_eq!(drops.get(), 1, "the loop keeps nothing of the client");
    });
}

#[test]
fn a_detached_client_reconnects() {
    with_loop(|event_loop| {
        let server = echo_server(event_loop, loopback());
        let journal = Journal::new();
        let writing = journal.clone();
        TcpClient::connect(event_loop, server.local_addr().unwrap())
            .retry(backoff())
            .reconnect()
            .serve(move |_| writing.script().on_open(|conn| conn.close()))
            .unwrap()
            .detach();
        net::turn_until(event_loop, || journal.handlers() == 3);
    });
}

#[test]
fn a_detached_client_ends_with_its_loop_in_every_phase() {
    with_watchdog(LIMIT, || {
        let (refusing, silent) = (Refusing::new(), FullBacklog::new());
        let listener = std::net::TcpListener::bind(loopback()).unwrap();
        for phase in ["new", "connecting", "looking up", "waiting", "open"] {
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
            client.detach();
            reports.take();
            assert_eq!(drops.get(), 0);
            drop(event_loop);
            assert_eq!(reports.take(), [], "reported by a client whose loop is dropped while {phase}");
            assert_eq!(drops.get(), 1, "{phase}");
            if phase == "open" {
                assert_eq!(journal.end_of(0), End::LoopEnded);
            }
        }
    });
}
