//! Pairs in memory: two connections that are each other's peers.

use std::io;
use std::sync::Arc;

use super::Outgoing;
use super::adopted::ConnectionBuilder;
use super::streams::{connect, outgoing, start};
use crate::event_loop::EventLoop;
use crate::net::connection::handler::ConnectionHandler;
use crate::net::connection::{ConnectionHandle, TcpConnection};
use crate::net::filter::FilterFactories;
use crate::net::group::Group;
use crate::net::sys::memory::MemoryEnd;
use crate::net::sys::transport::Transport;
use crate::readiness::{Interest, Readiness};

impl TcpConnection<'_> {
    /// Makes two connections on `event_loop` that are each other's peers. Same as
    /// [`ConnectionBuilder::pair`](crate::net::ConnectionBuilder::pair), with the default
    /// [limits](crate::net::ConnectionLimits).
    ///
    /// ```
    /// use reveille::{Buffer, ConnectionHandler, EventLoop, TcpConnection};
    /// use std::io;
    ///
    /// struct Ask;
    /// struct Reply;
    ///
    /// impl ConnectionHandler for Ask {
    ///     fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
    ///         Ok(conn.send("6 * 7")?)
    ///     }
    ///     fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
    ///         assert_eq!(input.take_all(), b"42");
    ///         conn.close();
    ///         Ok(())
    ///     }
    /// }
    ///
    /// impl ConnectionHandler for Reply {
    ///     fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
    ///         assert_eq!(input.take_all(), b"6 * 7");
    ///         Ok(conn.send("42")?)
    ///     }
    /// }
    ///
    /// # fn main() -> io::Result<()> {
    /// let event_loop = EventLoop::new()?;
    /// TcpConnection::pair(&event_loop, |_| Ask, |_| Reply)?;
    /// event_loop.run_until_idle()
    /// # }
    /// ```
    ///
    /// # Errors
    /// Same as [`ConnectionBuilder::pair`](crate::net::ConnectionBuilder::pair).
    pub fn pair<F, G, A, B>(
        event_loop: &EventLoop,
        one: F,
        other: G,
    ) -> io::Result<(ConnectionHandle, ConnectionHandle)>
    where
        F: FnOnce(&TcpConnection<'_>) -> A + 'static,
        G: FnOnce(&TcpConnection<'_>) -> B + 'static,
        A: ConnectionHandler,
        B: ConnectionHandler,
    {
        TcpConnection::builder(event_loop).pair(one, other)
    }
}

impl ConnectionBuilder<'_> {
    /// Makes two connections that are each other's peers, with the same limits. The
    /// [filters](ConnectionBuilder::filter) are those of the first. The bytes are
    /// passed in memory: no descriptor is used, and no system call is made. Each direction holds at
    /// most 64 KiB, then sends are queued as with a socket.
    ///
    /// It connects two handlers of a program, or runs handlers and codecs in a test; see also
    /// [`Peer`](crate::testing::Peer). The ends behave like a pair of connected sockets. The close
    /// of one that has unread input is a reset for the other.
    ///
    /// The connections do not count for [`run_until_idle`](EventLoop::run_until_idle): while both
    /// are idle, nothing but a timer, a task or another source can change that.
    ///
    /// # Errors
    /// [`Unsupported`](io::ErrorKind::Unsupported) in a forked child of the loop's process.
    /// [`Other`](io::ErrorKind::Other) while the loop is being dropped.
    pub fn pair<F, G, A, B>(mut self, one: F, other: G) -> io::Result<(ConnectionHandle, ConnectionHandle)>
    where
        F: FnOnce(&TcpConnection<'_>) -> A + 'static,
        G: FnOnce(&TcpConnection<'_>) -> B + 'static,
        A: ConnectionHandler,
        B: ConnectionHandler,
    {
        let (one, other) = (outgoing(self.dialer.take(), one), outgoing(None, other));
        let (one_end, other_end) = MemoryEnd::pair();
        let one = self.register_end(self.group(), one_end, one)?;
        match self.register_end(self.group_with(FilterFactories::default()), other_end, other) {
            Ok(other) => Ok((one, other)),
            Err(error) => {
                one.close();
                Err(error)
            }
        }
    }

    /// Makes a connection of one end of a pair.
    pub(in crate::net) fn connect_end<F, H>(&self, end: MemoryEnd, factory: F) -> io::Result<ConnectionHandle>
    where
        F: FnOnce(&TcpConnection<'_>) -> H + 'static,
        H: ConnectionHandler,
    {
        self.register_end(self.group(), end, outgoing(None, factory))
    }

    fn register_end<H: ConnectionHandler>(
        &self,
        group: Arc<Group>,
        end: MemoryEnd,
        outgoing: Outgoing<H>,
    ) -> io::Result<ConnectionHandle> {
        let event_loop = self.event_loop();
        event_loop.check_process()?;
        let registered = event_loop.register_adopted(
            end,
            |_| None,
            Interest::READABLE | Interest::WRITABLE,
            |id, end| {
                end.attach(event_loop, id);
                connect(&group, id, Transport::Memory(Box::new(end)), outgoing)
            },
        );
        let connection = registered.map_err(|refused| refused.into_parts().1)?;
        event_loop.set_counted(connection.core.id(), false);
        Ok(start(event_loop, &connection, Readiness::READABLE | Readiness::WRITABLE))
    }
}
