//! The local addresses that datagrams are sent to, and the sources of replies.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket as Plain};

use crate::support::alone::{alone_after, skipped};
use crate::support::udp::{plain, plain_at, receive};
use crate::support::{Recorder, net, with_loop};
use reveille::net::{DatagramError, UdpDestination, UdpSource};
use reveille::{EventLoop, UdpSocket};
use rustix::net::netdevice::name_to_index;

fn loopback_interface() -> u32 {
    name_to_index(plain(), "lo").expect("a loopback interface")
}

/// A script for a network namespace whose loopback interface has these IPv6 addresses besides
/// `::1`. The kernel adds the routes to them later than the addresses, so the script waits for the
/// routes.
fn with_addresses(addresses: &str) -> String {
    let script = r#"
        exec unshare -rn sh -ec '
            ip link set lo up
            for address in ADDRESSES; do ip -6 addr add $address dev lo nodad; done
            for address in ::1 ADDRESSES; do
                tries=0
                until ip -6 route show table local | grep -q "local ${address%/*} "; do
                    tries=$((tries + 1))
                    test $tries -lt 1000
                    sleep 0.01
                done
            done
            exec "$@"' sh "$@""#;
    script.replace("ADDRESSES", addresses)
}

/// Returns a socket that echoes each datagram, and a recorder of the destinations that it reports.
fn echo(event_loop: &EventLoop, at: &str) -> (UdpSocket, Recorder<UdpDestination>) {
    let destinations = Recorder::new();
    let recorded = destinations.clone();
    let socket = UdpSocket::bind(event_loop, at)
        .unwrap()
        .serve_fn(move |socket, datagram, from| {
            recorded.record(socket.destination().expect("the destination of a datagram"));
            socket.send_to(datagram, from)
        })
        .unwrap();
    assert_eq!(socket.with(|socket| socket.destination()), Some(None), "none is being delivered");
    (socket, destinations)
}

/// Sends to `to`. Returns the destination that the server reports and the source of its reply.
#[track_caller]
fn exchange(
    event_loop: &EventLoop,
    destinations: &Recorder<UdpDestination>,
    client: &Plain,
    to: SocketAddr,
) -> (UdpDestination, SocketAddr) {
    client.send_to(b"from which address?", to).unwrap();
    net::turn_until(event_loop, || destinations.len() == 1);
    let mut reply = [0; 64];
    let (bytes, from) = client.recv_from(&mut reply).expect("a reply");
    assert_eq!(&reply[..bytes], b"from which address?");
    (destinations.take().remove(0), from)
}

#[test]
fn a_reply_comes_from_its_destination_address() {
    with_loop(|event_loop| {
        for at in ["0.0.0.0:0", "[::ffff:0.0.0.0]:0", "[::]:0"] {
            let dual = UdpSocket::bind(event_loop, at).unwrap().dual_stack().serve_fn(|_, _, _| ());
            if let Err(error) = dual {
                skipped(error);
                continue;
            }
            drop(dual);
            let (server, destinations) = echo(event_loop, at);
            let client = plain();
            for last in [1, 2, 77] {
                let address = Ipv4Addr::new(127, 0, 0, last);
                let to = SocketAddr::from((address, server.local_addr().unwrap().port()));
                let (destination, from) = exchange(event_loop, &destinations, &client, to);
                assert_eq!(from, to, "{at}");
                assert_eq!(destination.ip, address, "{at}");
                assert_eq!(destination.interface, loopback_interface());
                assert_eq!(destination.source(), Some(address.into()));
            }
        }
    });
}

#[test]
fn a_reply_over_ipv6_comes_from_its_destination_address() {
    alone_after(&with_addresses("2001:db8::1/128 2001:db8::2/128"), || {
        with_loop(|event_loop| {
            let (server, destinations) = echo(event_loop, "[::]:0");
            let client = plain_at("[::1]:0");
            for address in ["::1", "2001:db8::1", "2001:db8::2"] {
                let address: Ipv6Addr = address.parse().unwrap();
                let to = SocketAddr::from((address, server.local_addr().unwrap().port()));
                let (destination, from) = exchange(event_loop, &destinations, &client, to);
                assert_eq!(from, to);
                assert_eq!((destination.ip, destination.interface), (address.into(), loopback_interface()));
            }
        });
    });
}

#[test]
fn a_link_local_address_replies_through_its_interface() {
    alone_after(&with_addresses("fe80::1/64 fe80::2/64"), || {
        with_loop(|event_loop| {
            let (server, destinations) = echo(event_loop, "[::]:0");
            let lo = loopback_interface();
            let port = server.local_addr().unwrap().port();
            // The last sender has no zone that could name the interface.
            for (at, address) in [("fe80::2", "fe80::1"), ("fe80::2", "fe80::2"), ("::1", "fe80::1")] {
                let scope = if at == "::1" { 0 } else { lo };
                let client = plain_at(&format!("[{at}%{scope}]:0"));
                let to = SocketAddrV6::new(address.parse().unwrap(), port, 0, lo).into();
                let (destination, from) = exchange(event_loop, &destinations, &client, to);
                assert_eq!(from, to, "to {at}");
                assert_eq!(destination.source(), Some(UdpSource::from(to.ip()).through(lo)));
            }
        });
    });
}

