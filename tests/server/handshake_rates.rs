//! The maximum of handshakes of an address in a period.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::support::knock::{FAILURES, Knock, complete, fail, read_greeting};
use crate::support::net::{self, Host};
use crate::support::{LIMIT, panic_of, with_clock, with_loop, with_watchdog};
use reveille::net::{LoadBalancing, TcpServerBuilder};
use reveille::{EventLoop, TcpServer};
use rustix::event::PollFlags;
use socket2::{Domain, Socket, Type};

fn connect_from(local: &str, address: SocketAddr) -> TcpStream {
    let local: SocketAddr = format!("{local}:0").parse().unwrap();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&local.into()).unwrap();
    socket.connect_timeout(&address.into(), net::LIMIT).unwrap();
    let client = TcpStream::from(socket);
    client.set_read_timeout(Some(net::LIMIT)).unwrap();
    client
}

/// Connects, and returns the connection if it is not rejected.
#[track_caller]
fn attempt(event_loop: &EventLoop, server: &TcpServer, local: &str) -> Option<TcpStream> {
    let before = server.counters();
    let peer = connect_from(local, server.local_addr().unwrap());
    net::turn_until(event_loop, || server.counters() != before);
    net::turn_until(event_loop, || net::poll_flags(&peer).contains(PollFlags::IN));
    (server.counters().accepted > before.accepted).then_some(peer)
}

#[test]
fn each_address_begins_handshakes_at_its_rate() {
    with_clock(|event_loop, clock| {
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().filter(Knock::default);
        let server = server.max_handshakes_per_address(4, Duration::from_secs(1));
        let server = server.serve_fn(|conn, input| conn.send(input.take_all())).unwrap();
        let count = |local, attempts| {
            let peers: Vec<_> = (0..attempts).filter_map(|_| attempt(event_loop, &server, local)).collect();
            peers.len()
        };
        assert_eq!(count("127.0.0.2", 10), 4);
        assert_eq!(count("127.0.0.3", 5), 4, "another address has tokens of its own");
        // The end of a handshake gives no token back.
        net::turn_until(event_loop, || server.open_connections() == 0);
        assert_eq!(count("127.0.0.2", 3), 0);
        for _ in 0..5 {
            clock.advance(Duration::from_millis(250));
            assert_eq!(count("127.0.0.2", 3), 1);
        }
        clock.advance(Duration::from_secs(100));
        assert_eq!(count("127.0.0.2", 6), 4);
        let counters = server.counters();
        assert_eq!(counters.rejected_by_handshake_rate, 6 + 1 + 3 + 5 * 2 + 2);
        assert_eq!((counters.accepted, counters.rejected_by_address), (4 + 4 + 5 + 4, 0));
    });
}

#[test]
fn the_rate_of_an_address_applies_to_all_loops_together() {
    with_watchdog(LIMIT, || {
        for is_listener_per_loop in [false, true] {
            let host = Host::new(move |event_loop| {
                let builder = TcpServer::bind(event_loop, "127.0.0.1:0")?.threads(3);
                let balancing = match is_listener_per_loop {
                    true => LoadBalancing::ListenerPerLoop,
                    false => LoadBalancing::RoundRobin,
                };
                builder
                    .load_balancing(balancing)
                    .filter(Knock::default)
                    .max_handshakes(2)
                    .max_handshakes_per_address(5, Duration::from_secs(3600))
                    .serve_fn(|conn, input| conn.send(input.take_all()))
            });
            let handle = host.request(|_, server| server.as_ref().expect("a server").handle());
            let ends = FAILURES.into_iter().map(Some).chain([None, None]);
            for failure in ends {
                let mut peer = connect_from("127.0.0.2", host.address());
                read_greeting(&mut peer);
                match failure {
                    Some(failure) => fail(peer, failure),
                    None => complete(&mut peer),
                }
            }
            for _ in 0..20 {
                net::wait_for_end(&mut connect_from("127.0.0.2", host.address()));
            }
            let mut other = connect_from("127.0.0.3", host.address());
            read_greeting(&mut other);
            complete(&mut other);
            let counters = handle.counters();
            assert_eq!((counters.accepted, counters.rejected_by_handshake_rate), (6, 20));
            net::until(|| handle.counters().failed_handshakes == 3);
        }
    });
}

#[test]
fn a_rejection_by_rate_takes_no_permit() {
    with_watchdog(LIMIT, || {
        let settings = |builder: TcpServerBuilder<'_>| {
            builder
                .filter(Knock::default)
                .max_connections(2)
                .max_handshakes(1)
                .max_per_address(2)
                .max_handshakes_per_address(1, Duration::from_secs(3600))
                .serve_fn(|conn, input| conn.send(input.take_all()))
        };
        let host = Host::new(move |event_loop| settings(TcpServer::bind(event_loop, "127.0.0.1:0")?));
        let mut first = connect_from("127.0.0.2", host.address());
        read_greeting(&mut first);
        complete(&mut first);
        for _ in 0..5 {
            net::wait_for_end(&mut connect_from("127.0.0.2", host.address()));
        }
        let mut second = connect_from("127.0.0.3", host.address());
        read_greeting(&mut second);
        complete(&mut second);
        assert_eq!(host.open_connections(), 2);
    });
}

#[test]
fn a_rate_needs_a_time_above_zero() {
    with_loop(|event_loop| {
        let builder = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap();
        let message = panic_of(|| drop(builder.max_handshakes_per_address(1, Duration::ZERO)));
        assert!(message.contains("must be more than zero"), "{message}");
    });
}
