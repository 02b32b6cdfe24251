//! `TcpServer`: listening, load balancing over loops, and stopping.

mod accepting;
pub(in crate::net) mod acceptor;
pub(in crate::net) mod balancer;
mod bind;
mod handle;
mod limits;
pub(in crate::net) mod listener;
pub(in crate::net) mod socket_path;
mod unix;

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use self::balancer::LoadBalancing;
use self::listener::{Establish, Listener};
use self::socket_path::PathOptions;
use super::address::{Address, AddressError};
use super::connection::TcpConnection;
use super::group::{Group, Stage, StopReport, WhenEmpty};
use super::limits::ConnectionLimits;
use super::options::SocketOptions;
use super::result::IntoHandlerResult;
use super::target::ConnectTarget;
use crate::buffer::Buffer;
use crate::event_loop::containment::Contained;
use crate::event_loop::{EventLoop, WeakLoop};
use crate::net::connection::driver::establish;
use crate::net::connection::handler::{ConnectionHandler, OnMessage, shared};
use crate::net::group::admission::{Quota, ServerCounters};
use crate::threads::loop_pool::LoopPool;
pub use handle::ServerHandle;

/// A TCP or Unix-socket server, which runs until this value is dropped.
///
/// The server listens as soon as it is built, and serves while its loop runs. Dropping it aborts
/// it, also from inside a callback or the handler factory: it stops listening and closes its
/// connections, with a reset if they have unsent output. When the drop returns, the listening
/// socket is closed, the address can be bound again, and the only handler method still called is
/// [`on_close`](ConnectionHandler::on_close). [`stop`](TcpServer::stop) lets the connections finish
/// first.
///
/// ```no_run
/// use reveille::{EventLoop, TcpServer};
///
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// let _server = TcpServer::bind(&event_loop, "127.0.0.1:2007")?
///     .serve_fn(|conn, input| conn.send(input.take_all()))?;
/// event_loop.run()
/// # }
/// ```
#[must_use = "a server ends when it is dropped"]
pub struct TcpServer {
    event_loop: WeakLoop,
    handle: ServerHandle,
    /// The server's own threads, if it has any.
    pool: Option<LoopPool>,
    /// [`stop`](TcpServer::stop) was called: dropping this value does not abort the server.
    is_stopping: bool,
}

