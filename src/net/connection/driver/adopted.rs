//! `ConnectionBuilder`: makes connections of descriptors that the program has.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use super::streams::outgoing;
use super::{ConnectionDriver, Dialer, Outgoing, Waiting, has_handler, watched};
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::Contained;
use crate::event_loop::{EventLoop, Refused};
use crate::net::connection::handler::ConnectionHandler;
use crate::net::connection::{
    ConnectionCore, ConnectionHandle, ConnectionState, PendingConnection, TcpConnection,
};
use crate::net::filter::{Filter, FilterFactories};
use crate::net::group::Group;
use crate::net::group::admission::{AdmissionGuard, Quota};
use crate::net::limits::ConnectionLimits;
use crate::net::result::CloseReason;
use crate::net::sys::adopted::{Flags, check_connection};
use crate::net::sys::stream_fd::is_socket;
use crate::readiness::Readiness;

/// Makes a connection of descriptors that the program has, or in memory. Created by
/// [`TcpConnection::builder`].
///
/// # Descriptors that are not sockets
/// - The directions are those that the descriptor is open for. A connection without an input
///   has no end of input, and closes when it is [shut down](TcpConnection::shutdown), or when
///   nothing reads the pipe any more. One without an output is shut down from the start: it is
///   [`Closing`](crate::net::ConnectionState::Closing), and closes after the end of its input.
///   A FIFO that is open for both directions is an input, which has no end.
/// - A shutdown of a terminal or serial line ends the output for the handler only. Two
///   descriptors have a half-close: [`adopt_pipes`](ConnectionBuilder::adopt_pipes).
/// - The end of input is the close of the last writer of a pipe, the end of a file, Ctrl-D in a
///   terminal, or the hang-up of a terminal (on the master, `EIO`).
/// - There is no reset, and nothing is acknowledged: a close is always the same for the reader,
///   and bytes that the kernel has taken count as delivered. The
///   [peer](TcpConnection::peer_address) is [`Unaddressed`](crate::net::Address::Unaddressed), and
///   methods for sockets fail with [`Unsupported`](io::ErrorKind::Unsupported).
/// - Regular files and devices such as `/dev/null`, which epoll rejects, are always ready. One
///   read of the size of the loop's input buffer is made per turn. It may block the loop while
///   the disk is read: [`FileIo`](crate::fs::FileIo) does not.
/// - A terminal, pipe or FIFO that is not in non-blocking mode is opened again through
///   `/proc/self/fd`, because that mode would also apply to all other programs that share it,
///   such as the shell. If that is not possible, its mode is changed, and restored when the
///   connection closes. A program that is killed does not restore it.
/// - A write to a pipe without a reader raises `SIGPIPE`, which Rust programs ignore by
///   default, and returns `EPIPE`, which ends the output. In a program that does not ignore it
///   (started by a `main` in C), the signal ends the process.
/// - If a write fails after a part of the bytes, all of them count as unsent.
#[must_use = "`adopt` makes the connection"]
pub struct ConnectionBuilder<'a> {
    event_loop: &'a EventLoop,
    limits: ConnectionLimits,
    filters: FilterFactories,
    /// Notified of the end of the connection, of the first one of a pair.
    pub(super) dialer: Option<Rc<dyn Dialer>>,
}

