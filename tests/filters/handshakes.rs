//! Filters that begin with a handshake: the handler opens after it.

use std::io::{self, Write};
use std::sync::mpsc;
use std::time::Duration;

use super::samples::{Cipher, Greets, cipher};
use crate::support::bench::with_virtual_time;
use crate::support::net::{self, End, HandlerCall, Host, Journal, message, scripted_with};
use crate::support::{LIMIT, with_watchdog};
use reveille::net::{ConnectionBuilder, ConnectionLimits};
use reveille::testing::Peer;
use reveille::{ConnectionHandler, EventLoop, TcpClient, TcpConnection, TcpServer};

/// A connection in memory with a handshake, and the calls of its handler.
fn greeted<'a>(
    event_loop: &'a EventLoop,
    settings: impl FnOnce(ConnectionBuilder<'a>) -> ConnectionBuilder<'a>,
) -> (Peer<'a>, Journal) {
    let journal = Journal::new();
    let written = journal.clone();
    let builder = settings(TcpConnection::builder(event_loop).filter(Greets::default));
    (Peer::connect_with(builder, move |_| written.script()).unwrap(), journal)
}

fn with_loop(test: impl FnOnce(&EventLoop) + Send + 'static) {
    with_watchdog(LIMIT, || test(&EventLoop::new().unwrap()));
}

#[test]
fn the_handler_opens_when_the_handshake_is_done() {
    with_loop(|event_loop| {
        let (peer, journal) = greeted(event_loop, |builder| builder);
        assert_eq!(peer.received().unwrap(), b"!");
        assert_eq!(journal.handlers(), 0);
        peer.send("!").unwrap();
        assert_eq!(peer.received().unwrap(), b"");
        assert_eq!(journal.of(0), [HandlerCall::Open]);
        peer.send("hello").unwrap();
        assert_eq!(peer.received().unwrap(), b"hello");
    });
}

#[test]
fn input_in_the_last_message_of_a_handshake_follows_on_open() {
    with_loop(|event_loop| {
        let (peer, journal) = greeted(event_loop, |builder| builder.filter(Cipher::default));
        let mut bytes = b"early".to_vec();
        cipher(&mut bytes, &mut 0);
        peer.send([b"!", &bytes[..]].concat()).unwrap();
        let mut received = peer.received().unwrap();
        cipher(&mut received[1..], &mut 0);
        assert_eq!(received, b"!early");
        assert_eq!(journal.of(0), [HandlerCall::Open, message("early")]);
    });
}

#[test]
fn output_during_a_handshake_waits_for_its_end() {
    with_loop(|event_loop| {
        let (peer, journal) = greeted(event_loop, |builder| builder);
        peer.connection().send("held").unwrap();
        peer.connection().shutdown();
        assert_eq!(peer.received().unwrap(), b"!");
        assert_eq!(peer.connection().unsent(), 4);
        let turns = event_loop.iteration();
        event_loop.run_ready().unwrap();
        assert!(event_loop.iteration() - turns < 10, "the loop does not spin meanwhile");
        peer.send("!").unwrap();
        assert_eq!(peer.received().unwrap(), b"held.");
        assert!(peer.is_ended().unwrap());
        assert_eq!(journal.handlers(), 1);
    });
}

#[test]
fn a_failed_handshake_sends_its_alert_and_creates_no_handler() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted_with(|builder| builder.filter(Greets::default), |script| script);
        let mut client = host.connect();
        client.write_all(b"?").unwrap();
        assert_eq!(net::read_to_end(&mut client), b"!alert");
        net::until(|| host.open_connections() == 0);
        assert_eq!(journal.handlers(), 0);
    });
}

#[test]
fn an_unfinished_handshake_ends_at_its_deadline() {
    with_virtual_time(|builder, clock| {
        let event_loop = builder.build().unwrap();
        let limits = ConnectionLimits::new().handshake_timeout(Duration::from_secs(3));
        let (peer, journal) = greeted(&event_loop, |builder| builder.limits(limits));
        clock.advance(Duration::from_millis(2999));
        assert!(!peer.is_closed().unwrap());
        clock.advance(Duration::from_millis(1));
        assert!(peer.is_closed().unwrap());
        assert_eq!(journal.handlers(), 0);
    });
}