impl TcpServer {
    /// A builder of a server that listens on `address`: a socket address or `host:port`, see
    /// [`ConnectTarget`].
    ///
    /// The server tries each resolved address in order and listens on the first that binds. Port 0
    /// selects an ephemeral port; [`local_addr`](TcpServer::local_addr) returns it. `[::]` is
    /// dual-stack unless `net.ipv6.bindv6only` is set.
    ///
    /// Resolving a name may block; an address never does.
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for text that is not an address, and the
    /// errors of the lookup.
    ///
    /// The errors of bind(2) and listen(2) are returned by the finishers `serve` and `serve_fn`:
    /// the address is in use, is not local, or its port is privileged. The error names the address.
    pub fn bind(
        event_loop: &EventLoop,
        address: impl TryInto<ConnectTarget, Error: Into<AddressError>>,
    ) -> io::Result<TcpServerBuilder<'_>> {
        let addresses = ConnectTarget::new(address, "listen on")?.resolve_blocking("listen on")?;
        Ok(TcpServerBuilder { event_loop, addresses, settings: Settings::default(), loops: SingleLoop })
    }

    /// The IP address and port that the server listens on. [`address`](TcpServer::address) works
    /// for every address family.
    ///
    /// # Errors
    /// [`Unsupported`](io::ErrorKind::Unsupported) if the server listens on a Unix socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.handle.local_addr()
    }

    /// The address that the server listens on, of any family.
    pub fn address(&self) -> &Address {
        self.handle.address()
    }

    /// A handle to this server, for use from any thread.
    pub fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    /// The number of open connections on all loops, including those on their way to a loop.
    pub fn open_connections(&self) -> u64 {
        self.handle.open_connections()
    }

    /// Same as [`ServerHandle::live_loops`].
    pub fn live_loops(&self) -> usize {
        self.handle.live_loops()
    }

    /// The numbers of connections that the server has accepted and rejected since it started.
    pub fn counters(&self) -> ServerCounters {
        self.handle.counters()
    }

    /// Stops accepting connections until [`resume_accepting`](TcpServer::resume_accepting).
    ///
    /// Open connections are unaffected. New ones wait in the kernel's
    /// [backlog](TcpServerBuilder::backlog). Makes no system call.
    pub fn pause_accepting(&self) {
        self.handle.pause_accepting();
    }

    /// Accepts connections again, starting with those in the backlog. Makes no system call if the
    /// listener is on this loop.
    pub fn resume_accepting(&self) {
        self.handle.resume_accepting();
    }

    /// The bytes of memory that the connections use for unsent output and unread input, as
    /// [`max_buffered`](TcpServerBuilder::max_buffered) counts them.
    pub fn buffered(&self) -> usize {
        self.handle.group.buffered()
    }

    /// Stops the server gracefully.
    ///
    /// The server stops listening on all its loops before this returns, and the address can be
    /// bound again. The next call of each handler is its [`on_stop`](ConnectionHandler::on_stop).
    /// Then its connection is half-closed: queued output is sent, then the FIN; further input is
    /// discarded. [Linked](crate::TcpConnection::relay_to) connections continue.
    ///
    /// Connections that are still open after the time `within` are reset, including those whose
    /// handler has not seen the stop yet. A peer that has received all data by then still reads a
    /// regular end of stream. With a zero `within`, [`on_close`](ConnectionHandler::on_close) is
    /// called but `on_stop` is not.
    ///
    /// `then` is called on this server's loop when the last connection has ended, on any loop, and
    /// the last listener is closed. Its argument counts the connections by the way they ended. It
    /// is called once, unless the loop itself ends earlier.
    pub fn stop(mut self, within: Duration, then: impl FnOnce(&EventLoop, StopReport) + Send + 'static) {
        let then: WhenEmpty = Contained::new(Box::new(then));
        self.is_stopping = true;
        let pool = self.pool.take();
        self.event_loop.with(|event_loop| begin_stop(event_loop, &self.handle.group, pool, within, then));
    }
}

/// Starts the stop. To be called on the server's own loop.
fn begin_stop(
    event_loop: &EventLoop,
    group: &Arc<Group>,
    pool: Option<LoopPool>,
    within: Duration,
    then: WhenEmpty,
) {
    // With a zero deadline nothing can drain.
    group.advance(if within.is_zero() { Stage::Resetting } else { Stage::Draining });
    Listener::close_all(group);
    let resetting = Arc::clone(group);
    // The timer's closure owns the pool, so the pool ends when the deadline passes, when the timer
    // is cancelled after the last connection, or with the loop.
    let deadline = event_loop.run_after(within, move |_| {
        resetting.advance(Stage::Resetting);
        drop(pool);
    });
    let when_empty = move |event_loop: &EventLoop, report| {
        event_loop.cancel(deadline);
        then.into_inner()(event_loop, report);
    };
    group.call_when_empty(event_loop.handle(), Contained::new(Box::new(when_empty)));
}

impl Drop for TcpServer {
    /// Aborts the server. In a forked child it does nothing: the server belongs to the parent.
    fn drop(&mut self) {
        if !self.is_stopping && !self.handle.home.is_inherited() {
            self.handle.group.advance(Stage::Aborting);
            Listener::close_all(&self.handle.group);
        }
    }
}

impl fmt::Debug for TcpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpServer")
            .field("address", self.address())
            .field("open_connections", &self.open_connections())
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Debug)]
struct Settings {
    backlog: i32,
    accepts_per_turn: usize,
    options: SocketOptions,
    /// Used by Unix sockets only.
    path_options: PathOptions,
    quota: Quota,
    limits: ConnectionLimits,
    max_buffered: Option<usize>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            // The kernel limits this to net.core.somaxconn. With a short backlog, a burst of
            // clients waits for SYN retransmissions.
            backlog: 4096,
            accepts_per_turn: 128,
            options: SocketOptions::new(),
            path_options: PathOptions::default(),
            quota: Quota::default(),
            limits: ConnectionLimits::new(),
            max_buffered: None,
        }
    }
}

