//! The state of a connection, its id, and its description.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::ConnectionCore;
use crate::event_loop::Description;
use crate::net::address::Address;

/// The state of a connection.
///
/// | state | may send | left by |
/// |---|---|---|
/// | `Connecting` | no | the connection is established, or fails |
/// | `Open` | yes | shutdown, graceful close, write error: `Closing`; close, read error: `Closed` |
/// | `Closing` | no | queue and FIN sent, FIN received; close; error; deadline: `Closed` |
/// | `Closed` | no | never |
///
/// The peer's FIN alone does not change the state. It ends the input; accepted output is still
/// sent.
///
/// A write that fails because the peer has closed or reset the connection ends the output only. The
/// queue is dropped and stays counted as [unsent](crate::TcpConnection::unsent), later sends are
/// refused, and the input that the peer sent before is still delivered. When the input has ended,
/// the connection closes with the first error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionState {
    /// Not established yet.
    Connecting,
    /// Established; both ends may send.
    Open,
    /// Shut down by this end: the queue is sent, then the FIN. Also entered when the output has
    /// failed; the input is still delivered.
    Closing,
    /// Closed.
    Closed,
}

/// Identifies a connection within the process. An id is never reused; later connections have larger
/// ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(u64);

impl ConnectionId {
    pub(super) fn next() -> ConnectionId {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        ConnectionId(NEXT.fetch_add(1, Relaxed))
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl ConnectionCore {
    /// The connection with its peer, once it is established.
    pub(super) fn describe(&self) -> Description {
        let connection = Description::of("a connection");
        match self.peer.get() {
            Some(Address::Inet(peer)) => connection.address("with", *peer),
            Some(Address::Unaddressed) => connection.detail("without an address"),
            Some(peer) => connection.detail(format_args!("with {peer}")),
            None => connection,
        }
    }
}
