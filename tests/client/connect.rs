//! TCP clients: how they connect, and the properties of their connections.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, TcpListener};
use std::os::fd::AsFd;

use crate::support::client::{LONG_TIMEOUT, Refusing, Reported, Reporting, Reports, echo_server, loopback};
use crate::support::net::{self, End, HandlerCall, Journal, message};
use crate::support::{Recorder, turn, with_loop};
use reveille::net::{ConnectTarget, ConnectionLimits, ConnectionState, SendError, SocketOptions};
use reveille::{TcpClient, TcpConnection, TcpServer};
use socket2::SockRef;

fn sends_hello(conn: &TcpConnection<'_>) -> io::Result<()> {
    conn.send("hello")?;
    Ok(())
}

// --- Connections ---------------------------------------------------------------------------------

#[test]
fn a_client_connects_and_receives_a_reply() {
    with_loop(|event_loop| {
        let server = echo_server(event_loop, loopback());
        let (journal, reports) = (Journal::new(), Reports::new());
        let (writing, before) = (journal.clone(), reports.clone());
        let connected = vec![Reported::Connected(server.local_addr().unwrap())];
        let client = TcpClient::connect(event_loop, server.local_addr().unwrap())
            .reporting(&reports)
            .serve(move |conn| {
                assert_eq!(before.take(), connected, "before the handler is made");
                assert_eq!(conn.state(), ConnectionState::Open);
                writing.script().on_open(sends_hello).on_message(|conn, input| {
                    assert_eq!(input.take_all(), b"hello");
                    conn.shutdown();
                })
            })
            .unwrap();
        net::turn_until(event_loop, || matches!(journal.of(0).last(), Some(HandlerCall::Close(_))));
        assert_eq!(
            journal.of(0),
            [
                HandlerCall::Open,
                message("hello"),
                HandlerCall::PeerShutdown,
                HandlerCall::Close(End::Finished)
            ]
        );
        assert_eq!(reports.take(), [], "the attempt has been reported once");
        crate::support::client::turn_until_idle(event_loop);
        drop(client);
        journal.assert_opened_and_closed_once(1);
    });
}

#[test]
fn a_connection_has_the_configured_addresses_and_options() {
    with_loop(|event_loop| {
        for nodelay in [true, false] {
            let server = echo_server(event_loop, loopback());
            let address = server.local_addr().unwrap();
            let options = SocketOptions::new();
            let options = if nodelay { options } else { options.delay_small_writes() };
            let seen = Recorder::new();
            let seeing = seen.clone();
            let journal = Journal::new();
            let client = TcpClient::connect(event_loop, address)
                .local_addr("127.0.0.5:0".parse().unwrap())
                .socket_options(options)
                .serve(move |conn| {
                    assert_eq!(conn.peer_addr().unwrap(), address);
                    assert_ne!(conn.local_addr().unwrap().port(), 0);
                    seeing.record(conn.local_addr().unwrap().ip());
                    assert_eq!(SockRef::from(&conn.as_fd()).tcp_nodelay().unwrap(), nodelay);
                    journal.script()
                })
                .unwrap();
            net::turn_until(event_loop, || seen.len() == 1);
            assert_eq!(seen.take(), ["127.0.0.5".parse::<IpAddr>().unwrap()]);
            drop(client);
        }
    });
}

#[test]
fn a_client_keeps_its_configured_limits() {
    with_loop(|event_loop| {
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve({
            let journal = Journal::new();
            move |_| journal.script().on_open(|conn| Ok(conn.send(vec![7; 3000])?))
        });
        let journal = Journal::new();
        let writing = journal.clone();
        let client = TcpClient::connect(event_loop, server.as_ref().unwrap().local_addr().unwrap())
            .limits(ConnectionLimits::new().max_unsent(1000).max_unread(2000))
            .serve(move |conn| {
                assert_eq!(conn.send([0; 1001]), Err(SendError::Full));
                conn.send([0; 1000]).unwrap();
                writing.script().terse().on_message(|_, _| ())
            })
            .unwrap();
        net::turn_until(event_loop, || matches!(journal.of(0).last(), Some(HandlerCall::Close(_))));
        let end = journal.end_of(0);
        assert!(matches!(end, End::Error(ErrorKind::StorageFull, _)), "{end:?}");
        drop(client);
    });
}

