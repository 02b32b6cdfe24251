//! Bytes of all sizes and splits pass through TLS unchanged.

use std::cell::Cell;
use std::io::Write;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use reveille::net::{ConnectionLimits, Filter, FilterContext};
use reveille::testing::Peer;
use reveille::tls::{ClientTls, ServerTls};
use reveille::{Buffer, TcpConnection};

use crate::authority::{
    BOTH, NAME, client_config, client_config_with, server_config, server_config_with, server_identity,
};
use crate::recorder::{Mode, Recorder};
use crate::support::net::{Random, pattern};
use crate::support::{KIB, MIB, with_loop};
use crate::tls_peer::{TlsPeer, client_session};

#[test]
fn records_of_all_sizes_return() {
    with_loop(|event_loop| {
        for version in BOTH {
            let tls = ServerTls::new(server_config());
            let config = client_config_with(&[version], None, |_| ());
            let mut peer = TlsPeer::client(event_loop, &tls, config, Recorder::new(Mode::Echo));
            let sizes = (1..300).chain((300..16 * KIB).step_by(977)).chain(16 * KIB - 3..=16 * KIB);
            let bytes = pattern(16 * KIB);
            for size in sizes {
                peer.assert_echoes(&bytes[..size]);
            }
        }
    });
}

#[test]
fn small_records_of_both_sides_return() {
    with_loop(|event_loop| {
        for max in [32, 100, 1000] {
            let server =
                server_config_with(server_identity(), BOTH, |config| config.max_fragment_size = Some(max));
            let client = client_config_with(BOTH, None, |config| config.max_fragment_size = Some(max));
            let tls = ServerTls::new(server);
            let mut peer = TlsPeer::client(event_loop, &tls, client, Recorder::new(Mode::Echo));
            for size in [1, 31, 500, 20_000, 100_000] {
                peer.assert_echoes(&pattern(size));
            }
        }
    });
}

#[test]
fn input_of_one_byte_at_a_time_is_processed() {
    with_loop(|event_loop| {
        for version in BOTH {
            let tls = ServerTls::new(server_config());
            let config = client_config_with(&[version], None, |_| ());
            let mut peer = TlsPeer::client(event_loop, &tls, config, Recorder::new(Mode::Echo));
            peer.piece = 1;
            peer.assert_echoes(b"");
            peer.assert_echoes(b"hello");
            peer.assert_echoes(&pattern(20_000));

            let tls = ClientTls::new(client_config_with(&[version], None, |_| ())).server_name(NAME);
            let mut peer = TlsPeer::server(event_loop, &tls, server_config(), Recorder::new(Mode::Echo));
            peer.piece = 1;
            peer.turn();
            peer.assert_echoes(b"hello");
        }
    });
}

#[test]
fn handshake_messages_in_small_records_are_processed() {
    with_loop(|event_loop| {
        for version in BOTH {
            let client = client_config_with(&[version], None, |config| config.max_fragment_size = Some(32));
            let tls = ServerTls::new(server_config());
            let mut peer = TlsPeer::client(event_loop, &tls, client, Recorder::new(Mode::Echo));
            peer.piece = 7;
            peer.assert_echoes(&pattern(1000));

            let server = server_config_with(server_identity(), &[version], |config| {
                config.max_fragment_size = Some(32);
            });
            let tls = ClientTls::new(client_config()).server_name(NAME);
            let mut peer = TlsPeer::server(event_loop, &tls, server, Recorder::new(Mode::Echo));
            peer.piece = 7;
            peer.turn();
            peer.assert_echoes(&pattern(1000));
        }
    });
}

/// rustls panics if it is called without the part of a message that it has processed already.
#[test]
fn output_leaves_while_a_handshake_message_is_incomplete() {
    with_loop(|event_loop| {
        // The tickets of the server, after its handshake, take several of these records.
        let server = server_config_with(server_identity(), &[&rustls::version::TLS13], |config| {
            config.max_fragment_size = Some(32);
        });
        let tls = ClientTls::new(client_config()).server_name(NAME);
        let handler = Recorder::new(Mode::Record);
        let builder = TcpConnection::builder(event_loop).tls(&tls).unwrap();
        let recorder = handler.clone();
        let end = Peer::connect_with(builder, |_| recorder).unwrap();
        let session = rustls::Connection::Server(rustls::ServerConnection::new(server).unwrap());
        let mut peer = TlsPeer::over(end, session);
        // All of the server's handshake, and then the client's: tickets are queued.
        peer.receive();
        while peer.session.is_handshaking() {
            peer.flush();
            peer.receive();
        }
        peer.session.writer().write_all(b"after the tickets").unwrap();
        let records = peer.take_records();
        assert!(handler.is_open());
        assert!(split(&records).len() > 5, "the tickets take {} bytes", records.len());
        for record in split(&records) {
            peer.end.send(record).unwrap();
            peer.end.connection().send("between").unwrap();
        }
        assert_eq!(handler.calls.borrow().input, b"after the tickets");
        assert_eq!(peer.received(), b"between".repeat(split(&records).len()));
        assert!(handler.calls.borrow().closed.is_none());
    });
}

