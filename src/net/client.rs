//! A client: where it connects to, how long and how often it tries, and how it ends.

pub(in crate::net) mod attempt;
pub(in crate::net) mod backoff;
pub(in crate::net) mod connector;
pub(in crate::net) mod lookup;

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use self::attempt::{ConnectAttempt, ConnectError};
use self::backoff::Backoff;
use self::connector::{Connector, Dial, OnAttempt, OnFailure, Settings};
use super::connection::{ConnectionHandle, PendingConnection, TcpConnection};
use super::group::{Group, Limits};
use super::options::SocketOptions;
use super::result::IntoHandlerResult;
use super::target::ConnectTarget;
use crate::buffer::Buffer;
use crate::event_loop::containment::Contained;
use crate::event_loop::{EventLoop, WeakLoop};
use crate::net::connection::driver::{Dialer, Outgoing, dial};
use crate::net::connection::handler::{ConnectionHandler, shared};
use crate::net::group::admission::Quota;

/// A client, for as long as this value lives: it connects, and serves the one connection that it makes.
///
/// It begins when its loop runs. The connection is of the same kind as a server's: the same handlers, limits and handles. Usually
/// there is one, and what it ends with is the end of the client; see [`retry`](TcpClientBuilder::retry) and
/// [`reconnect`](TcpClientBuilder::reconnect) for one that goes on trying.
///
/// What its connection holds unsent and unread counts towards the limit of
/// [all servers and clients](crate::TcpServerBuilder::max_buffered) of the process. When that is exceeded a client's connection is
/// closed as others are, with [`CloseReason::MemoryLimit`](crate::CloseReason::MemoryLimit), if it holds most and progresses least.
///
/// Dropping the client ends it at once, whatever it is about to do, from inside a callback too: a session that is open is closed,
/// and its handler is told that ([`CloseReason::Stopped`](crate::CloseReason::Stopped)). Nothing else of the client is called from then on.
///
/// ```
/// use reveille::{Buffer, ConnectionHandler, EventLoop, TcpClient, TcpConnection, TcpServer};
/// use std::io;
/// use std::time::Duration;
///
/// struct Greeter;
///
/// impl ConnectionHandler for Greeter {
///     fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
///         conn.send("hello")?;
///         Ok(())
///     }
///
///     fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
///         assert_eq!(input.take_all(), b"hello");
///         conn.event_loop().quit();
///         Ok(())
///     }
/// }
///
/// # fn main() -> io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// let server = TcpServer::bind(&event_loop, "127.0.0.1:0")?
///     .serve_fn(|conn, input| conn.send(input.take_all()))?;
///
/// let _client = TcpClient::connect(&event_loop, server.local_addr())
///     .timeout(Duration::from_secs(5))
///     .on_failure(|event_loop, error| {
///         eprintln!("{error}");
///         event_loop.quit();
///     })
///     .serve(|_| Greeter)?;
/// event_loop.run()
/// # }
/// ```
#[must_use = "a client ends when it is dropped"]
pub struct TcpClient {
    event_loop: WeakLoop,
    connector: Rc<Connector>,
}

