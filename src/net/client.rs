//! `TcpClient`: connecting, retrying and reconnecting, and stopping.

pub(in crate::net) mod attempt;
pub(in crate::net) mod backoff;
mod connect_async;
pub(in crate::net) mod connector;
mod requests;
#[cfg(feature = "tls")]
mod tls;

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use self::attempt::{ConnectAttempt, ConnectError};
use self::backoff::Backoff;
use self::connector::{Connector, Dial, OnAttempt, OnFailure, QueueLimits, Settings, Target};
use super::address::AddressError;
use super::connection::{ConnectionHandle, PendingConnection, TcpConnection};
use super::filter::{Filter, FilterFactories};
use super::group::Group;
use super::limits::ConnectionLimits;
use super::options::SocketOptions;
use super::resolver::Resolver;
use super::result::IntoHandlerResult;
use super::target::ConnectTarget;
use crate::buffer::Buffer;
use crate::event_loop::containment::Contained;
use crate::event_loop::{EventLoop, WeakLoop};
use crate::net::connection::driver::{Dialer, Outgoing, dial, has_handler};
use crate::net::connection::handler::{ConnectionHandler, shared};
use crate::net::group::admission::Quota;

/// A TCP or Unix-socket client, which runs until this value is dropped, or its loop if it is
/// [detached](TcpClient::detach). It connects and serves one connection, its session.
///
/// The client starts when its loop runs. The session uses the same handlers, limits and handles as
/// the connections of a server. By default the client ends with its first session, or when it
/// cannot connect; [`retry`](TcpClientBuilder::retry) and
/// [`reconnect`](TcpClientBuilder::reconnect) make it continue.
///
/// The unsent output and unread input of its connection count towards the memory limit of
/// [all servers and clients](crate::net::TcpServerBuilder::max_buffered) of the process. When that
/// limit is exceeded, a client's connection may be closed like any other, with
/// [`CloseReason::MemoryLimit`](crate::net::CloseReason::MemoryLimit), if it holds most and
/// progresses least.
///
/// Dropping the client aborts it at once, in any state, also from inside a callback. An open
/// session is closed, and its handler's `on_close` gets
/// [`CloseReason::Stopped`](crate::net::CloseReason::Stopped). No other callback of the client is
/// called from then on.
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
/// let _client = TcpClient::connect(&event_loop, server.local_address())
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
    /// The client is left to the loop: dropping this value does not stop it.
    is_left: bool,
}