impl fmt::Debug for ConnectionBuilder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionBuilder").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl TcpConnection<'_> {
    /// Makes a connection on `event_loop` of a descriptor that the program has: a connected socket,
    /// a pipe, a terminal, a file. Same as
    /// [`ConnectionBuilder::adopt`](crate::net::ConnectionBuilder::adopt), with the default
    /// [limits](crate::net::ConnectionLimits).
    ///
    /// ```
    /// use reveille::{Buffer, EventLoop, ConnectionHandler, TcpConnection};
    /// use std::io::{self, Read, Write};
    /// use std::os::unix::net::UnixStream;
    ///
    /// struct Echo;
    ///
    /// impl ConnectionHandler for Echo {
    ///     fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
    ///         conn.send(input.take_all())?;
    ///         conn.event_loop().quit();
    ///         Ok(())
    ///     }
    /// }
    ///
    /// # fn main() -> io::Result<()> {
    /// let event_loop = EventLoop::new()?;
    /// let (mut peer, socket) = UnixStream::pair()?;
    /// let connection = TcpConnection::adopt(&event_loop, socket, |_| Echo)?;
    /// peer.write_all(b"hello")?;
    /// event_loop.run()?;
    /// peer.read_exact(&mut [0; 5])?;
    /// connection.close();
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Same as [`ConnectionBuilder::adopt`](crate::net::ConnectionBuilder::adopt).
    pub fn adopt<D, F, H>(
        event_loop: &EventLoop,
        descriptor: D,
        factory: F,
    ) -> Result<ConnectionHandle, Refused<D, io::Error>>
    where
        D: Into<OwnedFd> + From<OwnedFd>,
        F: FnOnce(&TcpConnection<'_>) -> H + 'static,
        H: ConnectionHandler,
    {
        TcpConnection::builder(event_loop).adopt(descriptor, factory)
    }

    /// A builder of a connection on `event_loop` that is made of what the program has.
    pub fn builder(event_loop: &EventLoop) -> ConnectionBuilder<'_> {
        let (limits, filters) = (ConnectionLimits::new(), FilterFactories::default());
        ConnectionBuilder { event_loop, limits, filters, dialer: None }
    }
}

