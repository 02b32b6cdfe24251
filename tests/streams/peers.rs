//! `testing::Peer`: a test as the peer of a handler.

use std::io::ErrorKind;
use std::time::Duration;

use super::Seen;
use crate::support::{KIB, MIB, with_clock, with_loop};
use reveille::TcpConnection;
use reveille::codec::{Framed, LineCodec};
use reveille::net::ConnectionLimits;
use reveille::testing::Peer;

#[test]
fn what_is_sent_is_delivered_when_the_call_returns() {
    with_loop(|event_loop| {
        let seen = Seen::default();
        let handler = seen.echo();
        let peer = Peer::connect(event_loop, |_| handler).unwrap();
        assert_eq!(seen.opens(), 1);
        for text in ["one", "two"] {
            peer.send(text).unwrap();
            assert_eq!(peer.received().unwrap(), text.as_bytes());
        }
        assert!(!peer.is_ended().unwrap());
        peer.shutdown().unwrap();
        assert_eq!((seen.input(), seen.ends()), (b"onetwo".to_vec(), 1));
        assert!(peer.is_ended().unwrap() && peer.is_closed().unwrap());
        assert_eq!(peer.send("late").unwrap_err().kind(), ErrorKind::BrokenPipe);
    });
}

#[test]
fn frames_may_be_split_anywhere() {
    with_loop(|event_loop| {
        let peer = Peer::connect(event_loop, |_| {
            Framed::from_fn(LineCodec::new(10), |conn, line: &[u8]| conn.send([line, b"!"].concat()))
        });
        let peer = peer.unwrap();
        for byte in b"ab\n\ncd\n" {
            peer.send([*byte]).unwrap();
        }
        assert_eq!(peer.received().unwrap(), b"ab!!cd!");
        peer.send("much longer than ten\n").unwrap();
        assert!(peer.is_closed().unwrap());
    });
}

#[test]
fn a_slow_peer_pauses_the_handler() {
    with_loop(|event_loop| {
        let seen = Seen::default();
        let handler = seen.echo();
        let limits = ConnectionLimits::new().water_marks(64 * KIB, 16 * KIB);
        let peer =
            Peer::connect_with(TcpConnection::builder(event_loop).limits(limits), |_| handler).unwrap();
        peer.send(vec![1; MIB]).unwrap();
        // The handler does not read while its replies are unread.
        assert!(peer.unsent() > MIB / 2, "{}", peer.unsent());
        assert!(peer.connection().unsent() > 64 * KIB);
        let mut received = peer.receive(1000).unwrap().len();
        assert_eq!(received, 1000);
        received += peer.received().unwrap().len();
        assert_eq!((received, peer.unsent(), seen.received()), (MIB, 0, MIB));
    });
}

#[test]
fn a_reset_is_reported_once_after_the_last_byte() {
    with_loop(|event_loop| {
        let seen = Seen::default();
        let handler = seen.opening(|conn| conn.send("last").unwrap());
        let peer = Peer::connect(event_loop, |_| handler).unwrap();
        peer.connection().reset();
        assert_eq!(peer.received().unwrap(), b"last");
        assert_eq!(peer.received().unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(peer.received().unwrap(), b"");
        assert!(peer.is_ended().unwrap() && peer.is_closed().unwrap());
    });
}

#[test]
fn a_peer_may_reset_close_and_be_dropped() {
    with_loop(|event_loop| {
        let ends: [fn(Peer<'_>); 3] =
            [|peer| peer.reset().unwrap(), |peer| peer.close().unwrap(), |peer| drop(peer)];
        for end in ends {
            let seen = Seen::default();
            let handler = seen.handler();
            end(Peer::connect(event_loop, |_| handler).unwrap());
            event_loop.run_ready().unwrap();
            assert!(seen.is_closed());
        }
    });
}

#[test]
fn deadlines_pass_in_virtual_time() {
    with_clock(|event_loop, clock| {
        let handler = Seen::default().opening(|conn| conn.set_deadline(Duration::from_secs(30)));
        let peer = Peer::connect(event_loop, |_| handler).unwrap();
        clock.advance(Duration::from_secs(29));
        assert!(!peer.is_closed().unwrap());
        clock.advance(Duration::from_secs(1));
        assert!(peer.is_closed().unwrap());
    });
}

#[test]
fn a_peer_cannot_be_used_in_a_callback() {
    with_loop(|event_loop| {
        let refused = std::rc::Rc::new(std::cell::Cell::new(None));
        let recording = refused.clone();
        event_loop.queue_in_loop(move |event_loop| {
            let connected = Peer::connect(event_loop, |_: &TcpConnection<'_>| Seen::default().handler());
            recording.set(connected.err().map(|error| error.kind()));
        });
        event_loop.run_ready().unwrap();
        assert_eq!(refused.take(), Some(ErrorKind::ResourceBusy));
    });
}
