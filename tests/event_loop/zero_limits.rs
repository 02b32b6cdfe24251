//! What limits mean at their ends: zero, and the largest number.

use std::cell::RefCell;
use std::io::{self, ErrorKind, Read};
use std::net::TcpStream;
use std::rc::Rc;
use std::time::Duration;

use crate::support::net::turn_until;
use crate::support::{LIMIT, panic_of, turn, with_loop, with_watchdog};
use reveille::codec::{FrameHandler, Framed, LineCodec};
use reveille::fs::FileIo;
use reveille::net::{ConnectionLimits, DatagramError, Resolver, ResolverError, SendError, SendStatus};
use reveille::task::{MailboxLimit, PostError, Workers};
use reveille::testing::Peer;
use reveille::{
    Buffer, ConnectionHandler, EventLoop, LoopPool, TcpClient, TcpConnection, TcpServer, UdpSocket,
};

/// Replies with its input, and records the result.
struct Echo(Rc<RefCell<Vec<Result<(), SendError>>>>);

impl ConnectionHandler for Echo {
    fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        self.0.borrow_mut().push(conn.send(input.take_all()));
        Ok(())
    }
}

#[test]
fn extreme_sizes_of_a_loop_count_as_the_nearest_possible() {
    for value in [0, 1 << 40, usize::MAX] {
        with_watchdog(LIMIT, move || {
            let builder = EventLoop::builder().events_per_turn(value).input_buffer(value);
            let event_loop = builder.build().unwrap();
            let peer = Peer::connect(&event_loop, |_| Echo(Rc::default())).unwrap();
            peer.send("hello").unwrap();
            assert_eq!(peer.received().unwrap(), b"hello");
        });
    }
}

#[test]
fn a_mailbox_of_size_zero_takes_one_task() {
    for mailbox in [MailboxLimit::Refuse(0), MailboxLimit::Block(0)] {
        with_watchdog(LIMIT, move || {
            let event_loop = EventLoop::builder().mailbox(mailbox).build().unwrap();
            let handle = event_loop.handle();
            handle.queue_in_loop(|_| ()).unwrap();
            assert_eq!(handle.queue_in_loop(|_| ()).unwrap_err().reason(), PostError::Full);
            turn(&event_loop);
            handle.queue_in_loop(|_| ()).unwrap();
        });
    }
}

#[test]
fn no_threads_are_an_error_everywhere() {
    with_loop(|event_loop| {
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().threads(0).serve_fn(|_, _| ());
        let kinds = [
            server.unwrap_err().kind(),
            LoopPool::new(0, "none").unwrap_err().kind(),
            Workers::builder().threads(0).build().unwrap_err().kind(),
            Resolver::builder().threads(0).build(event_loop).unwrap_err().kind(),
            FileIo::builder().threads(0).build(event_loop).unwrap_err().kind(),
        ];
        assert_eq!(kinds, [ErrorKind::InvalidInput; 5]);
    });
}

#[test]
fn time_limits_of_zero_panic() {
    struct Ignore;
    impl FrameHandler<LineCodec> for Ignore {
        fn on_frame(&mut self, _: &TcpConnection, _: &[u8]) -> io::Result<()> {
            Ok(())
        }
    }
    with_loop(|event_loop| {
        let zero = Duration::ZERO;
        let frames = panic_of(|| Framed::new(LineCodec::new(8), Ignore).frame_timeout(zero));
        assert_eq!(frames, "the time limit of a frame must be more than zero");
        for text in [
            panic_of(|| ConnectionLimits::new().idle_timeout(zero)),
            panic_of(|| ConnectionLimits::new().handshake_timeout(zero)),
            panic_of(|| TcpClient::connect(event_loop, "127.0.0.1:1").timeout(zero).serve_fn(|_, _| ())),
        ] {
            assert!(text.ends_with("must be more than zero"), "{text}");
        }
    });
}

#[test]
fn servers_without_places_serve_no_connection() {
    with_loop(|event_loop| {
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().max_per_address(0);
        let server = server.serve(|_| -> Echo { unreachable!("no place") }).unwrap();
        let mut peer = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        turn_until(event_loop, || server.counters().rejected_by_address == 1);
        assert!(matches!(peer.read(&mut [0]), Ok(0) | Err(_)));
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().max_connections(0).backlog(0);
        let server = server.serve(|_| -> Echo { unreachable!("no place") }).unwrap();
        let _waiting = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        turn(event_loop);
        turn(event_loop);
        assert_eq!((server.counters().accepted, server.open_connections()), (0, 0));
    });
}

#[test]
fn limits_of_zero_bytes_refuse_every_byte() {
    with_loop(|event_loop| {
        let results = Rc::new(RefCell::default());
        let limits = ConnectionLimits::new().max_unsent(0).max_unread(0).water_marks(0, 0);
        let builder = TcpConnection::builder(event_loop).limits(limits);
        let echo = Rc::clone(&results);
        let peer = Peer::connect_with(builder, move |_| Echo(echo)).unwrap();
        peer.send("hello").unwrap();
        assert_eq!(peer.received().unwrap(), b"");
        assert_eq!(*results.borrow(), [Err(SendError::Full)]);

        let client =
            TcpClient::connect(event_loop, "127.0.0.1:1").max_queued(0, 0).serve(|_| Echo(Rc::default()));
        let client = client.unwrap();
        assert_eq!(client.send("x").unwrap_err().reason(), SendError::Full);
        let refused = client.with(|_: &mut Echo, _| ()).unwrap_err();
        assert_eq!(refused.reason(), reveille::net::WithError::Full);
    });
}

#[test]
fn limits_of_zero_datagrams_and_lookups_queue_none() {
    with_loop(|event_loop| {
        let receiver = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = receiver.local_addr().unwrap();
        let socket = UdpSocket::bind(event_loop, "127.0.0.1:0").unwrap().max_unsent(0, 0);
        let socket = socket.serve_fn(|_, _, _| ()).unwrap();
        assert_eq!(socket.send_to(b"x", to).unwrap(), SendStatus::Written);
        let handle = socket.handle();
        let sent = crate::support::on_another_thread(move || handle.send_to(b"x", to));
        assert!(matches!(sent, Err(DatagramError::Full)), "{sent:?}");

        let resolver = Resolver::builder().queue(0).build(event_loop).unwrap();
        let refused = resolver.lookup("127.0.0.1:80", |_, _| ()).unwrap_err();
        assert_eq!(refused.reason(), ResolverError::Full);
    });
}