impl<'a> ConnectionBuilder<'a> {
    pub(in crate::net) fn event_loop(&self) -> &'a EventLoop {
        self.event_loop
    }

    /// Sets the initiator, which is notified of the end of a handshake that fails.
    pub(in crate::net) fn dialer(mut self, dialer: Rc<dyn Dialer>) -> Self {
        self.dialer = Some(dialer);
        self
    }

    /// A group for the connection.
    pub(super) fn group(&self) -> Arc<Group> {
        self.group_with(self.filters.clone())
    }

    pub(super) fn group_with(&self, filters: FilterFactories) -> Arc<Group> {
        Group::new(self.limits, filters, None, Quota::default(), [self.event_loop.handle()])
    }

    /// The limits of the connection. Default: those of [`ConnectionLimits::new`].
    pub fn limits(mut self, limits: ConnectionLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Adds a [`Filter`](crate::net::Filter) between the connection's descriptor and its handler.
    /// The order of the calls is the order from the descriptor to the handler.
    pub fn filter<F: Filter>(mut self, make: impl Fn() -> F + Send + Sync + 'static) -> Self {
        self.filters.add(make);
        self
    }

    /// Makes a connection of a descriptor: a [`TcpStream`](std::net::TcpStream), a
    /// [`UnixStream`](std::os::unix::net::UnixStream), a stream socket of another family such as
    /// vsock, a pipe, a FIFO, a terminal, a serial line, a file, or an [`OwnedFd`] of one of these.
    /// Everything that holds for other connections holds for this one.
    ///
    /// The descriptor becomes non-blocking and close-on-exec; the socket's options remain. Bytes
    /// that arrived before are delivered. The loop calls `factory`, and then
    /// [`on_open`](ConnectionHandler::on_open), in its current or next turn, but never within this
    /// call. If the connection is closed before that, there is no handler, and `factory` is
    /// dropped.
    ///
    /// The connection lives until it closes or its loop ends; it belongs to no server or client. To
    /// adopt a socket on the loop of another thread, call this in a task that
    /// [`LoopHandle::run_in_loop`](crate::LoopHandle::run_in_loop) posts there.
    ///
    /// A duplicate of the descriptor, here or in another process, keeps the socket open after the
    /// close, so the peer sees neither the end nor a reset until it is closed too. It shares the
    /// non-blocking mode.
    ///
    /// What differs for pipes, terminals and files is described at
    /// [`ConnectionBuilder`](ConnectionBuilder#descriptors-that-are-not-sockets).
    ///
    /// # Errors
    /// - [`InvalidInput`](io::ErrorKind::InvalidInput) if the descriptor is not a stream (a
    ///   directory, an eventfd, a datagram socket), if it listens, or if it is a regular file that
    ///   is open for reading and writing.
    /// - [`NotConnected`](io::ErrorKind::NotConnected) if it is not connected, or was reset.
    /// - [`Unsupported`](io::ErrorKind::Unsupported) in a forked child of the loop's process.
    /// - The errors of fcntl(2) and epoll_ctl(2).
    ///
    /// The error returns the descriptor, with its flags unchanged. A socket whose peer has closed
    /// is adopted: its remaining input is delivered, and then the end.
    pub fn adopt<D, F, H>(
        mut self,
        descriptor: D,
        factory: F,
    ) -> Result<ConnectionHandle, Refused<D, io::Error>>
    where
        D: Into<OwnedFd> + From<OwnedFd>,
        F: FnOnce(&TcpConnection<'_>) -> H + 'static,
        H: ConnectionHandler,
    {
        let outgoing = outgoing(self.dialer.take(), factory);
        let fd = descriptor.into();
        let registered = match is_socket(fd.as_fd()) {
            true => self.register(fd, outgoing),
            false => self.register_stream(fd, outgoing),
        };
        registered.map_err(|refused| refused.map(D::from))
    }

    fn register<H: ConnectionHandler>(
        self,
        fd: OwnedFd,
        outgoing: Outgoing<H>,
    ) -> Result<ConnectionHandle, Refused<OwnedFd, io::Error>> {
        let event_loop = self.event_loop;
        let checked = event_loop.check_process().and_then(|()| check_connection(&fd));
        let prepared = checked.and_then(|peer| Ok((peer, Flags::prepare(&fd)?)));
        let (peer, flags) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return Err(Refused::new(fd, error)),
        };
        let registered = event_loop.register_adopted(
            fd,
            |fd| Some(fd.as_fd()),
            watched(),
            |id, fd| {
                let membership = self.group().join(0, AdmissionGuard::default());
                let pending = PendingConnection { fd, peer, membership };
                let core = ConnectionCore::new(id, pending, ConnectionState::Open, has_handler::<H>);
                // The program may have duplicated it.
                core.lend_fd();
                let outgoing = Some(Box::new(outgoing));
                Rc::new(ConnectionDriver { core, handler: RefCell::new(None), outgoing })
            },
        );
        match registered {
            Ok(connection) => {
                let core = &connection.core;
                core.update_wanted(event_loop);
                // Callbacks do not nest, so the connection opens when it first runs.
                event_loop.add_ready(core.id(), Readiness::SELF_WAKE);
                Ok(core.handle())
            }
            Err(refused) => Err(refused.map(|fd| {
                flags.restore(&fd);
                fd
            })),
        }
    }
}

/// The initiator of an adopted or accepted connection. Nothing waits for the connection.
pub(super) struct Adopter;

impl Dialer for Adopter {
    fn on_connected(&self, _conn: &TcpConnection<'_>, _id: ChannelId) {}

    fn reports_failures(&self) -> bool {
        false
    }

    fn on_opened(&self) -> VecDeque<Waiting> {
        VecDeque::new()
    }

    fn on_end(self: Rc<Self>, _event_loop: &EventLoop, _id: ChannelId, _reason: Contained<CloseReason>) {}
}

impl<H: ConnectionHandler> ConnectionDriver<H> {
    /// Opens a connection that has been adopted and is not open yet.
    pub(super) fn open_adopted(&self, event_loop: &EventLoop) {
        let is_waiting = self.outgoing.as_ref().is_some_and(|outgoing| !outgoing.has_begun.get());
        if is_waiting && !matches!(self.core.state(), ConnectionState::Connecting | ConnectionState::Closed) {
            self.begin(event_loop);
        }
    }
}