impl TcpClient {
    /// A builder of a client that connects to `target`: one or several socket addresses, a name
    /// with a port, or a Unix socket ([`UnixAddress`](crate::net::UnixAddress)).
    ///
    /// This never blocks. A name is looked up later on another thread, as by a [`Resolver`]; an
    /// address needs no lookup and no thread. Clients without a
    /// [resolver](TcpClientBuilder::resolver) share at most 16 lookup threads in the process, which
    /// exist only while there is something to look up. Those that need the same name at the same
    /// time share a query. Other names wait for a thread in FIFO order, and the wait counts towards
    /// the [time limit](TcpClientBuilder::timeout). A client that ends
    /// [cancels](Resolver#cancelling) its lookup.
    ///
    /// # Several addresses
    /// A client tries the addresses of its target in order, and uses the first connection that is
    /// established (Happy Eyeballs, RFC 8305). The next attempt starts at once when one fails, and
    /// [250 ms](TcpClientBuilder::attempt_delay) after the last start while none has connected.
    /// So an address that does not reply delays the connection by that time only. When a connection
    /// is established, the other attempts are abandoned: their sockets are closed, and they are not
    /// reported.
    ///
    /// The addresses of a name alternate between IPv6 and IPv4, beginning with the address that the
    /// system prefers (RFC 6724). A list of addresses keeps its order.
    ///
    /// # Unix sockets
    /// A Unix-socket connect completes or fails immediately. If the listener's backlog is full it
    /// fails with [`WouldBlock`](io::ErrorKind::WouldBlock); use
    /// [`retry`](TcpClientBuilder::retry). With a Unix socket,
    /// [`local_addr`](TcpClientBuilder::local_addr) is an error.
    pub fn connect(
        event_loop: &EventLoop,
        target: impl TryInto<ConnectTarget, Error: Into<AddressError>>,
    ) -> TcpClientBuilder<'_> {
        TcpClientBuilder {
            event_loop,
            target: target.try_into().map_err(Into::into),
            settings: Settings {
                timeout: Duration::from_secs(10),
                attempt_delay: Duration::from_millis(250),
                resolver: None,
                retry: None,
                reconnect: false,
                local: None,
                options: SocketOptions::new(),
                queue: QueueLimits::default(),
            },
            limits: ConnectionLimits::new(),
            filters: FilterFactories::default(),
            problem: None,
            on_attempt: None,
            on_failure: None,
        }
    }

    /// A handle to the open session, for use from any thread; `None` without a session. With
    /// [`reconnect`](TcpClientBuilder::reconnect) each session has its own handle.
    pub fn handle(&self) -> Option<ConnectionHandle> {
        self.connector.handle()
    }

    /// Aborts the client, same as dropping it. Does nothing if the client has already ended.
    ///
    /// To end a session gracefully, [shut it down](ConnectionHandle::shutdown) instead. To prevent
    /// a reconnect, call this in its `on_close` or earlier.
    pub fn stop(&self) {
        self.event_loop.with(|event_loop| self.connector.stop(event_loop));
    }

    /// Excludes the client from what [`run_until_idle`](EventLoop::run_until_idle) waits for: its
    /// lookups, attempts and delays, and each of its sessions. It is served as long as the loop
    /// runs. Timers that a session's handler sets count, and so do steps that are due. To be called
    /// before [`detach`](TcpClient::detach).
    ///
    /// ```
    /// use reveille::net::Backoff;
    /// use reveille::{EventLoop, TcpClient};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let event_loop = EventLoop::new()?;
    /// // Sends statistics while the program runs, and does not keep it running.
    /// let statistics = TcpClient::connect(&event_loop, "127.0.0.1:8125")
    ///     .retry(Backoff::new())
    ///     .reconnect()
    ///     .serve_fn(|_, _| ())?;
    /// statistics.exclude_from_idle();
    /// event_loop.queue_in_loop(|_| println!("the work"));
    /// event_loop.run_until_idle()
    /// # }
    /// ```
    pub fn exclude_from_idle(&self) {
        self.set_counted(false);
    }

    /// Ends the effect of [`exclude_from_idle`](TcpClient::exclude_from_idle).
    pub fn include_in_idle(&self) {
        self.set_counted(true);
    }

    fn set_counted(&self, counted: bool) {
        self.event_loop.with(|event_loop| self.connector.set_counted(event_loop, counted));
    }

    /// Leaves the client to the loop, until the loop is dropped. Without
    /// [`reconnect`](TcpClientBuilder::reconnect) the client ends earlier, with its session or when
    /// it cannot connect. With it, only the loop ends the client.
    ///
    /// ```
    /// use reveille::{EventLoop, TcpClient, TcpServer};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let event_loop = EventLoop::new()?;
    /// let server = TcpServer::bind(&event_loop, "127.0.0.1:0")?.serve_fn(|_, _| ())?;
    /// TcpClient::connect(&event_loop, server.local_address())
    ///     .on_attempt(|event_loop, _| event_loop.quit())
    ///     .serve_fn(|_, _| ())?
    ///     .detach();
    /// event_loop.run()
    /// # }
    /// ```
    pub fn detach(mut self) {
        self.is_left = true;
    }
}