/// Checks that the source of the reply is the address of one host, and not `to`.
#[track_caller]
fn assert_is_no_source(destination: UdpDestination, from: SocketAddr, to: SocketAddr) {
    assert_eq!(destination.ip, to.ip());
    assert_eq!(destination.source(), None);
    assert_eq!(from.port(), to.port());
    assert!(from.ip().is_loopback(), "{from}");
    assert_ne!(from.ip(), to.ip());
}

#[test]
fn a_broadcast_address_is_reported_and_is_no_source() {
    with_loop(|event_loop| {
        for at in ["0.0.0.0:0", "[::]:0"] {
            let (server, destinations) = echo(event_loop, at);
            let client = plain();
            client.set_broadcast(true).unwrap();
            let to =
                SocketAddr::from((Ipv4Addr::new(127, 255, 255, 255), server.local_addr().unwrap().port()));
            let (destination, from) = exchange(event_loop, &destinations, &client, to);
            assert_is_no_source(destination, from, to);
        }
    });
}

#[test]
fn a_group_is_reported_and_is_no_source() {
    with_loop(|event_loop| {
        let group = Ipv4Addr::new(239, 255, 77, 10);
        let (server, destinations) = echo(event_loop, "0.0.0.0:0");
        server.with(|socket| socket.join_v4(group, Ipv4Addr::LOCALHOST)).unwrap().unwrap();
        let client = plain();
        socket2::SockRef::from(&client).set_multicast_if_v4(&Ipv4Addr::LOCALHOST).unwrap();
        let to = SocketAddr::from((group, server.local_addr().unwrap().port()));
        let (destination, from) = exchange(event_loop, &destinations, &client, to);
        assert_is_no_source(destination, from, to);
        assert_eq!(destination.interface, loopback_interface());
    });
}

#[test]
fn a_socket_at_one_address_reports_that_address() {
    with_loop(|event_loop| {
        let (server, destinations) = echo(event_loop, "127.0.0.3:0");
        let (destination, from) = exchange(event_loop, &destinations, &plain(), server.local_addr().unwrap());
        assert_eq!(from, server.local_addr().unwrap());
        assert_eq!((destination.ip, destination.interface), (from.ip(), 0));
        assert_eq!(destination.source(), None);
    });
}

#[test]
fn a_forwarded_datagram_has_the_kernels_source() {
    with_loop(|event_loop| {
        let other = plain();
        let to_other = other.local_addr().unwrap();
        let server = UdpSocket::bind(event_loop, "0.0.0.0:0")
            .unwrap()
            .serve_fn(move |socket, datagram, _| socket.send_to(datagram, to_other))
            .unwrap();
        plain().send_to(b"forward", ("127.0.0.2", server.local_addr().unwrap().port())).unwrap();
        net::turn_until(event_loop, || {
            let mut bytes = [0; 16];
            other.set_nonblocking(true).unwrap();
            match other.recv_from(&mut bytes) {
                Ok((_, from)) => {
                    assert_eq!(from.ip(), Ipv4Addr::LOCALHOST);
                    true
                }
                Err(_) => false,
            }
        });
    });
}

#[test]
fn sockets_and_handles_send_from_a_given_address() {
    with_loop(|event_loop| {
        for (at, via) in [("0.0.0.0:0", "127.0.0.4"), ("127.0.0.1:0", "127.0.0.5"), ("[::]:0", "127.0.0.6")] {
            let socket = UdpSocket::bind(event_loop, at).unwrap().serve_fn(|_, _, _| ()).unwrap();
            let via: IpAddr = via.parse().unwrap();
            let (client, mut bytes) = (plain(), [0; 16]);
            let to = match (at.starts_with('['), client.local_addr().unwrap()) {
                (true, SocketAddr::V4(to)) => (to.ip().to_ipv6_mapped(), to.port()).into(),
                (_, to) => to,
            };
            socket.send_from(via, "at once", to).unwrap();
            socket.handle().send_from(via, "through a handle", to).unwrap();
            event_loop.run_once(net::LIMIT).unwrap();
            for _ in 0..2 {
                assert_eq!(
                    client.recv_from(&mut bytes).unwrap().1,
                    (via, socket.local_addr().unwrap().port()).into()
                );
            }
        }
    });
}

#[test]
fn a_foreign_source_address_is_refused() {
    with_loop(|event_loop| {
        let socket = UdpSocket::bind(event_loop, "0.0.0.0:0").unwrap().serve_fn(|_, _, _| ()).unwrap();
        let client = plain();
        let to = client.local_addr().unwrap();
        let foreign = socket.send_from(Ipv4Addr::new(192, 0, 2, 1), "x", to);
        assert!(matches!(foreign, Err(DatagramError::Refused(_))), "{foreign:?}");
        let other_family = socket.send_from(Ipv6Addr::LOCALHOST, "x", to);
        let Err(DatagramError::Refused(error)) = other_family else { panic!("{other_family:?}") };
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        socket.send_to("y", to).unwrap();
        assert_eq!(receive(&client), b"y", "a refused datagram was sent");
    });
}
