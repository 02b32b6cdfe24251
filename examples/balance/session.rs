//! The connection of a client, and that to the back end with which it is linked.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use reveille::net::{CloseReason, ConnectError, ConnectionLimits};
use reveille::{Buffer, ConnectionHandle, ConnectionHandler, TcpClient, TcpConnection};

use super::backends::BackendId;
use super::network::Network;
use super::pool::{Lease, Pool, Totals, is_of_peer};
use super::proxy_header::Header;

/// The maximum number of back ends that are tried for a client.
const ATTEMPTS: usize = 3;

/// What is the same for all clients.
pub(crate) struct Setup {
    pub(crate) pool: Arc<Pool>,
    /// Connections from here begin with a header of the PROXY protocol.
    pub(crate) accept_proxy: Option<Network>,
    /// The limits of the connections to back ends.
    pub(crate) limits: ConnectionLimits,
}

/// One client.
pub(crate) struct Session {
    setup: Arc<Setup>,
    /// What the front has stated.
    header: Header,
    tried: Vec<BackendId>,
    state: State,
}

enum State {
    /// The header of the front is awaited.
    Header,
    /// A drop ends the attempt. `None` before the first one.
    Connecting(Option<TcpClient>),
    /// Linked with the connection to the back end.
    Relayed,
}

impl Session {
    pub(crate) fn new(setup: &Arc<Setup>) -> Session {
        let setup = Arc::clone(setup);
        Session { setup, header: Header::Local, tried: Vec::new(), state: State::Connecting(None) }
    }

    /// Connects to a back end that was not tried yet. Nothing was read from the client, so the
    /// attempt may fail without a loss.
    fn connect(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        let may_try = self.tried.len() < ATTEMPTS;
        let Some(lease) = may_try.then(|| self.setup.pool.select(&self.tried)).flatten() else {
            log::warn!("{}: no back end is available", conn.peer_address());
            Totals::count(&self.setup.pool.totals.refused);
            conn.reset();
            return Ok(());
        };
        let (id, address) = (lease.id, lease.address);
        let header = match lease.send_proxy {
            Some(version) => Some(self.header_for(conn)?.encode(version)),
            None => None,
        };
        self.tried.push(id);
        let (session, failed) = (conn.handle(), conn.handle());
        // Taken by the first session, which is the only one.
        let (mut header, mut lease) = (header, Some(lease));
        let client = TcpClient::connect(conn.event_loop(), address)
            .timeout(self.setup.pool.timeout)
            .limits(self.setup.limits)
            .on_failure(move |event_loop, error: ConnectError| {
                let _ = failed.with_local(event_loop, move |session: &mut Session, conn| {
                    session.failed(conn, id, address, &error)
                });
            })
            .serve(move |_| BackEnd {
                session: session.clone(),
                header: header.take(),
                _lease: lease.take(),
            })?;
        self.state = State::Connecting(Some(client));
        Ok(())
    }

    fn failed(
        &mut self,
        conn: &TcpConnection<'_>,
        id: BackendId,
        address: SocketAddr,
        error: &ConnectError,
    ) -> io::Result<()> {
        if is_of_peer(error.kind()) {
            self.setup.pool.mark_down(conn.event_loop(), id, address);
        } else {
            log::error!("{error}");
        }
        Totals::count(&self.setup.pool.totals.retried);
        // Ends the attempt, and with it its place at the back end.
        self.state = State::Connecting(None);
        self.connect(conn)
    }

    /// The header for a back end: what the front has stated, or the addresses of the connection.
    fn header_for(&self, conn: &TcpConnection<'_>) -> io::Result<Header> {
        match self.header {
            Header::Local => {
                Ok(Header::Proxied { source: conn.peer_addr()?, destination: conn.local_addr()? })
            }
            proxied => Ok(proxied),
        }
    }

    fn connected(&mut self, _: &TcpConnection<'_>) {
        if let State::Connecting(Some(client)) = std::mem::replace(&mut self.state, State::Relayed) {
            // Relayed bytes may still be in flight when this connection has ended.
            client.detach();
        }
        Totals::count(&self.setup.pool.totals.connected);
    }
}

impl ConnectionHandler for Session {
    fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        let peer = conn.peer_addr()?.ip();
        if self.setup.accept_proxy.is_some_and(|network| network.contains(peer)) {
            self.state = State::Header;
            conn.set_deadline(self.setup.pool.timeout);
            return Ok(());
        }
        conn.pause_reading();
        self.connect(conn)
    }

    fn on_message(&mut self, conn: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()> {
        // Otherwise reading is paused, or the connection is linked.
        if matches!(self.state, State::Header) {
            let decoded = Header::decode(input.readable());
            let decoded = decoded.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            let Some((header, length)) = decoded else { return Ok(()) };
            input.consume(length);
            conn.set_deadline(None);
            conn.pause_reading();
            self.header = header;
            self.connect(conn)?;
        }
        Ok(())
    }

    fn on_close(&mut self, conn: &TcpConnection<'_>, reason: &CloseReason) {
        match reason {
            // A health check of the front may connect and close.
            CloseReason::Error(_) | CloseReason::TimedOut if matches!(self.state, State::Header) => {
                log::info!("{}: no valid header of the PROXY protocol: {reason}", conn.peer_address());
                Totals::count(&self.setup.pool.totals.refused);
            }
            CloseReason::Error(error) => log::info!("{}: {error}", conn.peer_address()),
            reason => log::debug!("{}: {reason}", conn.peer_address()),
        }
    }
}

/// The connection to a back end.
struct BackEnd {
    session: ConnectionHandle,
    /// The header of the PROXY protocol, encoded.
    header: Option<Vec<u8>>,
    /// Counts the connection until it has closed.
    _lease: Option<Lease>,
}

impl ConnectionHandler for BackEnd {
    fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        if let Some(header) = self.header.take() {
            conn.send(header)?;
        }
        let connected = |session: &mut Session, conn: &TcpConnection<'_>| session.connected(conn);
        self.session.with_local(conn.event_loop(), connected)?;
        conn.relay_to(&self.session)
    }

    fn on_message(&mut self, _: &TcpConnection<'_>, _: &mut Buffer) -> io::Result<()> {
        Ok(()) // relayed
    }

    fn on_close(&mut self, conn: &TcpConnection<'_>, reason: &CloseReason) {
        match reason {
            CloseReason::Error(error) => log::info!("back end {}: {error}", conn.peer_address()),
            reason => log::debug!("back end {}: {reason}", conn.peer_address()),
        }
    }
}
