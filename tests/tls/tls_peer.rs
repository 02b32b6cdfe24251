//! A session of plain rustls as the peer of a connection in memory.

use std::io::{Read, Write};
use std::sync::Arc;

use reveille::testing::Peer;
use reveille::tls::{ClientTls, ServerTls, StartTls};
use reveille::{EventLoop, TcpConnection};
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};

use crate::authority::NAME;
use crate::recorder::Recorder;

/// The other end of a connection.
pub(crate) struct TlsPeer<'a> {
    pub(crate) end: Peer<'a>,
    pub(crate) session: Connection,
    /// The most bytes that one send passes to the connection.
    pub(crate) piece: usize,
    /// What the connection has sent in plain text.
    plain: Vec<u8>,
    pub(crate) has_ended: bool,
    /// The error of the peer's own session.
    pub(crate) error: Option<rustls::Error>,
}

impl<'a> TlsPeer<'a> {
    fn new(event_loop: &'a EventLoop, tls: &impl StartTls, session: Connection, handler: Recorder) -> Self {
        let builder = TcpConnection::builder(event_loop).tls(tls).unwrap();
        TlsPeer::over(Peer::connect_with(builder, |_| handler).unwrap(), session)
    }

    pub(crate) fn over(end: Peer<'a>, session: Connection) -> TlsPeer<'a> {
        let (piece, plain) = (usize::MAX, Vec::new());
        TlsPeer { end, session, piece, plain, has_ended: false, error: None }
    }

    /// A client, whose peer is a server's connection with `handler`. No byte is exchanged yet.
    pub(crate) fn client(
        event_loop: &'a EventLoop,
        tls: &ServerTls,
        config: Arc<ClientConfig>,
        handler: Recorder,
    ) -> TlsPeer<'a> {
        TlsPeer::new(event_loop, tls, client_session(config, NAME), handler)
    }

    /// A server, whose peer is a client's connection with `handler`.
    pub(crate) fn server(
        event_loop: &'a EventLoop,
        tls: &ClientTls,
        config: Arc<ServerConfig>,
        handler: Recorder,
    ) -> TlsPeer<'a> {
        let session = Connection::Server(ServerConnection::new(config).unwrap());
        TlsPeer::new(event_loop, tls, session, handler)
    }

    /// Exchanges records until neither side sends more.
    pub(crate) fn turn(&mut self) {
        while self.flush() | self.receive() {}
    }

    /// Sends the records that the session has queued.
    pub(crate) fn flush(&mut self) -> bool {
        let records = self.take_records();
        for piece in records.chunks(self.piece) {
            if self.end.send(piece).is_err() {
                return false;
            }
        }
        !records.is_empty()
    }

    /// Takes the records that the session has queued.
    pub(crate) fn take_records(&mut self) -> Vec<u8> {
        let mut records = Vec::new();
        while self.session.wants_write() {
            self.session.write_tls(&mut records).unwrap();
        }
        records
    }

    /// Processes what the connection has sent.
    pub(crate) fn receive(&mut self) -> bool {
        let Ok(records) = self.end.received() else { return false };
        self.process(&records);
        !records.is_empty()
    }

    pub(crate) fn process(&mut self, mut records: &[u8]) {
        while !records.is_empty() && self.error.is_none() {
            if self.session.read_tls(&mut records).unwrap() == 0 {
                return;
            }
            match self.session.process_new_packets() {
                Ok(state) => {
                    let mut bytes = vec![0; state.plaintext_bytes_to_read()];
                    self.session.reader().read_exact(&mut bytes).unwrap();
                    self.plain.extend(bytes);
                    self.has_ended |= state.peer_has_closed();
                }
                Err(error) => self.error = Some(error),
            }
        }
    }

    /// Sends plain text.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        // The session buffers a bounded amount.
        for piece in bytes.chunks(16 * 1024) {
            self.session.writer().write_all(piece).unwrap();
            self.flush();
        }
    }

    /// Takes the plain text that was received.
    pub(crate) fn received(&mut self) -> Vec<u8> {
        self.turn();
        self.received_so_far()
    }

    /// Takes the plain text of the records that were processed.
    pub(crate) fn received_so_far(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.plain)
    }

    #[track_caller]
    pub(crate) fn assert_echoes(&mut self, bytes: &[u8]) {
        self.send(bytes);
        assert!(self.received() == bytes, "{} bytes did not return", bytes.len());
    }

    pub(crate) fn send_close_notify(&mut self) {
        self.session.send_close_notify();
        self.turn();
    }
}

pub(crate) fn client_session(config: Arc<ClientConfig>, name: &'static str) -> Connection {
    Connection::Client(ClientConnection::new(config, name.try_into().unwrap()).unwrap())
}
