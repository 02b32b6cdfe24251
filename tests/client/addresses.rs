//! The two addresses of a client's connection: its local address and its peer address.

use std::cell::Cell;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::rc::Rc;

use crate::support::alone::{alone_after, skipped};
use crate::support::client::{Reported, Reporting, Reports, backoff, echo_server};
use crate::support::net::{self, Journal, message};
use crate::support::unix::abstract_name;
use crate::support::{Recorder, with_loop};
use reveille::TcpClient;
use reveille::net::{Address, UnixAddress};

/// A network namespace whose clients have ten ports.
const TEN_PORTS: &str = r#"
    exec unshare -rn sh -ec '
        ip link set lo up
        echo "40000 40009" > /proc/sys/net/ipv4/ip_local_port_range
        exec "$@"' sh "$@""#;

/// The kernel shares a local port between connections to different addresses.
#[test]
fn clients_to_different_servers_share_their_local_ports() {
    alone_after(TEN_PORTS, || {
        with_loop(|event_loop| {
            for host in ["127.0.0.1", "[::1]"] {
                let reports = Reports::new();
                let mut clients = Vec::new();
                let servers = [5001, 5002].map(|port| {
                    let address = format!("{host}:{port}").parse().unwrap();
                    echo_server(event_loop, address)
                });
                for server in &servers {
                    for _ in 0..8 {
                        let client = TcpClient::connect(event_loop, server.local_addr().unwrap())
                            .local_addr(format!("{host}:0").parse().unwrap())
                            .reporting(&reports);
                        clients.push(client.serve_fn(|_, _| ()).unwrap());
                    }
                }
                net::turn_until(event_loop, || reports.len() >= 16);
                let failed =
                    reports.take().into_iter().find(|report| !matches!(report, Reported::Connected(_)));
                assert_eq!(failed, None, "{host}: ten ports are enough for eight connections to each");
            }
        });
    });
}

#[test]
fn a_client_connects_from_its_local_address() {
    with_loop(|event_loop| {
        let server = echo_server(event_loop, "127.0.0.1:0".parse().unwrap());
        let local = Recorder::new();
        let recorded = local.clone();
        let _client = TcpClient::connect(event_loop, server.local_addr().unwrap())
            .local_addr("127.0.0.77:0".parse().unwrap())
            .serve(move |conn| {
                recorded.record(conn.local_addr().unwrap());
                Journal::new().script()
            })
            .unwrap();
        net::turn_until(event_loop, || local.len() == 1);
        let local = local.take().remove(0);
        assert_eq!(local.ip(), Ipv4Addr::new(127, 0, 0, 77));
        assert_ne!(local.port(), 0);
    });
}

/// Connects to `target`, which must accept.
#[track_caller]
fn assert_peer(target: SocketAddr, expected: SocketAddr) {
    with_loop(move |event_loop| {
        let (reports, peers) = (Reports::new(), Recorder::new());
        let recorded = peers.clone();
        let _client = TcpClient::connect(event_loop, target)
            .reporting(&reports)
            .serve(move |conn| {
                recorded.record((conn.peer_address().clone(), conn.peer_addr().ok()));
                Journal::new().script()
            })
            .unwrap();
        net::turn_until(event_loop, || peers.len() == 1);
        assert_eq!(peers.take(), [(Address::Inet(expected), Some(expected))]);
        assert_eq!(
            reports.take(),
            [Reported::Connected(target)],
            "an attempt has the address that was tried"
        );
    });
}

#[test]
fn the_peer_is_the_address_that_the_kernel_chose() {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    assert_peer((Ipv4Addr::UNSPECIFIED, port).into(), (Ipv4Addr::LOCALHOST, port).into());
    match TcpListener::bind("[::1]:0") {
        Ok(listener) => {
            let port = listener.local_addr().unwrap().port();
            assert_peer((Ipv6Addr::UNSPECIFIED, port).into(), (Ipv6Addr::LOCALHOST, port).into());
        }
        Err(error) => skipped(error),
    }
}

#[test]
fn each_session_of_a_client_has_its_peer() {
    with_loop(|event_loop| {
        let server = echo_server(event_loop, "0.0.0.0:0".parse().unwrap());
        let port = server.local_addr().unwrap().port();
        let peers = Recorder::new();
        let recorded = peers.clone();
        let _client = TcpClient::connect(event_loop, (Ipv4Addr::UNSPECIFIED, port))
            .reconnect()
            .retry(backoff())
            .serve(move |conn| {
                recorded.record(conn.peer_addr().ok());
                conn.close();
                Journal::new().script()
            })
            .unwrap();
        net::turn_until(event_loop, || peers.len() >= 2);
        assert_eq!(peers.take()[..2], [Some((Ipv4Addr::LOCALHOST, port).into()); 2]);
    });
}

#[test]
fn the_peer_of_a_unix_client_is_its_target() {
    with_loop(|event_loop| {
        let name = abstract_name();
        let _server = crate::support::unix::echo_server(event_loop, name.clone());
        let peers = Recorder::new();
        let recorded = peers.clone();
        let _client = TcpClient::connect(event_loop, name.clone())
            .serve(move |conn| {
                recorded.record(conn.peer_address().clone());
                Journal::new().script()
            })
            .unwrap();
        net::turn_until(event_loop, || peers.len() == 1);
        assert_eq!(peers.take(), [Address::Unix(name)]);
    });
}

#[test]
fn an_unnamed_unix_server_gets_a_name_from_the_kernel() {
    with_loop(|event_loop| {
        let servers = [UnixAddress::unnamed(), UnixAddress::unnamed()]
            .map(|unnamed| crate::support::unix::echo_server(event_loop, unnamed));
        let names = servers.each_ref().map(|server| server.local_address().clone());
        assert_ne!(names[0], names[1]);
        for name in &names {
            let chosen = name.as_unix().and_then(UnixAddress::as_abstract_name).expect("an abstract name");
            assert!(!chosen.is_empty());
            let journal = Journal::new();
            let script = journal.script().on_open(|conn| Ok(conn.send("hello")?)).on_message(|_, input| {
                input.take_all();
            });
            let script = Cell::new(Some(script));
            let _client = TcpClient::connect(event_loop, name)
                .serve(move |_| script.take().expect("one session"))
                .unwrap();
            net::turn_until(event_loop, || journal.of(0).contains(&message("hello")));
        }
    });
}

#[test]
fn no_client_can_connect_to_an_unnamed_address() {
    with_loop(|event_loop| {
        let failure = Rc::new(Cell::new(None));
        let reported = Rc::clone(&failure);
        let _client = TcpClient::connect(event_loop, UnixAddress::unnamed())
            .on_failure(move |_, error| reported.set(Some(error.kind())))
            .serve_fn(|_, _| ())
            .unwrap();
        net::turn_until(event_loop, || failure.get().is_some());
        assert_eq!(failure.get(), Some(std::io::ErrorKind::InvalidInput));
    });
}
