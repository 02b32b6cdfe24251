//! Random connections with TLS, checked against the invariants of every connection.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};

use reveille::tls::ServerTls;
use rustls::Connection;

use crate::authority::{BOTH, NAME, client_config_with, server_config};
use crate::connection_model::{self, Stream};
use crate::support::KIB;
use crate::support::alone::alone;
use crate::support::net;
use crate::tls_peer::client_session;

const CONNECTIONS: u64 = 1_500;

/// A client whose socket does not block.
pub(crate) struct TlsStream {
    socket: TcpStream,
    session: Connection,
    is_finished: bool,
}

impl TlsStream {
    pub(crate) fn new(socket: TcpStream, session: Connection) -> TlsStream {
        TlsStream { socket, session, is_finished: false }
    }

    /// Sends the records that are queued, as far as the socket takes them.
    fn flush(&mut self) {
        while self.session.wants_write() {
            // Reading finds the error of a socket that fails.
            if self.session.write_tls(&mut self.socket).is_err() {
                return;
            }
        }
        if self.is_finished {
            let _ = self.socket.shutdown(Shutdown::Write);
        }
    }

    /// Receives once, at most `max` bytes. 0 bytes are the end of the socket's input.
    fn receive(&mut self, max: usize) -> io::Result<usize> {
        let received = self.session.read_tls(&mut (&self.socket).take(max as u64))?;
        self.session.process_new_packets().map_err(io::Error::other)?;
        Ok(received)
    }
}

impl Stream for TlsStream {
    const RECORD: usize = 16 * KIB;

    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            // At the end of the socket's input, this is an error unless close_notify came before.
            match self.session.reader().read(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => _ = self.receive(bytes.len())?,
                result => return result,
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_finished {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let accepted = self.session.writer().write(bytes)?;
        self.flush();
        Ok(accepted)
    }

    fn finish(&mut self) -> io::Result<()> {
        if !self.is_finished {
            self.session.send_close_notify();
            self.is_finished = true;
        }
        self.flush();
        Ok(())
    }

    fn advance(&mut self) {
        self.flush();
        while self.session.is_handshaking() && self.receive(usize::MAX).is_ok_and(|received| received > 0) {
            self.flush();
        }
    }

    fn detects_truncation(&self) -> bool {
        true
    }

    fn into_socket(self) -> TcpStream {
        self.socket
    }
}

#[test]
fn random_tls_connections_report_every_loss_and_every_event() {
    alone(|| {
        let tls = ServerTls::new(server_config());
        // Most sessions are resumed.
        let clients = BOTH.iter().map(|version| client_config_with(&[version], None, |_| ()));
        let clients: Vec<_> = clients.collect();
        connection_model::run(
            0..CONNECTIONS,
            |builder| builder.tls(tls),
            |address, seed| {
                let socket = net::connect_with_small_packets(address);
                socket.set_nonblocking(true).unwrap();
                let config = &clients[seed as usize % clients.len()];
                TlsStream::new(socket, client_session(config.clone(), NAME))
            },
        );
    });
}
