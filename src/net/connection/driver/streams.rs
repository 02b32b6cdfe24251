//! Connections of pipes, terminals and other descriptors, and of the streams of a child process.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use super::adopted::{Adopter, ConnectionBuilder};
use super::{ConnectionDriver, Dialer, Outgoing, has_handler};
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::Contained;
use crate::event_loop::{EventLoop, Refused};
use crate::net::address::Address;
use crate::net::connection::handler::ConnectionHandler;
use crate::net::connection::{ConnectionCore, ConnectionHandle, ConnectionState, TcpConnection};
use crate::net::group::Group;
use crate::net::group::admission::AdmissionGuard;
use crate::net::sys::descriptors::{Descriptors, Directions};
use crate::net::sys::stream_fd::{StreamFd, check_direction, directions};
use crate::net::sys::transport::Transport;
use crate::readiness::Readiness;
use crate::sources::child::Child;

impl TcpConnection<'_> {
    /// Makes a connection of an input and an output, such as the standard input and output of the
    /// program. Same as
    /// [`ConnectionBuilder::adopt_pipes`](crate::net::ConnectionBuilder::adopt_pipes), with the
    /// default [limits](crate::net::ConnectionLimits).
    ///
    /// ```no_run
    /// use reveille::{Buffer, ConnectionHandler, EventLoop, TcpConnection};
    /// use std::io;
    /// use std::os::fd::AsFd;
    ///
    /// struct Copy;
    ///
    /// impl ConnectionHandler for Copy {
    ///     fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
    ///         Ok(conn.send(input.take_all())?)
    ///     }
    /// }
    ///
    /// # fn main() -> io::Result<()> {
    /// let event_loop = EventLoop::new()?;
    /// let input = io::stdin().as_fd().try_clone_to_owned()?;
    /// let output = io::stdout().as_fd().try_clone_to_owned()?;
    /// TcpConnection::adopt_pipes(&event_loop, input, output, |_| Copy)?;
    /// event_loop.run_until_idle()
    /// # }
    /// ```
    ///
    /// # Errors
    /// Same as [`ConnectionBuilder::adopt_pipes`](crate::net::ConnectionBuilder::adopt_pipes).
    pub fn adopt_pipes<D, E, F, H>(
        event_loop: &EventLoop,
        input: D,
        output: E,
        factory: F,
    ) -> Result<ConnectionHandle, Refused<(D, E), io::Error>>
    where
        D: Into<OwnedFd> + From<OwnedFd>,
        E: Into<OwnedFd> + From<OwnedFd>,
        F: FnOnce(&TcpConnection<'_>) -> H + 'static,
        H: ConnectionHandler,
    {
        TcpConnection::builder(event_loop).adopt_pipes(input, output, factory)
    }
}

