//! UDP sockets on a loop: datagrams arrive whole and in order, errors are reported, and options
//! apply.

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as Plain};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::thread;

use crate::support::net::{self, pattern};
use crate::support::udp::{
    HandlerCall, Script, address, datagram, plain, plain_at, receive, recording, wait_for_calls,
};
use crate::support::{LIMIT, Recorder, turn, with_loop, with_watchdog};
use reveille::io::{Channel, Interest};
use reveille::net::{DatagramError, SendStatus, UdpRef, UdpSocketBuilder};
use reveille::{EventLoop, UdpSocket};

// --- Datagrams -----------------------------------------------------------------------------------

#[test]
fn many_datagrams_are_echoed_whole_and_in_order() {
    with_loop(|event_loop| {
        let echo = UdpSocket::bind(event_loop, "127.0.0.1:0")
            .unwrap()
            .serve_fn(|socket, datagram, from| socket.send_to(datagram, from))
            .unwrap();
        let (to, quit) = (echo.local_addr().unwrap(), event_loop.handle());
        let client = thread::spawn(move || {
            let socket = plain();
            for n in 0..500_usize {
                let burst: Vec<Vec<u8>> = (0..8).map(|k| pattern((n * 8 + k) % 1500)).collect();
                burst.iter().for_each(|bytes| assert_eq!(socket.send_to(bytes, to).unwrap(), bytes.len()));
                burst.iter().for_each(|bytes| assert_eq!(&receive(&socket), bytes));
            }
            quit.quit();
        });
        event_loop.run().unwrap();
        client.join().unwrap();
    });
}

#[test]
fn an_empty_datagram_is_delivered_and_sent() {
    with_loop(|event_loop| {
        let (socket, events) = recording(event_loop);
        let other = plain();
        for bytes in ["", "between", ""] {
            other.send_to(bytes.as_bytes(), socket.local_addr().unwrap()).unwrap();
        }
        assert_eq!(wait_for_calls(event_loop, &events, 3), [datagram(""), datagram("between"), datagram("")]);
        assert_eq!(socket.send_to("", address(&other)).unwrap(), SendStatus::Written);
        assert_eq!(receive(&other), b"");
    });
}

#[test]
fn the_longest_datagram_arrives_whole_with_a_small_buffer() {
    with_watchdog(LIMIT, || {
        let builder = EventLoop::builder().propagate_panics().input_buffer(1024);
        let event_loop = builder.build().unwrap();
        let (socket, events) = recording(&event_loop);
        let other = plain();
        let longest = pattern(65_507);
        for bytes in [&longest[..], b"short"] {
            other.send_to(bytes, socket.local_addr().unwrap()).unwrap();
        }
        assert_eq!(wait_for_calls(&event_loop, &events, 2), [datagram(&longest), datagram("short")]);
        assert_eq!(socket.send_to(&longest, address(&other)).unwrap(), SendStatus::Written);
        assert_eq!(receive(&other), longest);
    });
}

#[test]
fn an_oversized_datagram_is_refused_to_its_sender() {
    with_loop(|event_loop| {
        let (socket, events) = recording(event_loop);
        let to = address(&plain());
        for bytes in [65_508, 65_528, 100_000] {
            let refused = socket.send_to(vec![0; bytes], to);
            assert!(matches!(refused, Err(DatagramError::TooLong)), "{bytes}: {refused:?}");
            let refused = socket.handle().send_to(vec![0; bytes], to);
            assert!(matches!(refused, Err(DatagramError::TooLong)), "{bytes}: {refused:?}");
        }
        turn(event_loop);
        assert_eq!(events.take(), [], "further events were reported");
        assert!(socket.is_open());
    });
}

