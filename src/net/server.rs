//! A TCP server: where it listens, how it deals its connections out, and how it ends.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::acceptor::Acceptor;
use super::connection::TcpConnection;
use super::driver::establish;
use super::group::{Group, Limits, Stage, StopReport};
use super::handler::{ConnectionHandler, OnMessage};
use super::listener::{Establish, Listener};
use super::outcome::Outcome;
use crate::buffer::Buffer;
use crate::channel_table::ChannelId;
use crate::event_loop::{EventLoop, WeakLoop};
use crate::loop_pool::LoopPool;
use crate::readiness::Interest;

/// A server, for as long as this value lives.
///
/// It listens as soon as it is made, and serves when its loop runs. Dropping it ends it at once: it stops listening and its
/// connections are closed. [`stop`](TcpServer::stop) lets them finish first.
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
    listener: ChannelId,
    local_addr: SocketAddr,
    group: Arc<Group>,
    /// The server's own, if it has been told to have threads.
    pool: Option<LoopPool>,
}

impl TcpServer {
    /// Begins a server that listens on `address`, a socket address or a `host:port`; of several addresses the first that
    /// can be had. Port 0 stands for one that is free: see [`local_addr`](TcpServer::local_addr).
    ///
    /// A name is looked up here and now, which may block; numeric addresses never do. `[::]` takes IPv4 too where the system
    /// says so (`net.ipv6.bindv6only`).
    ///
    /// # Errors
    /// What the kernel says: an address in use, one that is not this machine's, a port that is not allowed. The error names
    /// the address.
    pub fn bind(event_loop: &EventLoop, address: impl ToSocketAddrs) -> io::Result<TcpServerBuilder<'_>> {
        let addresses: Vec<SocketAddr> = address.to_socket_addrs()?.collect();
        Ok(TcpServerBuilder { event_loop, addresses, settings: Settings::default(), spread: ThisLoop })
    }

    /// Where the server listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// How many connections are open now, on all its loops, those on their way to a loop included.
    pub fn open_connections(&self) -> u64 {
        self.group.open()
    }

    /// Ends the server in order. It stops listening at once. Its connections are shut down: what is queued is sent, then the
    /// FIN, and what still comes in is thrown away. Those that have not ended `within` this time are cut off.
    ///
    /// When the last has gone, on whatever loop, `then` is called on this server's loop with how many ended each way. It is
    /// called once, unless the loop itself ends before.
    pub fn stop(mut self, within: Duration, then: impl FnOnce(&EventLoop, StopReport) + Send + 'static) {
        let pool = self.pool.take();
        self.event_loop.with(|event_loop| {
            event_loop.remove(self.listener);
            self.group.advance(Stage::Draining);
            let group = Arc::clone(&self.group);
            // The pool waits with the timer, and so ends with it: when the time is up, when the last connection has gone and
            // the timer is cancelled, or with the loop.
            let deadline = event_loop.run_after(within, move |_| {
                group.advance(Stage::Cutting);
                drop(pool);
            });
            let when_empty = move |event_loop: &EventLoop, report| {
                event_loop.cancel(deadline);
                then(event_loop, report);
            };
            self.group.call_when_empty(event_loop.handle(), Box::new(when_empty));
        });
    }
}

impl Drop for TcpServer {
    fn drop(&mut self) {
        self.event_loop.with(|event_loop| event_loop.remove(self.listener));
        if self.group.stage() == Stage::Serving {
            self.group.advance(Stage::Cutting);
        }
    }
}

impl fmt::Debug for TcpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpServer")
            .field("local_addr", &self.local_addr)
            .field("open_connections", &self.open_connections())
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug)]
struct Settings {
    backlog: i32,
    nodelay: bool,
    limits: Limits,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            // The kernel cuts this to net.core.somaxconn. A short backlog makes a burst of clients wait for retransmits.
            backlog: 4096,
            nodelay: true,
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
}