/// Marks a [`TcpServerBuilder`] whose server serves all connections on the loop it was bound to.
#[derive(Debug)]
pub struct SingleLoop;

/// Marks a [`TcpServerBuilder`] whose server distributes its connections over several loops.
#[derive(Debug)]
pub struct MultiLoop {
    threads: usize,
    load_balancing: LoadBalancing,
}

/// Builds a [`TcpServer`]. Created by [`TcpServer::bind`].
///
/// On a single loop, handlers and the closures that create them need not be `Send`. With [several
/// loops](TcpServerBuilder::threads) the closures are called on every loop, so they must be `Send`
/// and `Sync`; each handler still stays on one loop.
#[must_use = "`serve` or `serve_fn` builds the server"]
pub struct TcpServerBuilder<'a, S = SingleLoop> {
    event_loop: &'a EventLoop,
    addresses: Vec<Address>,
    settings: Settings,
    loops: S,
}

impl<'a, S> TcpServerBuilder<'a, S> {
    /// The maximum number of connections that wait to be accepted. Default: 4096. The kernel limits
    /// it to `net.core.somaxconn`.
    pub fn backlog(mut self, connections: i32) -> Self {
        self.settings.backlog = connections;
        self
    }

    /// The options of the server's sockets. Default: those of [`SocketOptions::new`]. Connections
    /// inherit them from the listening socket.
    pub fn socket_options(mut self, options: SocketOptions) -> Self {
        self.settings.options = options;
        self
    }

    fn build(self, many: Option<(LoopPool, LoadBalancing)>, establish: Establish) -> io::Result<TcpServer> {
        let TcpServerBuilder { event_loop, addresses, settings, .. } = self;
        let (pool, load_balancing) = many.unzip();
        let load_balancing = load_balancing.unwrap_or_default();
        let listeners = match (&pool, load_balancing) {
            (Some(pool), LoadBalancing::ListenerPerLoop) => pool.handles().len(),
            _ => 1,
        };
        let (address, mut acceptors) = bind::bind(&addresses, &settings, listeners)?;
        let Settings { limits, max_buffered, quota, accepts_per_turn, .. } = settings;
        let group = match &pool {
            None => Group::new(limits, max_buffered, quota, [event_loop.handle()]),
            Some(pool) => Group::new(limits, max_buffered, quota, pool.handles().cloned()),
        };
        match (&pool, establish) {
            (Some(pool), Establish::AnyLoop(establish)) if listeners > 1 => {
                bind::listen_on_each(pool, acceptors, accepts_per_turn, &group, &establish)?;
            }
            (_, establish) => {
                let acceptor = acceptors.remove(0);
                bind::listen_on(event_loop, acceptor, accepts_per_turn, &group, load_balancing, establish)?;
            }
        }
        let handle = ServerHandle { home: event_loop.handle(), address, group };
        Ok(TcpServer { event_loop: event_loop.downgrade(), handle, pool, is_stopping: false })
    }
}

