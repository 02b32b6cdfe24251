//! Peers that do not speak TLS, or send too much.

use std::time::Duration;

use log::Level;
use reveille::testing::Peer;
use reveille::tls::{ClientTls, ServerTls};
use reveille::{EventLoop, TcpConnection};

use crate::authority::{NAME, client_config, client_config_with, server_config};
use crate::logged::{record_lines, take_lines};
use crate::recorder::{Mode, Recorder};
use crate::support::{with_clock, with_loop};
use crate::tls_peer::TlsPeer;

/// Sends `bytes` to a server. Checks that the connection closes without a handler, and returns what
/// was received.
#[track_caller]
fn rejected(event_loop: &EventLoop, tls: &ServerTls, bytes: &[u8]) -> Vec<u8> {
    let handler = Recorder::new(Mode::Echo);
    let builder = TcpConnection::builder(event_loop).tls(tls).unwrap();
    let recorder = handler.clone();
    let peer = Peer::connect_with(builder, |_| recorder).unwrap();
    // The connection may close before it has read all of it.
    let _ = peer.send(bytes);
    let received = peer.received().unwrap_or_default();
    assert!(peer.is_closed().unwrap(), "{:?} is not rejected", bytes.escape_ascii().to_string());
    assert!(!handler.is_open());
    received
}

#[test]
fn peers_that_do_not_speak_tls_get_at_most_an_alert() {
    const SSLV2_HELLO: [u8; 20] =
        [0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10, 1, 0, 0x80, 3, 0, 0x80, 7, 0, 0xc0];
    let inputs: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\nHost: server.example\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        &SSLV2_HELLO,
        &[0; 100],
        &[0xff; 100_000],
        // A record that announces more than the maximum.
        &[0x16, 3, 1, 0xff, 0xff, 1, 0, 0xff, 0xfb],
    ];
    with_loop(move |event_loop| {
        let tls = ServerTls::new(server_config());
        for input in inputs {
            let received = rejected(event_loop, &tls, input);
            assert!(matches!(*received, [] | [0x15, 3, _, 0, 2, 2, _]), "{received:?}");
        }
    });
}

#[test]
fn rejected_handshakes_are_logged_once_a_second() {
    with_clock(|event_loop, clock| {
        record_lines();
        let tls = ServerTls::new(server_config());
        for _ in 0..20 {
            rejected(event_loop, &tls, b"GET / HTTP/1.1\r\n\r\n");
        }
        let lines = take_lines();
        assert_eq!((lines.len(), lines[0].0), (1, Level::Info));
        assert!(lines[0].1.ends_with("failed: the peer does not speak TLS"), "{lines:?}");
        clock.advance(Duration::from_secs(1));
        rejected(event_loop, &tls, &[0; 10]);
        let lines = take_lines();
        assert_eq!(lines.len(), 1);
        assert!(lines[0].1.ends_with("(19 more since the last such line)"), "{lines:?}");
    });
}

/// Distributes the content of a handshake record over records of one byte.
fn one_byte_each(record: &[u8]) -> Vec<u8> {
    record[5..].iter().flat_map(|byte| [0x16, 3, 1, 0, 1, *byte]).collect()
}

#[test]
fn a_client_hello_above_the_limit_is_rejected() {
    with_loop(|event_loop| {
        // Many protocols make the hello longer than 3 KiB.
        let config = client_config_with(crate::authority::BOTH, None, |config| {
            config.alpn_protocols = vec![vec![b'x'; 200]; 15];
        });
        let handler = Recorder::new(Mode::Echo);
        let tls = ServerTls::new(server_config());
        let mut peer = TlsPeer::client(event_loop, &tls, config.clone(), handler.clone());
        peer.assert_echoes(b"below the default limit");

        let tls = tls.max_client_hello(3 * 1024);
        let mut peer = TlsPeer::client(event_loop, &tls, config, handler.clone());
        let hello = peer.take_records();
        assert!((3 * 1024..5 * 1024).contains(&hello.len()));
        // Its beginning is enough.
        let alert = rejected(event_loop, &tls, &hello[..9]);
        assert_eq!(alert, [0x15, 3, 3, 0, 2, 2, 47]);
        // So are many records, of which none contains the length.
        let alert = rejected(event_loop, &tls, &one_byte_each(&hello)[..4 * 1024]);
        assert_eq!(alert, [0x15, 3, 3, 0, 2, 2, 47]);

        let mut peer = TlsPeer::client(event_loop, &tls, client_config(), handler);
        let hello = peer.take_records();
        peer.end.send(one_byte_each(&hello)).unwrap();
        peer.assert_echoes(b"a hello below the limit");
    });
}

#[test]
fn a_server_that_does_not_speak_tls_is_named_as_such() {
    with_loop(|event_loop| {
        let tls = ClientTls::new(client_config()).server_name(NAME);
        let builder = TcpConnection::builder(event_loop).tls(&tls).unwrap();
        let handler = Recorder::new(Mode::Echo);
        let recorder = handler.clone();
        let peer = Peer::connect_with(builder, |_| recorder).unwrap();
        assert_eq!(peer.received().unwrap()[0], 0x16, "a ClientHello");
        peer.send("220 mail.example ESMTP\r\n").unwrap();
        assert!(peer.is_closed().unwrap() && !handler.is_open());
    });
}

#[test]
fn random_changes_of_a_hello_never_panic() {
    with_loop(|event_loop| {
        let tls = ServerTls::new(server_config());
        let handler = Recorder::new(Mode::Echo);
        let hello = TlsPeer::client(event_loop, &tls, client_config(), handler).take_records();
        let mut random = crate::support::net::Random::new(11);
        for _ in 0..300 {
            let mut changed = hello.clone();
            for _ in 0..=random.below(3) {
                let at = random.below(changed.len());
                changed[at] = u8::try_from(random.below(256)).unwrap();
            }
            let builder = TcpConnection::builder(event_loop).tls(&tls).unwrap();
            let peer = Peer::connect_with(builder, |_| Recorder::new(Mode::Echo)).unwrap();
            let _ = peer.send(&changed);
            peer.shutdown().unwrap();
            assert!(peer.is_closed().unwrap());
        }
    });
}
