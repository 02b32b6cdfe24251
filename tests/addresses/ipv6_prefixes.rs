//! IPv6 clients are grouped by the prefix of their address, for the limit of connections per
//! address and for the choice of the loop.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread;

use crate::support::alone::alone_after;
use crate::support::net::{self, Host};
use crate::support::{LIMIT, panic_of, with_loop, with_watchdog};
use reveille::TcpServer;
use reveille::net::{LoadBalancing, TcpServerBuilder};
use socket2::{Domain, Socket, Type};

/// A script that enters a network namespace with addresses of two networks. The kernel adds the
/// routes later than the addresses, so the script waits for the routes.
const TWO_NETWORKS: &str = r#"
    exec unshare -rn sh -ec '
        ip link set lo up
        for address in 2001:db8:0:1::1 2001:db8:0:1::2 2001:db8:0:1:ffff::3 2001:db8:0:2::1; do
            ip address add $address/128 dev lo nodad
            tries=0
            until ip -6 route show table local | grep -q "local $address "; do
                tries=$((tries + 1))
                test $tries -lt 1000
                sleep 0.01
            done
        done
        exec "$@"' sh "$@""#;

fn connect_from(local: &str, to: SocketAddr) -> TcpStream {
    let local = SocketAddr::new(local.parse().unwrap(), 0);
    let socket = Socket::new(Domain::for_address(local), Type::STREAM, None).unwrap();
    socket.bind(&local.into()).unwrap();
    let to = if local.is_ipv4() { SocketAddr::new("127.0.0.1".parse().unwrap(), to.port()) } else { to };
    socket.connect_timeout(&to.into(), net::LIMIT).unwrap();
    let client = TcpStream::from(socket);
    client.set_read_timeout(Some(net::LIMIT)).unwrap();
    client
}

fn host(
    settings: impl for<'a> FnOnce(TcpServerBuilder<'a>) -> TcpServerBuilder<'a> + Send + 'static,
) -> Host {
    Host::new(move |event_loop| {
        let options = reveille::net::SocketOptions::new().dual_stack();
        let builder = TcpServer::bind(event_loop, "[::]:0")?.socket_options(options);
        settings(builder).serve_fn(|conn, input| conn.send(input.take_all()))
    })
}

#[track_caller]
fn assert_rejected(mut client: TcpStream) {
    match client.read(&mut [0; 1]) {
        Ok(read) => assert_eq!(read, 0, "the connection was accepted"),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
    }
}

fn to(host: &Host) -> SocketAddr {
    SocketAddr::new("::1".parse().unwrap(), host.address().port())
}

#[test]
fn clients_of_one_network_count_as_one_address() {
    alone_after(TWO_NETWORKS, || {
        with_watchdog(LIMIT, || {
            let host = host(|builder| builder.max_per_address(2));
            let mut clients = Vec::new();
            for local in ["2001:db8:0:1::1", "2001:db8:0:1::2", "2001:db8:0:2::1", "127.0.0.2", "127.0.0.3"] {
                clients.push(connect_from(local, to(&host)));
                net::assert_echoes(clients.last_mut().unwrap());
            }
            assert_rejected(connect_from("2001:db8:0:1:ffff::3", to(&host)));
            // IPv4-mapped addresses share their first 64 bits, but count separately.
            for local in ["127.0.0.2", "127.0.0.3"] {
                clients.push(connect_from(local, to(&host)));
                net::assert_echoes(clients.last_mut().unwrap());
                assert_rejected(connect_from(local, to(&host)));
            }
        });
    });
}

#[test]
fn the_length_of_the_prefix_is_configurable() {
    alone_after(TWO_NETWORKS, || {
        with_watchdog(LIMIT, || {
            let whole = host(|builder| builder.max_per_address(1).ipv6_prefix(128));
            let mut clients: Vec<_> = ["2001:db8:0:1::1", "2001:db8:0:1::2", "2001:db8:0:2::1"]
                .iter()
                .map(|local| connect_from(local, to(&whole)))
                .collect();
            clients.iter_mut().for_each(net::assert_echoes);
            let short = host(|builder| builder.max_per_address(1).ipv6_prefix(48));
            let mut client = connect_from("2001:db8:0:1::1", to(&short));
            net::assert_echoes(&mut client);
            assert_rejected(connect_from("2001:db8:0:2::1", to(&short)));
        });
    });
}

#[test]
fn one_loop_serves_all_clients_of_a_network() {
    alone_after(TWO_NETWORKS, || {
        with_watchdog(LIMIT, || {
            // If the addresses were distributed independently over eight loops, all three would be
            // on one loop in one of 64 rounds.
            for _ in 0..5 {
                let (sender, threads) = mpsc::channel();
                let host = Host::new(move |event_loop| {
                    TcpServer::bind(event_loop, "[::]:0")?
                        .threads(8)
                        .load_balancing(LoadBalancing::PeerAddress)
                        .serve_fn(move |conn, input| {
                            sender.send(thread::current().id()).unwrap();
                            conn.send(input.take_all())
                        })
                });
                let used: BTreeSet<String> = ["2001:db8:0:1::1", "2001:db8:0:1::2", "2001:db8:0:1:ffff::3"]
                    .iter()
                    .map(|local| {
                        net::assert_echoes(&mut connect_from(local, to(&host)));
                        format!("{:?}", threads.recv_timeout(net::LIMIT).unwrap())
                    })
                    .collect();
                assert_eq!(used.len(), 1, "several loops serve one network: {used:?}");
            }
        });
    });
}

#[test]
fn an_invalid_prefix_length_is_rejected() {
    with_loop(|event_loop| {
        for bits in [0, 129] {
            let message = panic_of(|| TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().ipv6_prefix(bits));
            assert!(message.contains("1 to 128"), "{message}");
        }
    });
}