impl<'a> TcpServerBuilder<'a, SingleLoop> {
    /// Serves connections on `loops` loops. With 1 that is the loop the server is bound to. With
    /// more the server has this number of threads, named `reveille-0`, `reveille-1` and so on, each
    /// with a loop. The loop it is bound to only accepts; with
    /// [`ListenerPerLoop`](crate::net::LoadBalancing::ListenerPerLoop) the threads accept instead.
    ///
    /// This call only records the number. [`serve`](TcpServerBuilder::serve) and
    /// [`serve_fn`](TcpServerBuilder::serve_fn) spawn the threads; for 0 they return an error.
    /// Connections are distributed in turn unless
    /// [`load_balancing`](TcpServerBuilder::load_balancing) selects another policy.
    ///
    /// The threads end with the server. The thread that drops the server waits for them, and for
    /// the callbacks running there; after a [stop](TcpServer::stop) it is the server's loop that
    /// waits, at the deadline or after the last connection. A callback deadlocks if it waits for
    /// that thread in turn, by [`call`](crate::LoopHandle::call) or by a post to its full
    /// [mailbox](crate::task::MailboxLimit::Block);
    /// [`call_timeout`](crate::LoopHandle::call_timeout) does not.
    ///
    /// A handler should not quit its own loop. That ends all connections of the loop, and the
    /// [remaining loops](ServerHandle::live_loops) take over its share. When no loop is left,
    /// connections are closed as soon as they are accepted.
    pub fn threads(self, loops: usize) -> TcpServerBuilder<'a, MultiLoop> {
        let TcpServerBuilder { event_loop, addresses, settings, .. } = self;
        let loops = MultiLoop { threads: loops, load_balancing: LoadBalancing::default() };
        TcpServerBuilder { event_loop, addresses, settings, loops }
    }

    /// Builds a server that calls `on_message` whenever a connection has received bytes, see
    /// [`ConnectionHandler::on_message`].
    ///
    /// # Errors
    /// Same as [`serve`](TcpServerBuilder::serve).
    pub fn serve_fn<F, R>(self, on_message: F) -> io::Result<TcpServer>
    where
        F: FnMut(&TcpConnection<'_>, &mut Buffer) -> R + 'static,
        R: IntoHandlerResult + 'static,
    {
        self.serve(shared(on_message))
    }

    /// Builds a server that calls `factory` to create a handler for each connection.
    ///
    /// # Errors
    /// The error of socket(2), bind(2) or listen(2), with the address in its message.
    pub fn serve<F, H>(self, factory: F) -> io::Result<TcpServer>
    where
        F: FnMut(&TcpConnection<'_>) -> H + 'static,
        H: ConnectionHandler,
    {
        let factory = RefCell::new(Contained::new(factory));
        let establish = move |event_loop: &EventLoop, pending| {
            establish(event_loop, pending, |conn| (factory.borrow_mut())(conn));
        };
        self.build(None, Establish::ThisLoop(Box::new(establish)))
    }
}

impl TcpServerBuilder<'_, MultiLoop> {
    /// Same as on a single loop, with a closure that all loops share.
    ///
    /// # Errors
    /// Same as [`serve`](TcpServerBuilder::serve).
    pub fn serve_fn<F, R>(self, on_message: F) -> io::Result<TcpServer>
    where
        F: Fn(&TcpConnection<'_>, &mut Buffer) -> R + Send + Sync + 'static,
        R: IntoHandlerResult + 'static,
    {
        let shared = Arc::new(Contained::new(on_message));
        self.serve(move |_| {
            let shared = Arc::clone(&shared);
            OnMessage(move |conn: &TcpConnection<'_>, input: &mut Buffer| shared(conn, input).into_result())
        })
    }

    /// Same as on a single loop, with a factory that all loops share. Spawns the threads.
    ///
    /// # Errors
    /// - [`InvalidInput`](io::ErrorKind::InvalidInput) if the number of
    ///   [threads](TcpServerBuilder::threads) is 0.
    /// - The errors of [`LoopPool::new`], if a thread or its loop cannot be created.
    /// - The error of socket(2), bind(2) or listen(2), with the address in its message.
    pub fn serve<F, H>(self, factory: F) -> io::Result<TcpServer>
    where
        F: Fn(&TcpConnection<'_>) -> H + Send + Sync + 'static,
        H: ConnectionHandler,
    {
        let factory = Contained::new(factory);
        let establish = move |event_loop: &EventLoop, pending| {
            establish(event_loop, pending, &*factory);
        };
        let MultiLoop { threads, load_balancing } = self.loops;
        match threads {
            0 => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a server needs a thread to serve connections on",
            )),
            1 => self.build(None, Establish::ThisLoop(Box::new(establish))),
            threads => {
                let pool = LoopPool::new(threads, "reveille")?;
                self.build(Some((pool, load_balancing)), Establish::AnyLoop(Arc::new(establish)))
            }
        }
    }
}

impl<S> fmt::Debug for TcpServerBuilder<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpServerBuilder")
            .field("addresses", &self.addresses)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
