//! A server: where it listens, how it deals its connections out, and how it ends.

mod accepting;
mod handle;
mod listening;
mod unix;

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use super::address::Address;
use super::admission::{Quota, ServerCounters};
use super::connection::TcpConnection;
use super::distribution::Distribution;
use super::driver::establish;
use super::group::{Group, Limits, Stage, StopReport, WhenEmpty};
use super::handler::{ConnectionHandler, OnMessage, shared};
use super::listener::{Establish, Listener};
use super::options::SocketOptions;
use super::outcome::Outcome;
use super::path::AtPath;
use super::target::Target;
use crate::buffer::Buffer;
use crate::containment::Contained;
use crate::event_loop::{EventLoop, WeakLoop};
use crate::loop_pool::LoopPool;
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
///     .on_message(|conn, input| conn.send(input.take_all()))?;
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
    /// Begins a server that listens on `address`, a socket address or a `host:port`, as [`Target`] describes; of several
    /// addresses the first that can be bound. With port 0 the kernel chooses one: see [`local_addr`](TcpServer::local_addr).
    ///
    /// A name is looked up here, which may block; addresses never do. `[::]` includes IPv4 where the system's default says
    /// so (`net.ipv6.bindv6only`).
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for a text that is not an address, and the errors of the lookup. When the
    /// server is made, those of the kernel: an address in use, one that is not this machine's, a port that is not allowed. The
    /// error names the address.
    pub fn bind(event_loop: &EventLoop, address: impl Into<Target>) -> io::Result<TcpServerBuilder<'_>> {
        let addresses = address.into().look_up_now("listen on")?;
        Ok(TcpServerBuilder { event_loop, addresses, settings: Settings::default(), spread: ThisLoop })
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
    /// FIN, and what still comes in is thrown away. [Linked](crate::TcpConnection::relay_to) connections go on. Those that have not ended `within` this time are reset. With no time at all no handler is asked for a last word;
    /// it hears of the close.
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
pub struct ThisLoop;

/// That a server's connections are dealt out over several loops.
#[derive(Debug)]
pub struct ManyLoops {
    /// `None` for the loop that the server was bound to.
    pool: Option<LoopPool>,
    distribution: Distribution,
}

/// A server that is being made, from [`TcpServer::bind`].
///
/// On one loop, handlers, and the closures that make them, may hold what they like. Over [several](TcpServerBuilder::threads) the
/// closures are called on every loop, so they must be `Send + Sync`; the handlers themselves still stay on one loop each.
#[must_use = "a server is made by `on_message` or `serve`"]
pub struct TcpServerBuilder<'a, S = ThisLoop> {
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

    /// The high-water mark and the low-water mark of each connection's unsent bytes. Default: 4 MiB and 1 MiB. A low mark above the
    /// high one is taken for the high one.
    ///
    /// They serve two purposes:
    ///
    /// - **Notification.** [`on_high_water`](ConnectionHandler::on_high_water) and
    ///   [`on_low_water`](ConnectionHandler::on_low_water) are about all that is unsent.
    /// - **Automatic pause.** A connection whose unsent *replies* pass the high mark reads no more until they have fallen to the
    ///   low mark, so that a peer which sends requests and does not read is not answered without bound. A reply is what the
    ///   handler sends on this connection while it is given input: in [`on_message`](ConnectionHandler::on_message),
    ///   [`on_descriptors`](ConnectionHandler::on_descriptors) or [`on_frame`](crate::FrameHandler::on_frame). Parts of files
    ///   count.
    ///
    /// All other output is *unsolicited*: what is sent in any other callback such as `on_open` or `on_drained`, or through a
    /// [`ConnectionHandle`](crate::ConnectionHandle), be it from a timer, a task, another connection or another thread. It never stops the connection from
    /// reading, or two peers that both send much before they read would wait for each other for ever. Its bound is
    /// [`max_unsent`](TcpServerBuilder::max_unsent): a send that would pass it is refused with
    /// [`SendError::Full`](crate::SendError::Full).
    ///
    /// So a handler that has its replies computed elsewhere, and sends them through a handle, limits its input itself, by
    /// [`pause_reading`](TcpConnection::pause_reading). Connections that are [linked](TcpConnection::relay_to) pause each other
    /// instead.
    pub fn water_marks(mut self, high: usize, low: usize) -> Self {
        self.settings.limits.high_water = high;
        self.settings.limits.low_water = low.min(high);
        self
    }

    /// Disables the automatic pause that [`water_marks`](TcpServerBuilder::water_marks) describes: the connections read whatever
    /// they have unsent.
    ///
    /// For protocols in which a peer may send any amount before it reads its first reply. Replies are then bounded as unsolicited
    /// output is: by [`max_unsent`](TcpServerBuilder::max_unsent) alone.
    pub fn no_automatic_pause(mut self) -> Self {
        self.settings.limits.pauses_for_replies = false;
        self
    }

    /// How many bytes a connection may have unsent at all; a send that would pass it is refused with
    /// [`SendError::Full`](crate::SendError::Full). Default: 16 MiB.
    ///
    /// It belongs well above the sum of the high-water mark and the unsolicited output, or replies are refused before the
    /// connection pauses.
    pub fn max_unsent(mut self, bytes: usize) -> Self {
        self.settings.limits.max_unsent = bytes;
        self
    }

    /// How long a connection may be idle before its handler is told, which closes it unless
    /// [written](ConnectionHandler::on_idle) otherwise. Usually for ever. See
    /// [`set_idle_timeout`](TcpConnection::set_idle_timeout).
    ///
    /// # Panics
    /// If the timeout is zero.
    #[track_caller]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        assert!(!timeout.is_zero(), "a connection cannot be idle for no time at all");
        self.settings.limits.idle_timeout = Some(timeout);
        self
    }

    /// How many bytes of input a handler may leave unread; a connection that passes it is closed. Usually 16 MiB.
    pub fn max_unread(mut self, bytes: usize) -> Self {
        self.settings.limits.max_unread = bytes;
        self
    }

    /// How much memory all connections of the server may take together for what is unsent and unread, in bytes.
    ///
    /// Default: a quarter of the memory that the process may use, for all servers and clients together that have no limit of their
    /// own. That is the least of the machine's memory, the limits of the process's control groups (cgroup v2 and v1, the groups
    /// above included), `RLIMIT_AS` and `RLIMIT_DATA`; it is read once, when the first server or client is made. `usize::MAX` is no limit.
    ///
    /// The limits of single connections multiplied by their number may be more than the machine has; this one is for the machine:
    ///
    /// - From three quarters of it on, connections pause at a sixteenth of their [water marks](TcpServerBuilder::water_marks). Peers
    ///   that do not read are held back early, and others are served as ever.
    /// - Beyond it, those connections that hold most and progress least are reset, down to seven eighths: by the bytes
    ///   that they hold, multiplied by the time since an eighth of these last left. Their handlers get
    ///   [`CloseReason::MemoryLimit`](crate::CloseReason::MemoryLimit), [`counters`](TcpServer::counters) counts them, and a
    ///   warning is logged, once a second at most.
    /// - A send that would take the total past twice the limit is refused with [`SendError::Full`](crate::SendError::Full). That
    ///   bounds what is sent before the loops have closed those connections.
    ///
    /// A block of memory counts whole until its last byte has been sent; one that several connections
    /// [share](TcpConnection::send_shared) counts in part with each. What waits in the mailboxes of handles counts; parts of
    /// files do not. A message that is answered at once changes no count.
    pub fn max_buffered(mut self, bytes: usize) -> Self {
        self.settings.limits.max_buffered = Some(bytes);
        self
    }

    fn build(self, many: Option<(LoopPool, Distribution)>, establish: Establish) -> io::Result<TcpServer> {
        let TcpServerBuilder { event_loop, addresses, settings, .. } = self;
        let (pool, distribution) = many.unzip();
        let distribution = distribution.unwrap_or_default();
        let listeners = match (&pool, distribution) {
            (Some(pool), Distribution::ListenerPerLoop) => pool.handles().len(),
            _ => 1,
        };
        let (address, mut acceptors) = listening::bind(&addresses, &settings, listeners)?;
        let group = match &pool {
            None => Group::new(settings.limits, settings.quota, [event_loop.handle()]),
            Some(pool) => Group::new(settings.limits, settings.quota, pool.handles().cloned()),
        };
        let budget = settings.accepts_per_turn;
        match (&pool, establish) {
            (Some(pool), Establish::There(establish)) if listeners > 1 => {
                listening::listen_there(pool, acceptors, budget, &group, &establish)?;
            }
            (_, establish) => {
                let acceptor = acceptors.remove(0);
                listening::listen_here(event_loop, acceptor, budget, &group, distribution, establish)?;
            }
        }
        let handle = ServerHandle { home: event_loop.handle(), address, group };
        Ok(TcpServer { event_loop: event_loop.downgrade(), handle, pool, released: false })
    }
}

