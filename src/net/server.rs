//! A server: where it listens, how it deals its connections out, and how it ends.

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
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use self::balancer::LoadBalancing;
use self::listener::{Establish, Listener};
use self::socket_path::AtPath;
use super::address::Address;
use super::connection::TcpConnection;
use super::group::{Group, Limits, Stage, StopReport, WhenEmpty};
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

/// A server, for as long as this value lives.
///
/// It listens as soon as it is made, and serves when its loop runs. Dropping it ends it at once, also from inside a callback or the
/// handlers' factory: it stops listening and its connections are closed, those by a reset that have anything unsent. When the drop has
/// returned the listening socket is closed and the address can be bound again, and of each handler only
/// [`on_close`](ConnectionHandler::on_close) is still called. [`stop`](TcpServer::stop) lets the connections finish first.
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
    /// The server's own, if it has been told to have threads.
    pool: Option<LoopPool>,
    /// The server has been told to stop, and ends without this value.
    released: bool,
}

impl TcpServer {
    /// Begins a server that listens on `address`, a socket address or a `host:port`, as [`ConnectTarget`] describes; of several
    /// addresses the first that can be bound. With port 0 the kernel chooses one: see [`local_addr`](TcpServer::local_addr).
    ///
    /// A name is looked up here, which may block; addresses never do. `[::]` includes IPv4 where the system's default says
    /// so (`net.ipv6.bindv6only`).
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for a text that is not an address, and the errors of the lookup. When the
    /// server is made, those of the kernel: an address in use, one that is not this machine's, a port that is not allowed. The
    /// error names the address.
    pub fn bind(
        event_loop: &EventLoop,
        address: impl Into<ConnectTarget>,
    ) -> io::Result<TcpServerBuilder<'_>> {
        let addresses = address.into().resolve_blocking("listen on")?;
        Ok(TcpServerBuilder { event_loop, addresses, settings: Settings::default(), spread: SingleLoop })
    }

    /// Where the server listens, if that is an IP address and a port. [`address`](TcpServer::address) is for every family.
    ///
    /// # Panics
    /// If the server listens on a Unix socket.
    #[track_caller]
    pub fn local_addr(&self) -> SocketAddr {
        self.handle.local_addr()
    }

    /// Where the server listens, whatever the family.
    pub fn address(&self) -> &Address {
        self.handle.address()
    }

    /// The face of this server that any thread may use.
    pub fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    /// How many connections are open now, on all its loops, those on their way to a loop included.
    pub fn open_connections(&self) -> u64 {
        self.handle.open_connections()
    }

    /// As [`ServerHandle::live_loops`].
    pub fn live_loops(&self) -> usize {
        self.handle.live_loops()
    }

    /// How many connections the server has taken, and turned away, since it began.
    pub fn counters(&self) -> ServerCounters {
        self.handle.counters()
    }

    /// Takes no more connections until [`resume_accepting`](TcpServer::resume_accepting). Those that are open go on, and others wait in
    /// the kernel's [backlog](TcpServerBuilder::backlog). No system call.
    pub fn pause_accepting(&self) {
        self.handle.pause_accepting();
    }

    /// Takes connections again, those first that have waited. No system call, if the listener is on this loop.
    pub fn resume_accepting(&self) {
        self.handle.resume_accepting();
    }

    /// How much memory its connections take now for what is unsent and unread, as [`max_buffered`](TcpServerBuilder::max_buffered)
    /// counts it.
    pub fn buffered(&self) -> usize {
        self.handle.group.buffered()
    }

    /// Ends the server in order. It stops listening before this returns, on all its loops, and the address can be bound again. The next
    /// call of each handler is its [`on_stop`](ConnectionHandler::on_stop); then its connection is shut down: what is queued is sent, then the
    /// FIN, and what still comes in is thrown away. [Linked](crate::TcpConnection::relay_to) connections go on. Those that have not ended
    /// `within` this time are reset, also those that had not noted the stop; a peer that has received all by then reads an end in order.
    /// With no time at all `on_stop` is not called, only [`on_close`](ConnectionHandler::on_close).
    ///
    /// When the last has gone, on whatever loop, and nobody listens any more, `then` is called on this server's loop with how many
    /// ended each way. It is called once, unless the loop itself ends before.
    pub fn stop(mut self, within: Duration, then: impl FnOnce(&EventLoop, StopReport) + Send + 'static) {
        let then: WhenEmpty = Contained::new(Box::new(then));
        self.released = true;
        let pool = self.pool.take();
        self.event_loop.with(|event_loop| begin_to_stop(event_loop, &self.handle.group, pool, within, then));
    }
}