/// Splits records.
fn split(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut records = Vec::new();
    while let [_, _, _, high, low, ..] = *bytes {
        let (record, rest) = bytes.split_at(5 + usize::from(u16::from_be_bytes([high, low])));
        records.push(record);
        bytes = rest;
    }
    records
}

#[test]
fn a_mebibyte_returns_in_random_pieces() {
    with_loop(|event_loop| {
        let mut random = Random::new(7);
        for version in BOTH {
            let tls = ServerTls::new(server_config());
            let config = client_config_with(&[version], None, |_| ());
            let mut peer = TlsPeer::client(event_loop, &tls, config, Recorder::new(Mode::Echo));
            let bytes = pattern(MIB);
            let (mut sent, mut received) = (0, Vec::new());
            while sent < bytes.len() {
                let len = (1 + random.below(40_000)).min(bytes.len() - sent);
                peer.piece = 1 + random.below(30_000);
                peer.send(&bytes[sent..sent + len]);
                sent += len;
                received.extend(peer.received());
            }
            assert!(received == bytes);
        }
    });
}

#[test]
fn a_key_update_changes_nothing_for_the_handler() {
    with_loop(|event_loop| {
        let tls = ServerTls::new(server_config());
        let mut peer = TlsPeer::client(event_loop, &tls, client_config(), Recorder::new(Mode::Echo));
        for _ in 0..5 {
            peer.assert_echoes(b"before");
            peer.session.refresh_traffic_keys().unwrap();
            peer.assert_echoes(b"after");
        }
    });
}

#[test]
fn a_slow_reader_bounds_the_encrypted_output() {
    struct Floods(usize);

    impl reveille::ConnectionHandler for Floods {
        fn on_open(&mut self, conn: &TcpConnection) -> std::io::Result<()> {
            conn.send(pattern(self.0))?;
            Ok(())
        }
        fn on_message(&mut self, _: &TcpConnection, input: &mut Buffer) -> std::io::Result<()> {
            input.clear();
            Ok(())
        }
    }

    with_loop(|event_loop| {
        let tls = ServerTls::new(server_config());
        let limits = ConnectionLimits::new().max_unsent(MIB);
        let builder = TcpConnection::builder(event_loop).limits(limits).tls(&tls).unwrap();
        let end = Peer::connect_with(builder, |_| Floods(MIB)).unwrap();
        let mut peer = TlsPeer::over(end, client_session(client_config(), NAME));
        while peer.session.is_handshaking() {
            peer.flush();
            let records = peer.end.receive(KIB).unwrap();
            peer.process(&records);
        }
        peer.flush();
        let mut received = Vec::new();
        while received.len() < MIB {
            let records = peer.end.receive(1000).unwrap();
            assert!(!records.is_empty(), "{} bytes were received", received.len());
            peer.process(&records);
            received.extend(peer.received_so_far());
        }
        assert!(received == pattern(MIB));
    });
}

#[test]
fn one_call_of_the_filter_decodes_a_bounded_amount() {
    /// While `is_holding`, leaves its input, so that TLS gets all of it at once.
    struct Holds(Arc<AtomicBool>);

    impl Filter for Holds {
        fn decode(
            &mut self,
            _: &mut FilterContext<'_>,
            input: &mut Buffer,
            output: &mut Buffer,
        ) -> std::io::Result<()> {
            if !self.0.load(SeqCst) {
                output.append_buffer(input);
            }
            Ok(())
        }
    }

    struct Measures {
        total: Rc<Cell<usize>>,
        longest: Rc<Cell<usize>>,
    }

    impl reveille::ConnectionHandler for Measures {
        fn on_message(&mut self, _: &TcpConnection, input: &mut Buffer) -> std::io::Result<()> {
            self.longest.set(self.longest.get().max(input.len()));
            self.total.set(self.total.get() + input.take_all().len());
            Ok(())
        }
    }

    with_loop(|event_loop| {
        let is_holding = Arc::new(AtomicBool::new(false));
        let (total, longest) = (Rc::default(), Rc::default());
        let handler = Measures { total: Rc::clone(&total), longest: Rc::clone(&longest) };
        let holds = Arc::clone(&is_holding);
        let builder = TcpConnection::builder(event_loop)
            .filter(move || Holds(Arc::clone(&holds)))
            .tls(&ServerTls::new(server_config()))
            .unwrap();
        let end = Peer::connect_with(builder, |_| handler).unwrap();
        let mut peer = TlsPeer::over(end, client_session(client_config(), NAME));
        peer.turn();
        is_holding.store(true, SeqCst);
        peer.send(&pattern(MIB - 1));
        assert_eq!(total.get(), 0);
        is_holding.store(false, SeqCst);
        peer.send(b"x");
        assert_eq!(total.get(), MIB);
        assert!(longest.get() <= FilterContext::PIECE + 16 * KIB, "{} bytes", longest.get());
    });
}
