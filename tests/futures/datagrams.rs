//! Datagrams as futures.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Waker};

use crate::support::futures::{block_on, run};
use crate::support::udp::{address, plain, receive};
use crate::support::{Count, LIMIT, turn, with_loop, with_watchdog};
use reveille::net::AsyncUdpSocket;
use reveille::{EventLoop, UdpSocket};

fn open(event_loop: &EventLoop, at: &str) -> AsyncUdpSocket {
    UdpSocket::bind(event_loop, at).unwrap().open_async().unwrap()
}

#[test]
fn datagrams_are_received_and_sent_whole() {
    with_loop(|event_loop| {
        let socket = open(event_loop, "127.0.0.1:0");
        let (local, peer) = (socket.local_addr(), plain());
        let from = address(&peer);
        let echoed = event_loop.spawn_local(async move {
            let mut buffer = [0; 1000];
            for _ in 0..3 {
                let (n, sender) = socket.recv_from(&mut buffer).await.unwrap();
                assert_eq!(sender, from);
                socket.send_to(&buffer[..n], sender).await.unwrap();
            }
        });
        for text in ["a", "", "longer"] {
            peer.send_to(text.as_bytes(), local).unwrap();
        }
        run(event_loop, echoed).unwrap();
        assert_eq!([receive(&peer), receive(&peer), receive(&peer)], [&b"a"[..], b"", b"longer"]);
    });
}

#[test]
fn a_dropped_receive_loses_no_datagram() {
    with_loop(|event_loop| {
        let socket = open(event_loop, "127.0.0.1:0");
        let peer = plain();
        let mut buffer = [0; 100];
        {
            let mut receiving = pin!(socket.recv_from(&mut buffer));
            let mut context = Context::from_waker(Waker::noop());
            assert!(receiving.as_mut().poll(&mut context).is_pending());
            peer.send_to(b"kept", socket.local_addr()).unwrap();
            (0..3).for_each(|_| turn(event_loop));
        }
        let (n, received) = run(event_loop, async move {
            let (n, _) = socket.recv_from(&mut buffer).await.unwrap();
            (n, buffer)
        });
        assert_eq!(&received[..n], b"kept");
    });
}

#[test]
fn each_datagram_goes_to_one_of_several_receivers() {
    with_loop(|event_loop| {
        let socket = Rc::new(open(event_loop, "127.0.0.1:0"));
        let (peer, received) = (plain(), Count::default());
        for _ in 0..4 {
            let (socket, received) = (Rc::clone(&socket), received.clone());
            event_loop.spawn_local(async move {
                socket.recv_from(&mut [0; 10]).await.unwrap();
                received.add();
            });
        }
        for number in 1..=4 {
            peer.send_to(b"x", socket.local_addr()).unwrap();
            while received.get() < number {
                event_loop.run_once(LIMIT).unwrap();
            }
            turn(event_loop);
            assert_eq!(received.get(), number);
        }
    });
}

#[test]
fn a_datagram_longer_than_the_buffer_is_an_error() {
    with_loop(|event_loop| {
        let socket = open(event_loop, "127.0.0.1:0");
        let peer = plain();
        peer.send_to(b"too long", socket.local_addr()).unwrap();
        peer.send_to(b"ok", socket.local_addr()).unwrap();
        run(event_loop, async move {
            let mut buffer = [0; 4];
            let error = socket.recv_from(&mut buffer).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData);
            assert_eq!(socket.recv_from(&mut buffer).await.unwrap().0, 2);
            let to: SocketAddr = socket.local_addr();
            let error = socket.send_to(vec![0; 70_000], to).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        });
    });
}

#[test]
fn a_reply_of_a_socket_at_all_addresses_has_the_right_source() {
    with_loop(|event_loop| {
        let socket = open(event_loop, "0.0.0.0:0");
        let port = socket.local_addr().port();
        let peer = plain();
        peer.send_to(b"x", ("127.0.0.2", port)).unwrap();
        run(event_loop, async move {
            let mut buffer = [0; 10];
            let (n, from, destination) = socket.recv_with_destination(&mut buffer).await.unwrap();
            let source = destination.source().unwrap();
            socket.send_from(source, &buffer[..n], from).await.unwrap();
        });
        let (_, from) = peer.recv_from(&mut [0; 10]).unwrap();
        assert_eq!(from, SocketAddr::from(([127, 0, 0, 2], port)));
    });
}

#[test]
fn a_connected_socket_reports_an_unreachable_port() {
    with_loop(|event_loop| {
        let gone = address(&plain());
        let socket = UdpSocket::connect(event_loop, gone).unwrap().open_async().unwrap();
        assert_eq!(socket.peer_addr(), Some(gone));
        run(event_loop, async move {
            socket.send(b"x").await.unwrap();
            let error = socket.recv_from(&mut [0; 10]).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        });
    });
}

#[test]
fn the_end_of_the_loop_ends_a_receive() {
    with_watchdog(LIMIT, || {
        let event_loop = EventLoop::new().unwrap();
        let socket = open(&event_loop, "127.0.0.1:0");
        drop(event_loop);
        assert_eq!(block_on(socket.recv_from(&mut [0; 10])).unwrap_err().kind(), ErrorKind::BrokenPipe);
    });
}