#[test]
fn a_flood_of_datagrams_does_not_starve_other_channels() {
    with_loop(|event_loop| {
        let received = Rc::new(Cell::new(0));
        let counting = Rc::clone(&received);
        let socket = UdpSocket::bind(event_loop, "127.0.0.1:0")
            .unwrap()
            .serve_fn(move |_, _, _| counting.set(counting.get() + 1))
            .unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"always readable").unwrap();
        // Each call of the channel, one a turn, sends more datagrams than a turn may receive.
        let (sender, to) = (plain(), socket.local_addr().unwrap());
        let (calls, sent) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let (called, sending) = (Rc::clone(&calls), Rc::clone(&sent));
        let _channel = Channel::new(event_loop, ours, Interest::READABLE, move |_| {
            called.set(called.get() + 1);
            for _ in 0..70.min(1000 - sending.get()) {
                sender.send_to(b"one of a thousand", to).unwrap();
                sending.set(sending.get() + 1);
            }
        })
        .unwrap();
        let mut turns = 0;
        while received.get() < 1000 {
            let before = received.get();
            turn(event_loop);
            turns += 1;
            assert!(received.get() - before <= 64, "{} in one turn", received.get() - before);
            assert_eq!(calls.get(), turns, "the other channel is called in every turn");
        }
        assert!((1000 / 64 + 1..=1000 / 64 + 3).contains(&turns), "{turns} turns for a thousand datagrams");
    });
}

#[test]
fn a_paused_socket_receives_datagrams_on_resume() {
    with_loop(|event_loop| {
        let events = Recorder::new();
        let pausing = Script::new(&events).on_datagram(|socket, _, _| {
            socket.pause_receiving();
            Ok(())
        });
        let socket = UdpSocket::bind(event_loop, "127.0.0.1:0").unwrap().serve(pausing).unwrap();
        let other = plain();
        for text in ["one", "two"] {
            other.send_to(text.as_bytes(), socket.local_addr().unwrap()).unwrap();
        }
        for text in ["one", "two"] {
            assert_eq!(wait_for_calls(event_loop, &events, 1), [datagram(text)]);
            turn(event_loop);
            assert_eq!(events.take(), [], "it is paused");
            socket.resume_receiving();
        }
        turn(event_loop);
        assert_eq!(events.take(), []);
    });
}

// --- Connected sockets ---------------------------------------------------------------------------

#[test]
fn a_connected_socket_receives_only_from_its_peer() {
    with_loop(|event_loop| {
        let (peer, stranger, events) = (plain(), plain(), Recorder::new());
        let builder = UdpSocket::connect(event_loop, address(&peer)).unwrap();
        let socket = builder.serve(Script::new(&events)).unwrap();
        assert_eq!(socket.peer_addr().unwrap(), address(&peer));
        assert_eq!(socket.send("question").unwrap(), SendStatus::Written);
        assert_eq!(receive(&peer), b"question");
        stranger.send_to(b"not for you", socket.local_addr().unwrap()).unwrap();
        peer.send_to(b"answer", socket.local_addr().unwrap()).unwrap();
        assert_eq!(wait_for_calls(event_loop, &events, 1), [datagram("answer")]);
    });
}

#[test]
fn a_refusing_port_is_reported_and_the_socket_survives() {
    with_loop(|event_loop| {
        // The port is in use, and its socket refuses datagrams from any source but its own peer.
        let (peer, elsewhere) = (plain(), plain());
        peer.connect(address(&elsewhere)).unwrap();
        let at = address(&peer);
        let events = Recorder::new();
        let socket = UdpSocket::connect(event_loop, at).unwrap().serve(Script::new(&events)).unwrap();
        // Each send finds the error of the one before it, and succeeds itself.
        for _ in 0..3 {
            assert_eq!(socket.send("is anybody there?").unwrap(), SendStatus::Written);
        }
        let refused = HandlerCall::Error(ErrorKind::ConnectionRefused, Some(at));
        let all = wait_for_calls(event_loop, &events, 2);
        assert_eq!(
            all,
            [refused.clone(), refused.clone()],
            "expected one report for the earlier sends, and one for the last"
        );
        socket.pause_receiving();
        socket.send("hello?").unwrap();
        assert_eq!(wait_for_calls(event_loop, &events, 1), [refused], "also while receiving is paused");
        socket.resume_receiving();
        peer.connect(socket.local_addr().unwrap()).unwrap();
        socket.send("now").unwrap();
        assert_eq!(receive(&peer), b"now");
        peer.send(b"here").unwrap();
        assert_eq!(wait_for_calls(event_loop, &events, 1), [datagram("here")]);
    });
}