impl Drop for TcpClient {
    fn drop(&mut self) {
        if !self.is_left {
            self.stop();
        }
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

/// Builds a [`TcpClient`]. Created by [`TcpClient::connect`].
#[must_use = "`serve` or `serve_fn` builds the client"]
pub struct TcpClientBuilder<'a> {
    event_loop: &'a EventLoop,
    target: Target,
    settings: Settings,
    limits: ConnectionLimits,
    filters: FilterFactories,
    /// A setting that is not valid, which `serve` returns.
    problem: Option<io::Error>,
    on_attempt: Option<OnAttempt>,
    on_failure: Option<OnFailure>,
}

impl TcpClientBuilder<'_> {
    /// The time limit of a round: the lookup of the name and the attempts to connect to all its
    /// addresses. Default: 10 s. The kernel's own limit of an attempt is about two minutes.
    ///
    /// # Panics
    /// If the limit is zero.
    #[track_caller]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        assert!(!timeout.is_zero(), "the time limit of a client must be more than zero");
        self.settings.timeout = timeout;
        self
    }

    /// How long an attempt may be in progress before the next address is tried as well. Default:
    /// 250 ms. It is limited to between 10 ms and 2 s, as RFC 8305 requires.
    pub fn attempt_delay(mut self, delay: Duration) -> Self {
        self.settings.attempt_delay = delay.clamp(Duration::from_millis(10), Duration::from_secs(2));
        self
    }

    /// Looks up the name of the target with `resolver`, which clients of a loop can share. Default:
    /// threads that all clients of the process share, without a cache.
    ///
    /// If the resolver is [full](crate::net::ResolverError::Full), or belongs to a loop that has
    /// been dropped, the attempt fails.
    pub fn resolver(mut self, resolver: &Resolver) -> Self {
        self.settings.resolver = Some(resolver.clone());
        self
    }

    /// Makes the client retry after `backoff` when all addresses have failed. Default: no retry.
    pub fn retry(mut self, backoff: Backoff) -> Self {
        self.settings.retry = Some(backoff);
        self
    }

    /// Makes the client reconnect after a session has ended for any reason. Default: it does not.
    ///
    /// It waits first, for the delays of [`retry`](TcpClientBuilder::retry), or of `Backoff::new()`
    /// if that is not set. A session that lasted as long as the longest delay resets the delays;
    /// after a shorter one they continue to grow. The number of retries counts from the end of the
    /// session.
    ///
    /// The new session has a handler of its own. The `on_close` of the old session comes before any
    /// callback of the new one. Without `retry` a lost session is reconnected with a single round
    /// of attempts.
    pub fn reconnect(mut self) -> Self {
        self.settings.reconnect = true;
        self
    }

    /// The local address to connect from. Default: the kernel selects the address and the port.
    /// With port 0 it selects a port that is free for the destination, so that connections to
    /// several destinations may share a port (`IP_BIND_ADDRESS_NO_PORT`).
    ///
    /// Attempts to connect to an address of the other family fail.
    pub fn local_addr(mut self, local: SocketAddr) -> Self {
        self.settings.local = Some(local);
        self
    }

    /// The options of the client's sockets. Default: those of [`SocketOptions::new`]. An option
    /// that the kernel rejects fails the attempt.
    pub fn socket_options(mut self, options: SocketOptions) -> Self {
        self.settings.options = options;
        self
    }

    /// The limits of the connection. Default: those of [`ConnectionLimits::new`].
    pub fn limits(mut self, limits: ConnectionLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Adds a [`Filter`](crate::net::Filter) between the connection's socket and its handler.
    /// `make` creates one for each session. The order of the calls is the order from the socket to
    /// the handler.
    pub fn filter<F: Filter>(mut self, make: impl Fn() -> F + Send + Sync + 'static) -> Self {
        self.filters.add(make);
        self
    }

    /// The maximum numbers of bytes and of calls that [`send`](TcpClient::send) and
    /// [`with`](TcpClient::with) queue while there is no session. Default: 1 MiB and 1024. With 0
    /// they are refused until there is one.
    pub fn max_queued(mut self, bytes: usize, calls: usize) -> Self {
        self.settings.queue = QueueLimits { bytes, calls };
        self
    }

    /// Sets a callback for the result of each attempt, successful or not. It is called once per
    /// attempt, for example for logging or counting. Attempts that are abandoned because another
    /// one has connected have no result.
    ///
    /// A success is reported before the session's handler is created. A panic in the callback is
    /// caught and has no other effect.
    pub fn on_attempt(mut self, on_attempt: impl FnMut(&EventLoop, &ConnectAttempt<'_>) + 'static) -> Self {
        self.on_attempt = Some(Contained::new(Box::new(on_attempt)));
        self
    }

    /// Sets a callback for the failure of the client: its last allowed attempt has failed. Default:
    /// the failure is logged as a warning.
    ///
    /// The callback is called at most once, and never for a client that was stopped or whose loop
    /// has ended.
    pub fn on_failure(mut self, on_failure: impl FnOnce(&EventLoop, ConnectError) + 'static) -> Self {
        self.on_failure = Some(Contained::new(Box::new(on_failure)));
        self
    }

    /// Builds a client that calls `on_message` whenever its connection has received bytes, see
    /// [`ConnectionHandler::on_message`]. A client that sends first needs a handler with
    /// [`on_open`](ConnectionHandler::on_open).
    ///
    /// # Errors
    /// Same as [`serve`](TcpClientBuilder::serve).
    pub fn serve_fn<F, R>(self, on_message: F) -> io::Result<TcpClient>
    where
        F: FnMut(&TcpConnection<'_>, &mut Buffer) -> R + 'static,
        R: IntoHandlerResult + 'static,
    {
        self.serve(shared(on_message))
    }

    /// Builds a client that calls `factory` to create a handler for each session.
    ///
    /// # Errors
    /// [`Unsupported`](io::ErrorKind::Unsupported) in a forked child of the loop's process. All
    /// other failures are reported later to [`on_attempt`](TcpClientBuilder::on_attempt) and
    /// [`on_failure`](TcpClientBuilder::on_failure), including a target that is not an address. A
    /// client with such a target does not retry.
    pub fn serve<F, H>(self, factory: F) -> io::Result<TcpClient>
    where
        F: FnMut(&TcpConnection<'_>) -> H + 'static,
        H: ConnectionHandler,
    {
        let factory = Rc::new(RefCell::new(Contained::new(factory)));
        let TcpClientBuilder {
            event_loop,
            target,
            settings,
            limits,
            filters,
            problem,
            on_attempt,
            on_failure,
        } = self;
        event_loop.check_process()?;
        problem.map_or(Ok(()), Err)?;
        let dial: Rc<Dial> =
            Rc::new(move |event_loop: &EventLoop, pending: PendingConnection, dialer: Rc<dyn Dialer>| {
                let factory = Rc::clone(&factory);
                let make = move |conn: &TcpConnection<'_>| (factory.borrow_mut())(conn);
                dial(event_loop, pending, Outgoing::new(dialer, make))
            });
        let group = Group::new(limits, filters, None, Quota::default(), [event_loop.handle()]);
        let connector =
            Connector::new(target, settings, group, has_handler::<H>, dial, on_attempt, on_failure);
        connector.start(event_loop);
        Ok(TcpClient { event_loop: event_loop.downgrade(), connector, is_left: false })
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