impl ConnectionBuilder<'_> {
    /// Makes a connection of two descriptors: it reads one and writes the other. They may be pipes,
    /// FIFOs, terminals, serial lines, stream sockets, files, or devices such as `/dev/null`. Two
    /// duplicates of one open file are allowed, such as the standard input and output in a
    /// terminal.
    ///
    /// A [shutdown](TcpConnection::shutdown) closes the output, after all bytes that were sent.
    /// Otherwise it is closed with the connection. A duplicate of it, also in another process,
    /// keeps it open for its reader.
    ///
    /// Everything else is as in [`adopt`](ConnectionBuilder::adopt).
    ///
    /// # Errors
    /// - [`InvalidInput`](io::ErrorKind::InvalidInput) if one is not a stream (a directory, an
    ///   eventfd, a listening socket), if `input` is not open for reading, or if `output` is not
    ///   open for writing.
    /// - [`Unsupported`](io::ErrorKind::Unsupported) in a forked child of the loop's process.
    /// - The errors of fcntl(2), epoll_create(2) and epoll_ctl(2).
    ///
    /// The error returns both descriptors unchanged.
    pub fn adopt_pipes<D, E, F, H>(
        mut self,
        input: D,
        output: E,
        factory: F,
    ) -> Result<ConnectionHandle, Refused<(D, E), io::Error>>
    where
        D: Into<OwnedFd> + From<OwnedFd>,
        E: Into<OwnedFd> + From<OwnedFd>,
        F: FnOnce(&TcpConnection<'_>) -> H + 'static,
        H: ConnectionHandler,
    {
        let outgoing = outgoing(self.dialer.take(), factory);
        let registered = self.register_pipes(input.into(), output.into(), outgoing);
        registered.map_err(|refused| refused.map(|(input, output)| (D::from(input), E::from(output))))
    }

    /// Makes a connection of one descriptor that is not a socket.
    pub(super) fn register_stream<H: ConnectionHandler>(
        self,
        fd: OwnedFd,
        outgoing: Outgoing<H>,
    ) -> Result<ConnectionHandle, Refused<OwnedFd, io::Error>> {
        let checked = self.event_loop().check_process().and_then(|()| directions(fd.as_fd()));
        match checked {
            Ok(directions) => {
                let descriptors = Descriptors::one(StreamFd::prepare(fd)?, directions);
                let registered = self.register_descriptors(descriptors, outgoing);
                registered.map_err(|refused| refused.map(|descriptors| descriptors.into_originals().0))
            }
            Err(error) => Err(Refused::new(fd, error)),
        }
    }

    fn register_pipes<H: ConnectionHandler>(
        self,
        input: OwnedFd,
        output: OwnedFd,
        outgoing: Outgoing<H>,
    ) -> Result<ConnectionHandle, Refused<(OwnedFd, OwnedFd), io::Error>> {
        let event_loop = self.event_loop();
        let checked = event_loop
            .check_process()
            .and_then(|()| check_direction(input.as_fd(), Directions::Input))
            .and_then(|()| check_direction(output.as_fd(), Directions::Output));
        if let Err(error) = checked {
            return Err(Refused::new((input, output), error));
        }
        let input = match StreamFd::prepare(input) {
            Ok(input) => input,
            Err(refused) => return Err(refused.map(|input| (input, output))),
        };
        let output = match StreamFd::prepare(output) {
            Ok(output) => output,
            Err(refused) => return Err(refused.map(|output| (input.into_original(), output))),
        };
        let descriptors = Descriptors::two(event_loop, input, output).map_err(|refused| {
            refused.map(|(input, output)| (input.into_original(), output.into_original()))
        })?;
        self.register_descriptors(descriptors, outgoing).map_err(|refused| {
            refused.map(|descriptors| {
                let (input, output) = descriptors.into_originals();
                (input, output.expect("a stream of two descriptors"))
            })
        })
    }

    fn register_descriptors<H: ConnectionHandler>(
        self,
        descriptors: Descriptors,
        outgoing: Outgoing<H>,
    ) -> Result<ConnectionHandle, Refused<Descriptors, io::Error>> {
        let event_loop = self.event_loop();
        let (interest, ready) = (descriptors.interest(), descriptors.always_ready());
        let registered = event_loop.register_adopted(
            descriptors,
            Descriptors::watched,
            interest,
            |id, mut descriptors| {
                descriptors.attach(id);
                let (has_input, has_output) = (descriptors.has_input(), descriptors.has_output());
                let transport = Transport::Descriptors(Box::new(descriptors));
                let connection = connect(&self.group(), id, transport, outgoing);
                connection.core.limit_directions(has_input, has_output);
                connection
            },
        );
        registered.map(|connection| start(event_loop, &connection, ready))
    }
}