impl TcpClient {
    /// Begins a client that connects to `target`: a socket address or several, a name with a port, or a Unix socket
    /// ([`UnixAddress`](crate::UnixAddress)).
    ///
    /// A name is looked up later and on another thread, so this never blocks; an address needs no lookup and no thread. The
    /// process has 16 threads for lookups at most, and none while there is nothing to look up. Clients that need the same name at the
    /// same time share a lookup; other names wait for a thread in order, and the wait counts for the
    /// [time-out](TcpClientBuilder::timeout) of the attempt. A client that ends takes its waiting lookup back. The system's resolver
    /// cannot be interrupted: a lookup that has begun keeps its thread for as long as the resolver takes, and its late answer is
    /// dropped. No lookup keeps the process from ending.
    ///
    /// A Unix socket is connected to at once or not at all: where as many wait as the backlog allows, the attempt fails with
    /// [`WouldBlock`](io::ErrorKind::WouldBlock), which a [`retry`](TcpClientBuilder::retry) is for. There
    /// [`local_addr`](TcpClientBuilder::local_addr) is an error.
    pub fn connect(event_loop: &EventLoop, target: impl Into<ConnectTarget>) -> TcpClientBuilder<'_> {
        TcpClientBuilder {
            event_loop,
            target: target.into(),
            settings: Settings {
                timeout: Duration::from_secs(10),
                retry: None,
                reconnect: false,
                local: None,
                options: SocketOptions::new(),
            },
            limits: Limits::default(),
            on_attempt: None,
            on_failure: None,
        }
    }

    /// The handle of the session, while one is open. With [`reconnect`](TcpClientBuilder::reconnect) each session has another.
    pub fn handle(&self) -> Option<ConnectionHandle> {
        self.connector.handle()
    }

    /// Ends the client, as dropping it does. Once it has ended this does nothing.
    ///
    /// A session that is to end in order is [shut down](ConnectionHandle::shutdown) instead. One that is not to be followed by another
    /// calls this from its `on_close`, or before.
    pub fn stop(&self) {
        self.event_loop.with(|event_loop| self.connector.stop(event_loop));
    }
}

impl Drop for TcpClient {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for TcpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpClient")
            .field("target", &self.connector.target())
            .field("phase", &self.connector.phase_name())
            .finish_non_exhaustive()
    }
}

/// A client that is being made, from [`TcpClient::connect`].
#[must_use = "a client is made by `on_message` or `serve`"]
pub struct TcpClientBuilder<'a> {
    event_loop: &'a EventLoop,
    target: ConnectTarget,
    settings: Settings,
    limits: Limits,
    on_attempt: Option<OnAttempt>,
    on_failure: Option<OnFailure>,
}

