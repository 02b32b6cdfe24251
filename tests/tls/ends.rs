//! The ends of TLS connections: close_notify, truncation, alerts, and peers that die.

use std::io::ErrorKind;

use reveille::tls::{ClientTls, ServerTls};
use rustls::{AlertDescription, Error};

use crate::authority::{BOTH, NAME, client_config, client_config_with, server_config};
use crate::recorder::{Mode, Recorder};
use crate::support::with_loop;
use crate::tls_peer::TlsPeer;

#[test]
fn close_notify_ends_the_input_and_output_continues() {
    with_loop(|event_loop| {
        for version in BOTH {
            let tls = ServerTls::new(server_config());
            let handler = Recorder::new(Mode::Record);
            let config = client_config_with(&[version], None, |_| ());
            let mut peer = TlsPeer::client(event_loop, &tls, config, handler.clone());
            peer.send(b"");
            peer.turn();
            peer.send(b"the last bytes");
            peer.send_close_notify();
            assert!(handler.calls.borrow().has_ended);
            assert_eq!(handler.calls.borrow().input, b"the last bytes");
            assert!(peer.end.connection().is_open());
            peer.end.connection().send("still sent").unwrap();
            assert_eq!(peer.received(), b"still sent");
            assert!(!peer.has_ended);
            peer.end.connection().shutdown();
            peer.turn();
            assert!(peer.has_ended, "no close_notify was received");
            assert!(peer.end.is_ended().unwrap());
            assert_eq!(handler.closed().text, "both ends have finished");
        }
    });
}

#[test]
fn bytes_after_close_notify_are_discarded() {
    with_loop(|event_loop| {
        let tls = ServerTls::new(server_config());
        let handler = Recorder::new(Mode::Record);
        let mut peer = TlsPeer::client(event_loop, &tls, client_config(), handler.clone());
        peer.turn();
        peer.session.send_close_notify();
        let mut records = peer.take_records();
        records.extend(b"anything that is not a record");
        peer.end.send(records).unwrap();
        peer.end.send(vec![0xff; 1000]).unwrap();
        assert!(handler.calls.borrow().has_ended && handler.calls.borrow().input.is_empty());
        assert!(peer.end.connection().is_open());
    });
}

#[test]
fn a_close_by_the_handler_sends_close_notify() {
    with_loop(|event_loop| {
        for version in BOTH {
            let tls = ServerTls::new(server_config());
            let config = client_config_with(&[version], None, |_| ());
            let mut peer = TlsPeer::client(event_loop, &tls, config, Recorder::new(Mode::Echo));
            peer.assert_echoes(b"hello");
            peer.end.connection().close();
            peer.turn();
            assert!(peer.has_ended);
        }
    });
}

#[test]
fn a_fin_without_close_notify_is_truncation() {
    with_loop(|event_loop| {
        for version in BOTH {
            let tls = ServerTls::new(server_config());
            let handler = Recorder::new(Mode::Record);
            let config = client_config_with(&[version], None, |_| ());
            let mut peer = TlsPeer::client(event_loop, &tls, config, handler.clone());
            peer.turn();
            peer.send(b"incomplete");
            peer.end.shutdown().unwrap();
            let closed = handler.closed();
            assert_eq!(closed.tls.as_deref(), Some("Truncated"));
            assert_eq!(closed.kind, Some(ErrorKind::UnexpectedEof));
            assert_eq!(handler.calls.borrow().input, b"incomplete");
            assert!(!handler.calls.borrow().has_ended);
        }
    });
}

#[test]
fn truncation_that_is_allowed_is_the_end_of_input() {
    with_loop(|event_loop| {
        let tls = ServerTls::new(server_config()).allow_truncation();
        let handler = Recorder::new(Mode::Echo);
        let mut peer = TlsPeer::client(event_loop, &tls, client_config(), handler.clone());
        peer.assert_echoes(b"hello");
        peer.end.shutdown().unwrap();
        peer.turn();
        assert!(handler.calls.borrow().has_ended && peer.has_ended);
        assert_eq!(handler.closed().text, "both ends have finished");

        // A part of a record is always truncation.
        let handler = Recorder::new(Mode::Record);
        let mut peer = TlsPeer::client(event_loop, &tls, client_config(), handler.clone());
        peer.turn();
        std::io::Write::write_all(&mut peer.session.writer(), b"cut off").unwrap();
        let records = peer.take_records();
        peer.end.send(&records[..records.len() - 1]).unwrap();
        peer.end.shutdown().unwrap();
        assert_eq!(handler.closed().tls.as_deref(), Some("Truncated"));
    });
}

