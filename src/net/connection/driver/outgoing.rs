//! Outgoing connections: their initiators, and the sockets that they connect.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use super::adopted::Adopter;
use super::{Call, ConnectionDriver, has_handler, watched};
use crate::event_loop::EventLoop;
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::Contained;
use crate::net::connection::handler::ConnectionHandler;
use crate::net::connection::{ConnectionCore, ConnectionState, PendingConnection, TcpConnection};
use crate::net::result::CloseReason;

/// The initiator of an outgoing connection.
pub(in crate::net) trait Dialer {
    /// The connection with the source `id` is established, and the handshakes of its filters are
    /// done. It opens when this returns, unless it has been closed meanwhile.
    fn on_connected(&self, conn: &TcpConnection<'_>, id: ChannelId);

    /// Whether [`on_end`](Dialer::on_end) reports a failure.
    fn reports_failures(&self) -> bool;

    /// The handler has been created, and its `on_open` has returned. Returns what has waited for
    /// that. Later sends and calls go to the connection.
    fn on_opened(&self) -> VecDeque<Waiting>;

    /// The last call for the source `id`: the connection was closed, or could not be established.
    /// The handler's `on_close`, if there is a handler, has already run.
    fn on_end(self: Rc<Self>, event_loop: &EventLoop, id: ChannelId, reason: Contained<CloseReason>);
}

/// What has waited for an outgoing connection to open.
pub(in crate::net) enum Waiting {
    Bytes(Vec<u8>),
    Call(Call),
}

/// State of a connection whose handler is created later, because it is outgoing, adopted, or has
/// filters: its initiator, and the factory of its handler until the connection opens.
pub(in crate::net) struct Outgoing<H> {
    pub(super) dialer: Rc<dyn Dialer>,
    pub(super) make: Cell<Option<Box<Make<H>>>>,
    /// The connection is established, and its filters have been opened.
    pub(super) has_begun: Cell<bool>,
}

pub(super) type Make<H> = dyn FnOnce(&TcpConnection<'_>) -> H;

impl<H> Outgoing<H> {
    pub(in crate::net) fn new(
        dialer: Rc<dyn Dialer>,
        make: impl FnOnce(&TcpConnection<'_>) -> H + 'static,
    ) -> Outgoing<H> {
        Outgoing { dialer, make: Cell::new(Some(Box::new(make))), has_begun: Cell::new(false) }
    }

    /// For a connection of a server, which has no initiator.
    pub(super) fn accepted(make: impl FnOnce(&TcpConnection<'_>) -> H + 'static) -> Outgoing<H> {
        Outgoing::new(Rc::new(Adopter), make)
    }
}

/// Registers a connecting socket with the loop. The same registration serves the established
/// connection.
///
/// Calls no user code; the dialer is notified of every result later.
pub(in crate::net) fn dial<H: ConnectionHandler>(
    event_loop: &EventLoop,
    pending: PendingConnection,
    outgoing: Outgoing<H>,
) -> io::Result<ChannelId> {
    let connection = event_loop.register(watched(), |id| {
        let core = ConnectionCore::new(id, pending, ConnectionState::Connecting, has_handler::<H>);
        Rc::new(ConnectionDriver { core, handler: RefCell::new(None), outgoing: Some(Box::new(outgoing)) })
    })?;
    connection.core.update_wanted(event_loop);
    Ok(connection.core.id())
}