impl TcpClientBuilder<'_> {
    /// How long a connection may be idle before its handler is told, which closes it unless
    /// [written](ConnectionHandler::on_idle) otherwise. Usually for ever. See
    /// [`set_idle_timeout`](TcpConnection::set_idle_timeout).
    ///
    /// # Panics
    /// If the timeout is zero.
    #[track_caller]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        assert!(!timeout.is_zero(), "a connection cannot be idle for no time at all");
        self.limits.idle_timeout = Some(timeout);
        self
    }

    /// How long one attempt may take: the lookup of the name, and then each of its addresses. Usually 10 s; the kernel's own
    /// patience is about two minutes.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = timeout;
        self
    }

    /// Has the client try again when all addresses have failed. Usually it gives up then.
    pub fn retry(mut self, backoff: Backoff) -> Self {
        self.settings.retry = Some(backoff);
        self
    }

    /// Whether the client connects again when a session has ended, whoever has ended it and however. Usually it does not.
    ///
    /// It waits first, for the delays of [`retry`](TcpClientBuilder::retry), or of `Backoff::new()` without that; they begin anew after a
    /// session that has lasted as long as the longest of them, and grow on after a shorter one. The number of retries
    /// counts from the end of the session. The new session has a handler of its own, and the old one's `on_close` comes
    /// before anything of it. Without `retry` a lost session is tried for once.
    pub fn reconnect(mut self, reconnect: bool) -> Self {
        self.settings.reconnect = reconnect;
        self
    }

    /// The address to connect from. By default the kernel chooses the address and the port. With port 0 it chooses a port that is
    /// free for the destination, so that connections to several destinations may share a port (`IP_BIND_ADDRESS_NO_PORT`).
    ///
    /// Addresses of the other family than this one cannot be connected to.
    pub fn local_addr(mut self, local: SocketAddr) -> Self {
        self.settings.local = Some(local);
        self
    }

    /// Whether small writes go out at once (`TCP_NODELAY`). Usually they do.
    pub fn nodelay(mut self, nodelay: bool) -> Self {
        self.settings.options = self.settings.options.nodelay(nodelay);
        self
    }

    /// The options of the client's sockets, in place of all that were given before,
    /// [`nodelay`](TcpClientBuilder::nodelay) included. One that the kernel does not take fails the attempt.
    pub fn socket_options(mut self, options: SocketOptions) -> Self {
        self.settings.options = options;
        self
    }

    /// The high-water mark and the low-water mark of the connection's unsent bytes. Default: 4 MiB and 1 MiB.
    ///
    /// Only replies, which the handler sends while it is given input, stop the connection from reading; unsolicited output does
    /// not. See [`TcpServerBuilder::water_marks`](crate::TcpServerBuilder::water_marks) for the rule.
    pub fn water_marks(mut self, high: usize, low: usize) -> Self {
        self.limits.high_water = high;
        self.limits.low_water = low.min(high);
        self
    }

    /// Disables the automatic pause, as
    /// [`TcpServerBuilder::no_automatic_pause`](crate::TcpServerBuilder::no_automatic_pause).
    pub fn no_automatic_pause(mut self) -> Self {
        self.limits.pauses_for_replies = false;
        self
    }

    /// As [`TcpServerBuilder::max_unsent`](crate::TcpServerBuilder::max_unsent).
    pub fn max_unsent(mut self, bytes: usize) -> Self {
        self.limits.max_unsent = bytes;
        self
    }

    /// As [`TcpServerBuilder::max_unread`](crate::TcpServerBuilder::max_unread).
    pub fn max_unread(mut self, bytes: usize) -> Self {
        self.limits.max_unread = bytes;
        self
    }

    /// Has `on_attempt` called with the result of each attempt, good or bad, once for each: for a log, or for counting.
    ///
    /// A good one is reported before its session's handler is made. A panic in it is caught, as everywhere, and
    /// changes nothing.
    pub fn on_attempt(mut self, on_attempt: impl FnMut(&EventLoop, &ConnectAttempt<'_>) + 'static) -> Self {
        self.on_attempt = Some(Contained::new(Box::new(on_attempt)));
        self
    }

    /// Has `on_failure` called when the client gives up, because the last attempt that it may make has failed. Without this, it
    /// is logged as a warning.
    ///
    /// Called once at most, and never for a client that was stopped or whose loop has ended.
    pub fn on_failure(mut self, on_failure: impl FnOnce(&EventLoop, ConnectError) + 'static) -> Self {
        self.on_failure = Some(Contained::new(Box::new(on_failure)));
        self
    }

    /// Makes a client that calls `on_message` whenever bytes have come on its connection, as
    /// [`ConnectionHandler::on_message`]. A client that speaks first has a handler, with its
    /// [`on_open`](ConnectionHandler::on_open).
    ///
    /// # Errors
    /// As [`serve`](TcpClientBuilder::serve).
    pub fn serve_fn<F, R>(self, on_message: F) -> io::Result<TcpClient>
    where
        F: FnMut(&TcpConnection<'_>, &mut Buffer) -> R + 'static,
        R: IntoHandlerResult + 'static,
    {
        self.serve(shared(on_message))
    }

    /// Makes a client whose sessions each get the handler that `factory` makes for them.
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for a [`ConnectTarget`] that cannot be read, or that names a network interface which
    /// does not exist. Every other failure is found later, and reported then.
    pub fn serve<F, H>(self, factory: F) -> io::Result<TcpClient>
    where
        F: FnMut(&TcpConnection<'_>) -> H + 'static,
        H: ConnectionHandler,
    {
        let factory = Rc::new(RefCell::new(Contained::new(factory)));
        let TcpClientBuilder { event_loop, target, settings, limits, on_attempt, on_failure } = self;
        target.check("connect to")?;
        event_loop.check_process()?;
        let dial: Rc<Dial> =
            Rc::new(move |event_loop: &EventLoop, arrival: PendingConnection, dialer: Rc<dyn Dialer>| {
                let factory = Rc::clone(&factory);
                let make = move |conn: &TcpConnection<'_>| (factory.borrow_mut())(conn);
                dial(event_loop, arrival, Outgoing::new(dialer, make))
            });
        let group = Group::new(limits, Quota::default(), [event_loop.handle()]);
        let connector = Connector::new(target, settings, group, dial, on_attempt, on_failure);
        connector.start(event_loop);
        Ok(TcpClient { event_loop: event_loop.downgrade(), connector })
    }
}

impl fmt::Debug for TcpClientBuilder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpClientBuilder")
            .field("target", &self.target)
            .field("settings", &self.settings)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