#[test]
fn a_finished_handshake_has_no_deadline() {
    with_virtual_time(|builder, clock| {
        let event_loop = builder.build().unwrap();
        let (peer, journal) = greeted(&event_loop, |builder| builder);
        peer.send("!").unwrap();
        clock.advance(Duration::from_secs(3600));
        assert!(!peer.is_closed().unwrap());
        assert_eq!(journal.of(0), [HandlerCall::Open]);
    });
}

#[test]
fn a_peer_that_ends_within_a_handshake_closes_the_connection() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted_with(|builder| builder.filter(Greets::default), |script| script);
        let client = host.connect();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        net::until(|| host.open_connections() == 0);
        net::reset(host.connect());
        net::until(|| host.open_connections() == 0);
        assert_eq!(journal.handlers(), 0);
    });
}

#[test]
fn a_stop_closes_connections_in_a_handshake_at_once() {
    with_watchdog(LIMIT, || {
        let (host, journal) = scripted_with(|builder| builder.filter(Greets::default), |script| script);
        let mut client = host.connect();
        assert_eq!(net::read_exact(&mut client, 1), b"!");
        let handle = host.request(|_, server| server.as_ref().unwrap().handle());
        let (sender, stopped) = mpsc::channel();
        handle.stop(Duration::from_secs(3600), move |_, report| sender.send(report).unwrap());
        net::wait_for_end(&mut client);
        assert_eq!(stopped.recv_timeout(LIMIT).unwrap().ended_in_time, 1);
        assert_eq!(journal.handlers(), 0);
    });
}

#[test]
fn servers_of_all_kinds_open_their_handlers_after_the_handshake() {
    with_watchdog(LIMIT, || {
        let echo = |conn: &TcpConnection, input: &mut reveille::Buffer| conn.send(input.take_all());
        let on_one = Host::new(move |event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?.filter(Greets::default).serve_fn(echo)
        });
        let on_two = Host::new(move |event_loop| {
            TcpServer::bind(event_loop, "127.0.0.1:0")?.filter(Greets::default).threads(2).serve_fn(echo)
        });
        let per_loop = Host::new(move |event_loop| {
            let builder = TcpServer::bind(event_loop, "127.0.0.1:0")?.filter(Greets::default);
            builder.threads(2).serve_per_loop(|_| Ok(Journal::new()), |journal, _| journal.script())
        });
        for host in [on_one, on_two, per_loop] {
            let mut client = host.connect();
            assert_eq!(net::exchange(&mut client, "!"), b"!");
            assert_eq!(net::exchange(&mut client, "hello"), b"hello");
        }
    });
}

#[test]
fn a_filter_may_end_the_input_before_the_fin() {
    with_loop(|event_loop| {
        let (peer, journal) = greeted(event_loop, |builder| builder);
        peer.send("!last.ignored").unwrap();
        assert_eq!(peer.received().unwrap(), b"!last.");
        assert!(peer.is_ended().unwrap());
        let calls = [HandlerCall::Open, message("last"), HandlerCall::PeerShutdown];
        assert_eq!(journal.of(0)[..3], calls);
        assert_eq!(journal.end_of(0), End::Finished);
    });
}