#[test]
fn sending_without_a_destination_is_an_error_of_the_caller() {
    with_loop(|event_loop| {
        let (socket, events) = recording(event_loop);
        for result in [socket.send("whither").map(drop), socket.handle().send("whither")] {
            let Err(DatagramError::Refused(error)) = result else { panic!("{result:?}") };
            assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::DESTADDRREQ.raw_os_error()));
        }
        let unreachable = socket.send_to("elsewhere", "[::1]:9".parse().unwrap());
        assert!(matches!(unreachable, Err(DatagramError::Refused(_))), "{unreachable:?}");
        turn(event_loop);
        assert_eq!(events.take(), []);
    });
}

// --- Options -------------------------------------------------------------------------------------

#[test]
fn two_sockets_may_share_a_port_if_both_opt_in() {
    with_loop(|event_loop| {
        let counts = Rc::new(RefCell::new([0, 0]));
        let counting = |n: usize| {
            let counts = Rc::clone(&counts);
            move |_: &UdpRef<'_>, _: &[u8], _| counts.borrow_mut()[n] += 1
        };
        let bind = |at: SocketAddr| UdpSocket::bind(event_loop, at).unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let one = bind(any).reuse_port().serve_fn(counting(0)).unwrap();
        let at = one.local_addr().unwrap();
        let refused = bind(at).serve_fn(|_, _, _| ()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::AddrInUse);
        assert!(refused.to_string().contains(&at.to_string()), "{refused}");
        let _two = bind(at).reuse_port().serve_fn(counting(1)).unwrap();
        let senders: Vec<Plain> = (0..64).map(|_| plain()).collect();
        senders.iter().for_each(|sender| assert_eq!(sender.send_to(b"x", at).unwrap(), 1));
        net::turn_until(event_loop, || counts.borrow().iter().sum::<usize>() == 64);
        assert!(counts.borrow().iter().all(|count| *count > 0), "{counts:?}");
    });
}

#[test]
fn a_multicast_group_is_received_only_while_joined() {
    with_loop(|event_loop| {
        let group = Ipv4Addr::new(239, 255, 77, 9);
        let bind = || UdpSocket::bind(event_loop, "0.0.0.0:0").unwrap();
        let events = Recorder::new();
        let builder = bind().join_v4(group, Ipv4Addr::LOCALHOST).reuse_address();
        let member = builder.serve(Script::new(&events)).unwrap();
        let to = SocketAddr::from((group, member.local_addr().unwrap().port()));
        let deaf = Recorder::new();
        let at = SocketAddr::from((Ipv4Addr::UNSPECIFIED, to.port()));
        let builder = UdpSocket::bind(event_loop, at).unwrap().reuse_address();
        let _other = builder.serve(Script::new(&deaf)).unwrap();
        let sender = plain();
        socket2::SockRef::from(&sender).set_multicast_if_v4(&Ipv4Addr::LOCALHOST).unwrap();
        sender.send_to(b"to all", to).unwrap();
        assert_eq!(wait_for_calls(event_loop, &events, 1), [datagram("to all")]);
        assert_eq!(deaf.take(), [], "a group that another socket has joined");
        member.with(|socket| socket.leave_v4(group, Ipv4Addr::LOCALHOST)).unwrap().unwrap();
        sender.send_to(b"to all others", to).unwrap();
        turn(event_loop);
        sender.send_to(b"to you", (Ipv4Addr::LOCALHOST, to.port())).unwrap();
        net::turn_until(event_loop, || events.len() + deaf.len() == 1);
        assert_eq!(events.take().into_iter().chain(deaf.take()).collect::<Vec<_>>(), [datagram("to you")]);
    });
}