impl Child {
    /// Makes a connection of the process's standard input and output: what is sent goes to its
    /// input, and its output is the input of the handler. A
    /// [shutdown](TcpConnection::shutdown) closes the process's input. If only one of the two is a
    /// pipe, the connection has only that direction.
    ///
    /// The standard error is taken by [`take_stderr`](Child::take_stderr), for a connection of its
    /// own ([`TcpConnection::adopt`]).
    ///
    /// ```
    /// use reveille::process::Child;
    /// use reveille::{Buffer, ConnectionHandler, EventLoop, TcpConnection};
    /// use std::io;
    /// use std::process::{Command, Stdio};
    ///
    /// struct Count(usize);
    ///
    /// impl ConnectionHandler for Count {
    ///     fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
    ///         conn.send_owned(vec![b'x'; 1 << 20])?;
    ///         conn.shutdown(); // closes cat's input after the last byte
    ///         Ok(())
    ///     }
    ///     fn on_message(&mut self, _: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
    ///         self.0 += input.take_all().len();
    ///         Ok(())
    ///     }
    ///     fn on_peer_shutdown(&mut self, _: &TcpConnection) -> io::Result<()> {
    ///         assert_eq!(self.0, 1 << 20);
    ///         Ok(())
    ///     }
    /// }
    ///
    /// # fn main() -> io::Result<()> {
    /// let event_loop = EventLoop::new()?;
    /// let mut command = Command::new("cat");
    /// command.stdin(Stdio::piped()).stdout(Stdio::piped());
    /// let mut cat = Child::spawn(&event_loop, &mut command, |_, status| assert!(status.is_ok()))?;
    /// cat.connect(&event_loop, |_| Count(0))?;
    /// event_loop.run_until_idle()
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`NotFound`](io::ErrorKind::NotFound) if neither is a pipe, or they have been taken.
    /// Otherwise same as
    /// [`ConnectionBuilder::adopt_pipes`](crate::net::ConnectionBuilder::adopt_pipes). The child
    /// keeps the pipes then.
    pub fn connect<F, H>(&mut self, event_loop: &EventLoop, factory: F) -> io::Result<ConnectionHandle>
    where
        F: FnOnce(&TcpConnection<'_>) -> H + 'static,
        H: ConnectionHandler,
    {
        match (self.take_stdin(), self.take_stdout()) {
            (Some(input), Some(output)) => TcpConnection::adopt_pipes(event_loop, output, input, factory)
                .map_err(|refused| {
                    let ((output, input), error) = refused.into_parts();
                    self.put_back(Some(input), Some(output));
                    error
                }),
            (input, output) => {
                let is_input = input.is_some();
                let none = || io::Error::new(io::ErrorKind::NotFound, "the process has no pipe to connect");
                let pipe: File = input.or(output).ok_or_else(none)?;
                TcpConnection::adopt(event_loop, pipe, factory).map_err(|refused| {
                    let (pipe, error) = refused.into_parts();
                    if is_input {
                        self.put_back(Some(pipe), None)
                    } else {
                        self.put_back(None, Some(pipe))
                    }
                    error
                })
            }
        }
    }
}

pub(super) fn outgoing<F, H>(dialer: Option<Rc<dyn Dialer>>, factory: F) -> Outgoing<H>
where
    F: FnOnce(&TcpConnection<'_>) -> H + 'static,
    H: ConnectionHandler,
{
    let factory = Contained::new(factory);
    let dialer = dialer.unwrap_or_else(|| Rc::new(Adopter));
    Outgoing::new(dialer, move |conn: &TcpConnection<'_>| factory.into_inner()(conn))
}

pub(super) fn connect<H: ConnectionHandler>(
    group: &Arc<Group>,
    id: ChannelId,
    transport: Transport,
    outgoing: Outgoing<H>,
) -> Rc<ConnectionDriver<H>> {
    let membership = group.join(0, AdmissionGuard::default());
    let (peer, state) = (Address::Unaddressed, ConnectionState::Open);
    let core = ConnectionCore::with_transport(id, transport, peer, membership, state, has_handler::<H>);
    // The program may have duplicated the descriptor.
    core.lend_fd();
    Rc::new(ConnectionDriver { core, handler: RefCell::new(None), outgoing: Some(Box::new(outgoing)) })
}

/// Callbacks do not nest, so the connection opens when it first runs.
pub(super) fn start<H: ConnectionHandler>(
    event_loop: &EventLoop,
    connection: &ConnectionDriver<H>,
    ready: Readiness,
) -> ConnectionHandle {
    let core = &connection.core;
    core.update_wanted(event_loop);
    event_loop.add_ready(core.id(), ready | Readiness::SELF_WAKE);
    core.handle()
}
