//! Output of every kind, and relays, pass through TLS.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::sync::Arc;

use reveille::testing::Peer;
use reveille::tls::ServerTls;
use reveille::{Buffer, ConnectionHandler, EventLoop, TcpConnection};

use crate::authority::{BOTH, NAME, client_config, client_config_with, server_config};
use crate::recorder::{Mode, Recorder};
use crate::support::net::pattern;
use crate::support::{KIB, on_another_thread, with_loop};
use crate::tls_peer::{TlsPeer, client_session};

/// Sends a part of each kind when it is given input.
struct Sends {
    file: File,
}

const PART: usize = 100 * KIB;

impl ConnectionHandler for Sends {
    fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        input.clear();
        let part = |n: usize| pattern(8 * PART)[n * PART..(n + 1) * PART].to_vec();
        conn.send(part(0))?;
        let bytes = part(1);
        conn.send_vectored(&[IoSlice::new(&bytes[..7]), IoSlice::new(&bytes[7..])])?;
        conn.send_owned(part(2))?;
        conn.send_shared(&Arc::from(part(3)))?;
        conn.send_file(self.file.try_clone()?, (4 * PART) as u64, PART as u64)?;
        let slot = conn.reserve_reply()?;
        conn.send(part(6))?;
        slot.fill(part(5)).unwrap();
        conn.send(part(7))?;
        Ok(())
    }
}

#[test]
fn output_of_every_kind_is_encrypted_in_order() {
    with_loop(|event_loop| {
        for version in BOTH {
            let folder = crate::support::folder::Folder::new();
            std::fs::write(folder.join("file"), pattern(8 * PART)).unwrap();
            let file = File::open(folder.join("file")).unwrap();
            let tls = ServerTls::new(server_config());
            let builder = TcpConnection::builder(event_loop).tls(&tls).unwrap();
            let end = Peer::connect_with(builder, |_| Sends { file }).unwrap();
            let session = client_session(client_config_with(&[version], None, |_| ()), NAME);
            let mut peer = TlsPeer::over(end, session);
            peer.send(b"?");
            assert!(peer.received() == pattern(8 * PART));
            let handle = peer.end.connection().clone();
            on_another_thread(|| handle.send("from another thread").unwrap());
            assert_eq!(peer.received(), b"from another thread");
        }
    });
}

/// A connection with TLS that is linked with one in plain text.
fn linked(event_loop: &EventLoop) -> (TlsPeer<'_>, Peer<'_>) {
    let tls = ServerTls::new(server_config());
    let mut front = TlsPeer::client(event_loop, &tls, client_config(), Recorder::new(Mode::Record));
    front.turn();
    let back = Peer::connect(event_loop, |_| Recorder::new(Mode::Record)).unwrap();
    let target = back.connection().clone();
    let linked = front.end.connection().with(move |_: &mut Recorder, conn| conn.relay_to(&target).unwrap());
    linked.unwrap();
    front.turn();
    (front, back)
}

#[test]
fn a_relay_joins_tls_with_plain_text() {
    with_loop(|event_loop| {
        let (mut front, back) = linked(event_loop);
        front.send(&pattern(PART));
        assert!(back.received().unwrap() == pattern(PART));
        back.send(pattern(PART)).unwrap();
        assert!(front.received() == pattern(PART));
        front.send_close_notify();
        assert!(back.is_ended().unwrap(), "close_notify was not relayed");
        back.send("the rest").unwrap();
        back.shutdown().unwrap();
        assert_eq!(front.received(), b"the rest");
        assert!(front.has_ended, "the FIN was not relayed as close_notify");
    });
}

#[test]
fn truncated_input_is_not_relayed_as_complete() {
    with_loop(|event_loop| {
        let (mut front, back) = linked(event_loop);
        front.session.writer().write_all(b"incomplete").unwrap();
        front.flush();
        front.end.shutdown().unwrap();
        assert_eq!(back.received().unwrap(), b"incomplete");
        let ended = back.is_ended().map_err(|error| error.kind());
        assert_eq!(ended, Err(io::ErrorKind::ConnectionReset));
    });
}