#[test]
fn the_options_have_their_configured_values() {
    with_loop(|event_loop| {
        let builder = UdpSocket::bind(event_loop, "0.0.0.0:0").unwrap();
        let builder = builder.ttl(7).multicast_ttl(3).no_multicast_loop().broadcast();
        let socket = builder.send_buffer(9000).receive_buffer(10_000).serve_fn(|_, _, _| ()).unwrap();
        socket
            .with(|socket| {
                let socket = socket2::SockRef::from(socket);
                assert_eq!(socket.ttl_v4().unwrap(), 7);
                assert_eq!(socket.multicast_ttl_v4().unwrap(), 3);
                assert!(!socket.multicast_loop_v4().unwrap() && socket.broadcast().unwrap());
                assert_eq!(socket.send_buffer_size().unwrap(), 18_000);
                assert_eq!(socket.recv_buffer_size().unwrap(), 20_000);
                assert!(socket.nonblocking().unwrap());
                let flags = rustix::io::fcntl_getfd(&*socket).unwrap();
                assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
            })
            .expect("an open socket");
        let builder = UdpSocket::bind(event_loop, (Ipv6Addr::LOCALHOST, 0)).unwrap();
        let socket = builder.only_v6().ttl(9).serve_fn(|_, _, _| ()).unwrap();
        socket.with(|socket| {
            let socket = socket2::SockRef::from(socket);
            assert!(socket.only_v6().unwrap());
            assert_eq!(socket.unicast_hops_v6().unwrap(), 9);
        });
    });
}

#[test]
fn an_invalid_ttl_is_an_error_that_names_the_option() {
    with_loop(|event_loop| {
        type Set = fn(UdpSocketBuilder<'_>) -> UdpSocketBuilder<'_>;
        let wrong: [(&str, Set); 4] = [
            ("ttl: 0 ", |builder| builder.ttl(0)),
            ("ttl: 256 ", |builder| builder.ttl(256)),
            ("ttl: 4294967295 ", |builder| builder.ttl(u32::MAX)),
            ("multicast_ttl: 256 ", |builder| builder.multicast_ttl(256)),
        ];
        for (start, set) in wrong {
            let builder = set(UdpSocket::bind(event_loop, "127.0.0.1:0").unwrap());
            let error = builder.serve_fn(|_, _, _| ()).expect_err("no such number");
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().starts_with(start), "{error}");
        }
        let builder = UdpSocket::bind(event_loop, "127.0.0.1:0").unwrap().ttl(255).multicast_ttl(0);
        assert!(builder.serve_fn(|_, _, _| ()).is_ok());
    });
}

/// Truncated to the kernel's integer type, 4 GiB would be zero.
#[test]
fn a_buffer_beyond_the_kernels_range_is_an_error() {
    with_loop(|event_loop| {
        for (receive, send) in [(1 << 32, 10_000), (10_000, 1 << 32)] {
            let builder = UdpSocket::bind(event_loop, "127.0.0.1:0").unwrap();
            let made = builder.receive_buffer(receive).send_buffer(send).serve_fn(|_, _, _| ());
            assert_eq!(made.expect_err("such a buffer").kind(), ErrorKind::InvalidInput);
        }
    });
}

#[test]
fn an_ipv6_socket_works_like_an_ipv4_socket() {
    with_loop(|event_loop| {
        let events = Recorder::new();
        let replying =
            Script::new(&events).on_datagram(|socket, _, from| Ok(socket.send_to("6", from).map(drop)?));
        let socket = UdpSocket::bind(event_loop, "[::1]:0").unwrap().serve(replying).unwrap();
        let other = plain_at("[::1]:0");
        other.send_to(b"six", socket.local_addr().unwrap()).unwrap();
        assert_eq!(wait_for_calls(event_loop, &events, 1), [datagram("six")]);
        assert_eq!(receive(&other), b"6");
    });
}