impl<'a> TcpServerBuilder<'a, ThisLoop> {
    /// Serves connections on `loops` loops, dealt out in turn. One is the loop that the server is bound to; for more the server
    /// has that many threads of its own, and its loop only accepts.
    ///
    /// The threads end with the server. Whoever drops it, or its loop when the time of a [stop](TcpServer::stop) is up, waits for them, and
    /// so for callbacks that are under way there. One that waits for that thread in turn, by a [`call`](crate::LoopHandle::call) or for room in
    /// its [mailbox](crate::Mailbox::Block), waits for ever; a [`call_timeout`](crate::LoopHandle::call_timeout) does not. A handler is not
    /// to end the loop that it is on: this ends all its connections, and the [others](ServerHandle::live_loops) have more to do. When no loop
    /// is left, connections are closed as soon as they are accepted.
    ///
    /// # Errors
    /// As [`LoopPool::new`].
    pub fn threads(self, loops: NonZeroUsize) -> io::Result<TcpServerBuilder<'a, ManyLoops>> {
        let pool = if loops.get() == 1 { None } else { Some(LoopPool::new(loops, "reveille")?) };
        let TcpServerBuilder { event_loop, addresses, settings, .. } = self;
        Ok(TcpServerBuilder {
            event_loop,
            addresses,
            settings,
            spread: ManyLoops { pool, distribution: Distribution::default() },
        })
    }

    /// Makes a server that calls `on_message` whenever bytes have come on a connection, as
    /// [`ConnectionHandler::on_message`].
    ///
    /// # Errors
    /// As [`serve`](TcpServerBuilder::serve).
    pub fn on_message<F, R>(self, on_message: F) -> io::Result<TcpServer>
    where
        F: FnMut(&TcpConnection<'_>, &mut Buffer) -> R + 'static,
        R: Outcome + 'static,
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

impl TcpServerBuilder<'_, ManyLoops> {
    /// As on one loop, for a closure that every loop may call.
    ///
    /// # Errors
    /// As [`serve`](TcpServerBuilder::serve).
    pub fn on_message<F, R>(self, on_message: F) -> io::Result<TcpServer>
    where
        F: Fn(&TcpConnection<'_>, &mut Buffer) -> R + Send + Sync + 'static,
        R: Outcome + 'static,
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
