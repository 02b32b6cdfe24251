//! Clients that are left to their loops.

use crate::support::client::{Refusing, Reported, Reporting, Reports, backoff, loopback};
use crate::support::client::{echo_server, turn_until_idle};
use crate::support::net::{self, End, HandlerCall, Journal};
use crate::support::{Count, turn, with_loop};
use reveille::TcpClient;

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