#[test]
fn an_alert_of_the_peer_is_reported_after_earlier_bytes() {
    with_loop(|event_loop| {
        let tls = ServerTls::new(server_config());
        let handler = Recorder::new(Mode::Record);
        let mut peer = TlsPeer::client(event_loop, &tls, client_config(), handler.clone());
        peer.turn();
        std::io::Write::write_all(&mut peer.session.writer(), b"before the alert").unwrap();
        let mut records = peer.take_records();
        // Forged records make the peer's session send an encrypted alert.
        peer.process(&[0x17, 3, 3, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(peer.error, Some(Error::DecryptError));
        records.extend(peer.take_records());
        peer.end.send(&records).unwrap();
        let closed = handler.closed();
        assert_eq!(closed.tls.as_deref(), Some("Alert(BadRecordMac)"));
        assert_eq!(closed.kind, Some(ErrorKind::ConnectionAborted));
        assert_eq!(handler.calls.borrow().input, b"before the alert");
    });
}

#[test]
fn a_forged_record_closes_with_an_alert() {
    with_loop(|event_loop| {
        for version in BOTH {
            let tls = ServerTls::new(server_config());
            let handler = Recorder::new(Mode::Record);
            let config = client_config_with(&[version], None, |_| ());
            let mut peer = TlsPeer::client(event_loop, &tls, config, handler.clone());
            peer.turn();
            std::io::Write::write_all(&mut peer.session.writer(), b"whole").unwrap();
            let mut records = peer.take_records();
            std::io::Write::write_all(&mut peer.session.writer(), b"forged").unwrap();
            let mut forged = peer.take_records();
            *forged.last_mut().unwrap() ^= 1;
            records.extend(forged);
            peer.end.send(&records).unwrap();
            peer.receive();
            assert_eq!(peer.error, Some(Error::AlertReceived(AlertDescription::BadRecordMac)));
            assert_eq!(handler.closed().tls.as_deref(), Some("Protocol(DecryptError)"));
            assert_eq!(handler.calls.borrow().input, b"whole");
        }
    });
}

/// Cuts what the peer sends in the handshake off after each number of bytes.
#[test]
fn a_peer_may_die_after_each_byte_of_the_handshake() {
    enum Death {
        Fin,
        Reset,
    }

    fn die(mut peer: TlsPeer<'_>, mut bytes: usize, death: &Death) -> (bool, bool) {
        loop {
            let records = peer.take_records();
            if records.len() > bytes {
                peer.end.send(&records[..bytes]).unwrap();
                break;
            }
            bytes -= records.len();
            peer.end.send(&records).unwrap();
            if !peer.receive() && !peer.session.wants_write() {
                break;
            }
        }
        let is_done = !peer.session.is_handshaking();
        match death {
            Death::Fin => peer.end.shutdown().unwrap(),
            Death::Reset => peer.end.reset().unwrap(),
        }
        (is_done, peer.end.is_closed().unwrap())
    }

    with_loop(|event_loop| {
        for version in BOTH {
            for death in [Death::Fin, Death::Reset] {
                let (mut bytes, mut rejected) = (0, 0);
                loop {
                    let tls = ServerTls::new(server_config());
                    let handler = Recorder::new(Mode::Record);
                    let config = client_config_with(&[version], None, |_| ());
                    let peer = TlsPeer::client(event_loop, &tls, config, handler.clone());
                    let (is_done, is_closed) = die(peer, bytes, &death);
                    assert!(is_closed, "after {bytes} bytes");
                    if handler.is_open() {
                        assert!(is_done && handler.closed().kind.is_some());
                        break;
                    }
                    rejected += 1;
                    bytes += 7;
                }
                assert!(rejected > 20, "{rejected} handshakes ended early");

                let tls = ClientTls::new(client_config_with(&[version], None, |_| ())).server_name(NAME);
                let mut bytes = 0;
                loop {
                    let handler = Recorder::new(Mode::Record);
                    let mut peer = TlsPeer::server(event_loop, &tls, server_config(), handler.clone());
                    peer.receive();
                    let (_, is_closed) = die(peer, bytes, &death);
                    assert!(is_closed, "after {bytes} bytes");
                    if handler.is_open() {
                        break;
                    }
                    bytes += 29;
                }
            }
        }
    });
}