#[test]
fn an_end_by_a_filter_waits_for_paused_input() {
    struct Pauses(Journal);

    impl ConnectionHandler for Pauses {
        fn on_message(&mut self, conn: &TcpConnection, input: &mut reveille::Buffer) -> io::Result<()> {
            match input.len() {
                4 => {
                    input.consume(1);
                    conn.pause_reading();
                }
                _ => conn.send(input.take_all())?,
            }
            Ok(())
        }

        fn on_peer_shutdown(&mut self, conn: &TcpConnection) -> io::Result<()> {
            self.0.script();
            conn.shutdown();
            Ok(())
        }
    }

    with_loop(|event_loop| {
        let journal = Journal::new();
        let ends = journal.clone();
        let builder = TcpConnection::builder(event_loop).filter(Greets::default);
        let peer = Peer::connect_with(builder, move |_| Pauses(ends)).unwrap();
        peer.send("!last.").unwrap();
        assert_eq!(peer.received().unwrap(), b"!");
        assert_eq!(journal.handlers(), 0, "the end is not reported yet");
        peer.connection().resume_reading();
        assert_eq!(peer.received().unwrap(), b"ast.");
        assert_eq!(journal.handlers(), 1);
        assert!(peer.is_closed().unwrap());
    });
}

#[test]
fn a_close_that_loses_nothing_sends_the_last_bytes() {
    with_loop(|event_loop| {
        let (peer, journal) = greeted(event_loop, |builder| builder);
        peer.send("!").unwrap();
        peer.connection().close();
        assert_eq!(peer.received().unwrap(), b"!.");
        assert_eq!(journal.end_of(0), End::Closed);
        let (peer, journal) = greeted(event_loop, |builder| builder);
        peer.send("!").unwrap();
        assert_eq!(peer.received().unwrap(), b"!");
        peer.connection().reset();
        assert_eq!(peer.received().unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(journal.end_of(0), End::Reset);
    });
}

#[test]
fn a_client_reports_a_failed_handshake_as_a_failed_attempt() {
    /// Sends what is no greeting.
    struct Rude;

    impl ConnectionHandler for Rude {
        fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
            Ok(conn.send("?")?)
        }
        fn on_message(&mut self, _: &TcpConnection, input: &mut reveille::Buffer) -> io::Result<()> {
            input.clear();
            Ok(())
        }
    }

    with_loop(|event_loop| {
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap();
        let server = server.serve(|_| Rude).unwrap();
        let journal = Journal::new();
        let written = journal.clone();
        let _client = TcpClient::connect(event_loop, server.local_address())
            .filter(Greets::default)
            .on_failure(|event_loop, error| {
                assert_eq!(error.kind(), io::ErrorKind::InvalidData);
                assert!(error.to_string().contains("is not a greeting"), "{error}");
                event_loop.quit();
            })
            .serve(move |_| written.script())
            .unwrap();
        event_loop.run().unwrap();
        assert_eq!(journal.handlers(), 0);
    });
}

#[test]
fn the_time_limit_of_a_client_includes_the_handshake() {
    with_virtual_time(|builder, clock| {
        let event_loop = builder.build().unwrap();
        let silent = TcpServer::bind(&event_loop, "127.0.0.1:0").unwrap();
        let silent = silent.serve_fn(|_, input| input.clear()).unwrap();
        let failed = std::rc::Rc::new(std::cell::Cell::new(false));
        let has_failed = std::rc::Rc::clone(&failed);
        let client = TcpClient::connect(&event_loop, silent.local_address())
            .timeout(Duration::from_secs(2))
            .filter(Greets::default)
            .on_failure(move |_, error| {
                assert_eq!(error.kind(), io::ErrorKind::TimedOut);
                has_failed.set(true);
            })
            .serve_fn(|_, input| input.clear())
            .unwrap();
        net::turn_until(&event_loop, || silent.handle().open_connections() == 1);
        clock.advance(Duration::from_secs(2));
        net::turn_until(&event_loop, || failed.get());
        drop(client);
    });
}

#[test]
fn queued_sends_of_a_client_follow_the_handshake() {
    with_loop(|event_loop| {
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().filter(Greets::default);
        let server = server.serve_fn(|conn, input| conn.send(input.take_all())).unwrap();
        let client = TcpClient::connect(event_loop, server.local_address())
            .filter(Greets::default)
            .serve_fn(|conn, input| {
                assert_eq!(input.take_all(), b"queued");
                conn.event_loop().quit();
            })
            .unwrap();
        client.send("queued").unwrap();
        event_loop.run().unwrap();
    });
}