#[test]
fn other_threads_use_a_client_through_its_handle() {
    with_loop(|event_loop| {
        let server = echo_server(event_loop, loopback());
        let received = Recorder::new();
        let receiving = received.clone();
        let client = TcpClient::connect(event_loop, server.local_addr().unwrap())
            .serve_fn(move |_, input| receiving.record(input.take_all().to_vec()))
            .unwrap();
        assert!(client.handle().is_none(), "not connected yet");
        net::turn_until(event_loop, || client.handle().is_some());
        let handle = client.handle().unwrap();
        std::thread::spawn(move || handle.send("from afar")).join().unwrap().unwrap();
        net::turn_until(event_loop, || received.len() > 0);
        assert_eq!(received.take(), [b"from afar"]);
        client.handle().unwrap().close();
        net::turn_until(event_loop, || client.handle().is_none());
    });
}

#[test]
fn input_before_the_peers_end_is_received() {
    with_loop(|event_loop| {
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve({
            let journal = Journal::new();
            move |_| {
                journal.script().on_open(|conn| {
                    conn.send("all there is").unwrap();
                    conn.shutdown();
                })
            }
        });
        let journal = Journal::new();
        let writing = journal.clone();
        let _client = TcpClient::connect(event_loop, server.as_ref().unwrap().local_addr().unwrap())
            .serve(move |_| writing.script().on_message(|_, input| input.clear()))
            .unwrap();
        net::turn_until(event_loop, || matches!(journal.of(0).last(), Some(HandlerCall::Close(_))));
        assert_eq!(
            journal.of(0),
            [
                HandlerCall::Open,
                message("all there is"),
                HandlerCall::PeerShutdown,
                HandlerCall::Close(End::Finished)
            ]
        );
    });
}

// --- Names ---------------------------------------------------------------------------------------

#[test]
fn a_name_is_looked_up() {
    with_loop(|event_loop| {
        let server = echo_server(event_loop, loopback());
        let reports = Reports::new();
        let client = TcpClient::connect(event_loop, ("localhost", server.local_addr().unwrap().port()))
            .timeout(LONG_TIMEOUT)
            .reporting(&reports)
            .serve_fn(|_, _| ())
            .unwrap();
        turn(event_loop);
        assert!(format!("{client:?}").contains("looking up"), "{client:?}");
        net::turn_until(event_loop, || client.handle().is_some());
        // The machine may have other addresses for the name, which are then tried first.
        assert_eq!(reports.take().last(), Some(&Reported::Connected(server.local_addr().unwrap())));
    });
}

#[test]
fn an_address_is_never_looked_up() {
    with_loop(|event_loop| {
        let port = Refusing::new().address().port();
        let targets: [ConnectTarget; 5] = [
            format!("127.0.0.1:{port}").try_into().unwrap(),
            ("127.0.0.1", port).try_into().unwrap(),
            format!("[::1]:{port}").try_into().unwrap(),
            ("::1", port).try_into().unwrap(),
            (IpAddr::from([127, 0, 0, 1]), port).into(),
        ];
        for target in targets {
            let client = TcpClient::connect(event_loop, target).serve_fn(|_, _| ()).unwrap();
            turn(event_loop);
            assert!(!format!("{client:?}").contains("looking up"), "{client:?}");
        }
    });
}

/// The lookups run while the loop makes turns; otherwise this test would not end.
#[test]
fn a_lookup_does_not_block_the_loop() {
    with_loop(|event_loop| {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let clients: Vec<_> = (0..8)
            .map(|_| {
                let port = server.local_addr().unwrap().port();
                TcpClient::connect(event_loop, ("localhost", port)).serve_fn(|_, _| ()).unwrap()
            })
            .collect();
        turn(event_loop);
        let looking_up = clients.iter().filter(|client| format!("{client:?}").contains("looking up")).count();
        assert_eq!(looking_up, 8, "the lookups were not all started in one turn");
        net::turn_until(event_loop, || clients.iter().all(|client| client.handle().is_some()));
    });
}

// --- Both on one loop ----------------------------------------------------------------------------

#[test]
fn clients_and_their_server_share_one_loop() {
    with_loop(|event_loop| {
        let server = echo_server(event_loop, loopback());
        let journal = Journal::new();
        let clients: Vec<_> = (0..50)
            .map(|_| {
                let writing = journal.clone();
                TcpClient::connect(event_loop, server.local_addr().unwrap())
                    .serve(move |_| {
                        writing.script().on_open(sends_hello).on_message(|conn, input| {
                            if input.len() == 5 {
                                input.clear();
                                conn.close();
                            }
                        })
                    })
                    .unwrap()
            })
            .collect();
        net::turn_until(event_loop, || {
            (0..50).all(|number| matches!(journal.of(number).last(), Some(HandlerCall::Close(_))))
        });
        journal.assert_opened_and_closed_once(50);
        net::turn_until(event_loop, || server.open_connections() == 0);
        drop(clients);
    });
}