/// On the server's own loop.
fn begin_to_stop(
    event_loop: &EventLoop,
    group: &Arc<Group>,
    pool: Option<LoopPool>,
    within: Duration,
    then: WhenEmpty,
) {
    // With no time at all there is nothing to drain.
    group.advance(if within.is_zero() { Stage::Resetting } else { Stage::Draining });
    Listener::end_all(group);
    let cut = Arc::clone(group);
    // The pool waits with the timer, and so ends with it: when the time is up, when the last connection has gone and
    // the timer is cancelled, or with the loop.
    let deadline = event_loop.run_after(within, move |_| {
        cut.advance(Stage::Resetting);
        drop(pool);
    });
    let when_empty = move |event_loop: &EventLoop, report| {
        event_loop.cancel(deadline);
        then.into_inner()(event_loop, report);
    };
    group.call_when_empty(event_loop.handle(), Contained::new(Box::new(when_empty)));
}

impl Drop for TcpServer {
    /// A forked child leaves the server to its parent.
    fn drop(&mut self) {
        if !self.released && !self.handle.home.is_inherited() {
            self.handle.group.advance(Stage::Cutting);
            Listener::end_all(&self.handle.group);
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
    /// Of a Unix socket.
    at_path: AtPath,
    quota: Quota,
    limits: Limits,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            // The kernel cuts this to net.core.somaxconn. A short backlog makes a burst of clients wait for retransmits.
            backlog: 4096,
            accepts_per_turn: 128,
            options: SocketOptions::new(),
            at_path: AtPath::default(),
            quota: Quota::default(),
            limits: Limits::default(),
        }
    }
}

/// That a server's connections are all served on the loop that it was bound to.
#[derive(Debug)]
pub struct SingleLoop;

/// That a server's connections are dealt out over several loops.
#[derive(Debug)]
pub struct MultiLoop {
    /// `None` for the loop that the server was bound to.
    pool: Option<LoopPool>,
    distribution: LoadBalancing,
}

/// A server that is being made, from [`TcpServer::bind`].
///
/// On one loop, handlers, and the closures that make them, may hold what they like. Over [several](TcpServerBuilder::threads) the
/// closures are called on every loop, so they must be `Send + Sync`; the handlers themselves still stay on one loop each.
#[must_use = "a server is made by `on_message` or `serve`"]
pub struct TcpServerBuilder<'a, S = SingleLoop> {
    event_loop: &'a EventLoop,
    addresses: Vec<Address>,
    settings: Settings,
    spread: S,
}

impl<'a, S> TcpServerBuilder<'a, S> {
    /// How many connections may wait to be accepted. Usually 4096; the kernel cuts it to `net.core.somaxconn`.
    pub fn backlog(mut self, connections: i32) -> Self {
        self.settings.backlog = connections;
        self
    }

    /// Whether small writes go out at once (`TCP_NODELAY`). Usually they do.
    pub fn nodelay(mut self, nodelay: bool) -> Self {
        self.settings.options = self.settings.options.nodelay(nodelay);
        self
    }

    /// The options of the server's sockets, in place of all that were given before,
    /// [`nodelay`](TcpServerBuilder::nodelay) included. The socket that listens hands them on to its connections.
    pub fn socket_options(mut self, options: SocketOptions) -> Self {
        self.settings.options = options;
        self
    }