/// A server that is being made, from [`TcpServer::bind`].
///
/// On one loop, handlers, and the closures that make them, may hold what they like. Over [several](TcpServerBuilder::threads) the
/// closures are called on every loop, so they must be `Send + Sync`; the handlers themselves still stay on one loop each.
#[must_use = "a server is made by `on_message` or `serve`"]
pub struct TcpServerBuilder<'a, S = ThisLoop> {
    event_loop: &'a EventLoop,
    addresses: Vec<SocketAddr>,
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
        self.settings.nodelay = nodelay;
        self
    }

    /// How many bytes a connection may have unsent before it stops reading from its peer, and to how few they must fall
    /// before it reads again. Usually 4 MiB and 1 MiB.
    pub fn water_marks(mut self, high: usize, low: usize) -> Self {
        self.settings.limits.high_water = high;
        self.settings.limits.low_water = low.min(high);
        self
    }

    /// How many bytes a connection may have unsent at all; a send that would pass it is refused. Usually 16 MiB.
    ///
    /// It belongs well above the high-water mark, or the limit is met before the peer is held back.
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

    fn build(self, pool: Option<LoopPool>, establish: Establish) -> io::Result<TcpServer> {
        let TcpServerBuilder { event_loop, addresses, settings, .. } = self;
        let acceptor = bind_first(&addresses, settings.backlog)?;
        let local_addr = acceptor.local_address()?;
        let group = match &pool {
            None => Group::new(settings.limits, [event_loop.handle()]),
            Some(pool) => Group::new(settings.limits, pool.handles().cloned()),
        };
        let listener = event_loop.register(Interest::READABLE, |id| {
            Rc::new(Listener::new(id, acceptor, settings.nodelay, Arc::clone(&group), establish))
        })?;
        Ok(TcpServer { event_loop: event_loop.downgrade(), listener: listener.id(), local_addr, group, pool })
    }
}

impl<'a> TcpServerBuilder<'a, ThisLoop> {
    /// Serves connections on `loops` loops, dealt out in turn. One is the loop that the server is bound to; for more the server
    /// has that many threads of its own, and its loop only accepts.
    ///
    /// # Errors
    /// As [`LoopPool::new`].
    pub fn threads(self, loops: NonZeroUsize) -> io::Result<TcpServerBuilder<'a, ManyLoops>> {
        let pool = if loops.get() == 1 { None } else { Some(LoopPool::new(loops, "reveille")?) };
        let TcpServerBuilder { event_loop, addresses, settings, .. } = self;
        Ok(TcpServerBuilder { event_loop, addresses, settings, spread: ManyLoops { pool } })
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
        let shared = Rc::new(RefCell::new(on_message));
        self.serve(move |_| {
            let shared = Rc::clone(&shared);
            OnMessage(move |conn: &TcpConnection<'_>, input: &mut Buffer| {
                // Callbacks never nest, so this one is never borrowed twice.
                (shared.borrow_mut())(conn, input).into_result()
            })
        })
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
        let factory = RefCell::new(factory);
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
        let shared = Arc::new(on_message);
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
        let everywhere = move |event_loop: &EventLoop, arrival| {
            establish(event_loop, arrival, &factory);
        };
        match self.spread.pool.take() {
            None => self.build(None, Establish::Here(Box::new(everywhere))),
            Some(pool) => self.build(Some(pool), Establish::There(Arc::new(everywhere))),
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

fn bind_first(addresses: &[SocketAddr], backlog: i32) -> io::Result<Acceptor> {
    let mut first_error = None;
    for &address in addresses {
        match Acceptor::bind(address, backlog) {
            Ok(acceptor) => return Ok(acceptor),
            Err(error) => {
                let error = io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"));
                first_error.get_or_insert(error);
            }
        }
    }
    let none = || io::Error::new(io::ErrorKind::InvalidInput, "the address stands for no socket address");
    Err(first_error.unwrap_or_else(none))
}
