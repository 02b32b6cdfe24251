//! UDP sockets that the program has.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};

use crate::support::net;
use crate::support::udp::{HandlerCall, Script, address, datagram, plain, plain_at, receive};
use crate::support::{Recorder, turn, with_loop};
use reveille::net::UdpSocketBuilder;
use reveille::{EventLoop, UdpSocket};
use rustix::fs::OFlags;
use rustix::net::sockopt;

fn builder(event_loop: &EventLoop, socket: std::net::UdpSocket) -> UdpSocketBuilder<'_> {
    UdpSocket::from_socket(event_loop, socket).expect("a UDP socket")
}

#[test]
fn an_adopted_socket_delivers_earlier_datagrams_and_replies() {
    with_loop(|event_loop| {
        let (socket, other) = (plain(), plain());
        let duplicate = socket.try_clone().unwrap();
        other.send_to(b"early", address(&socket)).unwrap();
        let calls = Recorder::new();
        let script = Script::new(&calls)
            .on_datagram(|socket, datagram, from| Ok(socket.send_to(datagram, from).map(drop)?));
        let adopted = builder(event_loop, socket).serve(script).unwrap();
        assert_eq!(adopted.local_addr().unwrap(), address(&duplicate));
        assert!(adopted.peer_addr().is_err());
        assert!(rustix::fs::fcntl_getfl(&duplicate).unwrap().contains(OFlags::NONBLOCK));
        net::turn_until(event_loop, || calls.len() == 1);
        assert_eq!(receive(&other), b"early");
        assert_eq!(calls.take(), [datagram("early")]);
        adopted.close();
        turn(event_loop);
        assert_eq!(calls.take(), [HandlerCall::Close("closed by this end".to_owned())]);
    });
}

#[test]
fn a_connected_socket_keeps_its_peer() {
    with_loop(|event_loop| {
        let (socket, other) = (plain(), plain());
        socket.connect(address(&other)).unwrap();
        let adopted = builder(event_loop, socket).serve_fn(|_, _, _| ()).unwrap();
        assert_eq!(adopted.peer_addr().unwrap(), address(&other));
        adopted.send("hello").unwrap();
        assert_eq!(receive(&other), b"hello");
    });
}

#[test]
fn options_of_the_builder_apply_to_an_adopted_socket() {
    with_loop(|event_loop| {
        let (socket, other) = (plain(), plain());
        let duplicate = socket.try_clone().unwrap();
        let adopted = builder(event_loop, socket).ttl(7).broadcast().connect(address(&other));
        let adopted = adopted.serve_fn(|_, _, _| ()).unwrap();
        assert_eq!(duplicate.ttl().unwrap(), 7);
        assert!(sockopt::socket_broadcast(&duplicate).unwrap());
        assert_eq!(adopted.peer_addr().unwrap(), address(&other));
        assert_eq!(duplicate.peer_addr().unwrap(), address(&other));
    });
}

#[test]
fn options_that_precede_a_bind_are_errors() {
    with_loop(|event_loop| {
        let set: [fn(UdpSocketBuilder<'_>) -> UdpSocketBuilder<'_>; 4] = [
            |builder| builder.reuse_address(),
            |builder| builder.reuse_port(),
            |builder| builder.only_v6(),
            |builder| builder.dual_stack(),
        ];
        for set in set {
            let socket = plain();
            let duplicate = socket.try_clone().unwrap();
            let error = set(builder(event_loop, socket)).serve_fn(|_, _, _| ()).expect_err("it is bound");
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().starts_with("cannot adopt a UDP socket: it is bound"), "{error}");
            assert!(!rustix::fs::fcntl_getfl(&duplicate).unwrap().contains(OFlags::NONBLOCK));
        }
    });
}

#[test]
fn an_adopted_socket_at_any_address_reports_destinations() {
    with_loop(|event_loop| {
        let (socket, other) = (plain_at("0.0.0.0:0"), plain());
        let to = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 5), address(&socket).port()));
        let destinations = Recorder::new();
        let record = destinations.clone();
        let adopted = builder(event_loop, socket).serve_fn(move |socket, datagram, from| {
            record.record(socket.destination().expect("a delivery").ip);
            socket.send_to(datagram, from)
        });
        other.send_to(b"hello", to).unwrap();
        net::turn_until(event_loop, || destinations.len() == 1);
        assert_eq!(destinations.take(), [to.ip()]);
        // The reply comes from there.
        assert_eq!(other.recv_from(&mut [0; 10]).unwrap().1, to);
        drop(adopted);
    });
}