    fn build(self, many: Option<(LoopPool, LoadBalancing)>, establish: Establish) -> io::Result<TcpServer> {
        let TcpServerBuilder { event_loop, addresses, settings, .. } = self;
        let (pool, distribution) = many.unzip();
        let distribution = distribution.unwrap_or_default();
        let listeners = match (&pool, distribution) {
            (Some(pool), LoadBalancing::ListenerPerLoop) => pool.handles().len(),
            _ => 1,
        };
        let (address, mut acceptors) = bind::bind(&addresses, &settings, listeners)?;
        let group = match &pool {
            None => Group::new(settings.limits, settings.quota, [event_loop.handle()]),
            Some(pool) => Group::new(settings.limits, settings.quota, pool.handles().cloned()),
        };
        let budget = settings.accepts_per_turn;
        match (&pool, establish) {
            (Some(pool), Establish::There(establish)) if listeners > 1 => {
                bind::listen_there(pool, acceptors, budget, &group, &establish)?;
            }
            (_, establish) => {
                let acceptor = acceptors.remove(0);
                bind::listen_here(event_loop, acceptor, budget, &group, distribution, establish)?;
            }
        }
        let handle = ServerHandle { home: event_loop.handle(), address, group };
        Ok(TcpServer { event_loop: event_loop.downgrade(), handle, pool, released: false })
    }
}

impl<'a> TcpServerBuilder<'a, SingleLoop> {
    /// Serves connections on `loops` loops, dealt out in turn. One is the loop that the server is bound to; for more the server
    /// has that many threads of its own, and its loop only accepts.
    ///
    /// The threads end with the server. Whoever drops it, or its loop when the time of a [stop](TcpServer::stop) is up, waits for them, and
    /// so for callbacks that are under way there. One that waits for that thread in turn, by a [`call`](crate::LoopHandle::call) or for room in
    /// its [mailbox](crate::MailboxLimit::Block), waits for ever; a [`call_timeout`](crate::LoopHandle::call_timeout) does not. A handler is not
    /// to end the loop that it is on: this ends all its connections, and the [others](ServerHandle::live_loops) have more to do. When no loop
    /// is left, connections are closed as soon as they are accepted.
    ///
    /// # Errors
    /// As [`LoopPool::new`].
    pub fn threads(self, loops: NonZeroUsize) -> io::Result<TcpServerBuilder<'a, MultiLoop>> {
        let pool = if loops.get() == 1 { None } else { Some(LoopPool::new(loops, "reveille")?) };
        let TcpServerBuilder { event_loop, addresses, settings, .. } = self;
        Ok(TcpServerBuilder {
            event_loop,
            addresses,
            settings,
            spread: MultiLoop { pool, distribution: LoadBalancing::default() },
        })
    }

    /// Makes a server that calls `on_message` whenever bytes have come on a connection, as
    /// [`ConnectionHandler::on_message`].
    ///
    /// # Errors
    /// As [`serve`](TcpServerBuilder::serve).
    pub fn serve_fn<F, R>(self, on_message: F) -> io::Result<TcpServer>
    where
        F: FnMut(&TcpConnection<'_>, &mut Buffer) -> R + 'static,
        R: IntoHandlerResult + 'static,
    {
        self.serve(shared(on_message))
    }

    /// Makes a server whose connections each get the handler that `factory` makes for them.
    ///
    /// # Errors
    /// What the kernel says when it cannot listen, with the address.
    pub fn serve<F, H>(self, factory: F) -> io::Result<TcpServer>
    where
        F: FnMut(&TcpConnection<'_>) -> H + 'static,
        H: ConnectionHandler,
    {
        let factory = RefCell::new(Contained::new(factory));
        let here = move |event_loop: &EventLoop, arrival| {
            establish(event_loop, arrival, |conn| (factory.borrow_mut())(conn));
        };
        self.build(None, Establish::Here(Box::new(here)))
    }
}

impl TcpServerBuilder<'_, MultiLoop> {
    /// As on one loop, for a closure that every loop may call.
    ///
    /// # Errors
    /// As [`serve`](TcpServerBuilder::serve).
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

    /// As on one loop, for a factory that every loop may call.
    ///
    /// # Errors
    /// What the kernel says when it cannot listen, with the address.
    pub fn serve<F, H>(mut self, factory: F) -> io::Result<TcpServer>
    where
        F: Fn(&TcpConnection<'_>) -> H + Send + Sync + 'static,
        H: ConnectionHandler,
    {
        let factory = Contained::new(factory);
        let everywhere = move |event_loop: &EventLoop, arrival| {
            establish(event_loop, arrival, &*factory);
        };
        let distribution = self.spread.distribution;
        match self.spread.pool.take() {
            None => self.build(None, Establish::Here(Box::new(everywhere))),
            Some(pool) => self.build(Some((pool, distribution)), Establish::There(Arc::new(everywhere))),
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
