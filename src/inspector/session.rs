//! The connection of a client with the inspector.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::http::{Manner, Parsed, Status, is_allowed_host, parse, plain};
use super::routes::respond;
use super::state::State;
use crate::buffer::Buffer;
use crate::net::connection::TcpConnection;
use crate::net::connection::handler::ConnectionHandler;
use crate::net::{CloseReason, ConnectionLimits, SendError};

/// The time for a head, from its first byte on.
const HEAD_TIME: Duration = Duration::from_secs(5);

/// The time for a client to receive a response.
const RESPONSE_TIME: Duration = Duration::from_secs(20);

/// The time without a byte in either direction after which a connection is closed.
const IDLE: Duration = Duration::from_secs(30);

/// The time for the peer to close after the last response.
const CLOSING_TIME: Duration = Duration::from_secs(2);

/// The memory of all connections together.
pub(super) const MAX_BUFFERED: usize = 32 << 20;

pub(super) fn limits() -> ConnectionLimits {
    ConnectionLimits::new()
        .idle_timeout(IDLE)
        .water_marks(256 << 10, 64 << 10)
        .max_unsent(8 << 20)
        .max_unread(64 << 10)
        .max_open_replies(16)
}

pub(super) struct Session {
    pub(super) state: Rc<RefCell<State>>,
    /// Part of a head has arrived.
    is_receiving: bool,
    /// Responses have not been sent completely.
    is_sending: bool,
    /// No request follows.
    is_finished: bool,
}

impl Session {
    pub(super) fn new(state: Rc<RefCell<State>>) -> Session {
        Session { state, is_receiving: false, is_sending: false, is_finished: false }
    }

    fn set_deadline(&self, conn: &TcpConnection<'_>) {
        conn.set_deadline(match self {
            Session { is_sending: true, .. } => Some(RESPONSE_TIME),
            Session { is_receiving: true, .. } => Some(HEAD_TIME),
            _ => None,
        });
    }

    /// Sends a response.
    pub(super) fn send(
        &mut self,
        conn: &TcpConnection<'_>,
        response: Vec<u8>,
        manner: Manner,
    ) -> Result<(), SendError> {
        conn.send_owned(response).map_err(|refused| refused.reason())?;
        self.is_sending = true;
        conn.notify_drained();
        self.end_response(conn, manner);
        Ok(())
    }

    /// A response has been sent, or its place is reserved.
    pub(super) fn end_response(&mut self, conn: &TcpConnection<'_>, manner: Manner) {
        if !manner.keeps_alive {
            self.is_finished = true;
            conn.shutdown_after_work();
        }
    }

    fn refuse(&mut self, conn: &TcpConnection<'_>, status: Status) -> Result<(), SendError> {
        let response = plain(status, status.phrase(), Manner::CLOSE);
        conn.send_owned(response).map_err(|refused| refused.reason())?;
        self.is_finished = true;
        // The response arrives although the peer may still be sending.
        conn.close_gracefully(CLOSING_TIME);
        Ok(())
    }
}

impl ConnectionHandler for Session {
    fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.state.borrow_mut().clients.add(conn.handle(), Instant::now());
        Ok(())
    }

    fn on_message(&mut self, conn: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()> {
        while !self.is_finished {
            match parse(input.readable()) {
                Parsed::Incomplete => {
                    let is_receiving = !input.is_empty();
                    if is_receiving != self.is_receiving {
                        self.is_receiving = is_receiving;
                        self.set_deadline(conn);
                    }
                    return Ok(());
                }
                Parsed::Refused(status) => self.refuse(conn, status)?,
                Parsed::Request(request) => {
                    input.consume(request.length);
                    self.is_receiving = false;
                    let now = Instant::now();
                    let is_allowed = {
                        let state = &mut *self.state.borrow_mut();
                        state.note_request(now);
                        state.clients.note_request(conn.id(), now);
                        // No page of another site can connect to a Unix socket.
                        conn.peer_address().as_unix().is_some()
                            || is_allowed_host(request.host.as_deref(), &state.allowed_hosts)
                    };
                    if is_allowed {
                        respond(self, conn, &request, now)?;
                    } else {
                        let manner = request.manner;
                        let reason = "this host is not allowed; see the inspector's documentation";
                        self.send(conn, plain(Status::MISDIRECTED, reason, manner), manner)?;
                    }
                    self.set_deadline(conn);
                }
            }
        }
        input.clear();
        Ok(())
    }

    fn on_drained(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.is_sending = false;
        self.set_deadline(conn);
        Ok(())
    }

    fn on_close(&mut self, conn: &TcpConnection<'_>, _: &CloseReason) {
        self.state.borrow_mut().clients.remove(conn.id());
    }
}
