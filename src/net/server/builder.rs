//! `TcpServerBuilder`: the settings of a server, the loops it serves on, and the finishing calls.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use super::balancer::LoadBalancing;
use super::bind::Bound;
use super::listen_on::{ListenOn, Listening, resolve_all};
use super::listener::Establish;
use super::socket_path::PathOptions;
use super::{ServerHandle, TcpServer, bind};
use crate::buffer::Buffer;
use crate::event_loop::containment::Contained;
use crate::event_loop::{EventLoop, LoopHandle};
use crate::net::connection::driver::establish;
use crate::net::connection::handler::{ConnectionHandler, OnMessage, shared};
use crate::net::connection::{PendingConnection, TcpConnection};
use crate::net::filter::{Filter, FilterFactories};
use crate::net::group::Group;
use crate::net::group::admission::Quota;
use crate::net::limits::ConnectionLimits;
use crate::net::options::SocketOptions;
use crate::net::result::IntoHandlerResult;
use crate::threads::loop_pool::LoopPool;

#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) backlog: i32,
    pub(super) accepts_per_turn: usize,
    pub(super) options: SocketOptions,
    /// Used by Unix sockets only.
    pub(super) path_options: PathOptions,
    pub(super) quota: Quota,
    pub(super) limits: ConnectionLimits,
    pub(super) filters: FilterFactories,
    pub(super) max_buffered: Option<usize>,
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
            filters: FilterFactories::default(),
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
    loops: Loops,
    pub(super) load_balancing: LoadBalancing,
}

#[derive(Debug)]
enum Loops {
    /// The server starts this number of threads.
    Threads(usize),
    /// The loops of a pool that the server does not own.
    Pool(Vec<LoopHandle>),
}

/// The loops that a server has been given when it is built.
struct Placement {
    /// In the order of the group's shards.
    loops: Vec<LoopHandle>,
    /// The threads of the loops, if the server owns them.
    pool: Option<LoopPool>,
    load_balancing: LoadBalancing,
    /// Whether the server's own loop serves all connections.
    is_home: bool,
}

impl Placement {
    fn home(event_loop: &EventLoop) -> Placement {
        let load_balancing = LoadBalancing::default();
        Placement { loops: vec![event_loop.handle()], pool: None, load_balancing, is_home: true }
    }
}

impl MultiLoop {
    fn new(loops: Loops) -> MultiLoop {
        MultiLoop { loops, load_balancing: LoadBalancing::default() }
    }

    /// Starts the threads, or selects the loops of the pool that have not ended.
    fn place(self, event_loop: &EventLoop) -> io::Result<Placement> {
        event_loop.check_process()?;
        let MultiLoop { loops, load_balancing } = self;
        match loops {
            Loops::Threads(0) => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a server needs a thread to serve connections on",
            )),
            Loops::Threads(1) => Ok(Placement::home(event_loop)),
            Loops::Threads(threads) => {
                let pool = LoopPool::like(event_loop, threads, "reveille")?;
                let loops = pool.handles().cloned().collect();
                Ok(Placement { loops, pool: Some(pool), load_balancing, is_home: false })
            }
            Loops::Pool(mut loops) => {
                loops.iter().try_for_each(LoopHandle::check_process)?;
                loops.retain(|handle| !handle.has_ended());
                if loops.is_empty() {
                    return Err(bind::no_loop_left());
                }
                Ok(Placement { loops, pool: None, load_balancing, is_home: false })
            }
        }
    }
}

/// Builds a [`TcpServer`]. Created by [`TcpServer::bind`] or [`TcpServer::builder`].
///
/// On a single loop, handlers and the closures that create them need not be `Send`. With several
/// loops ([`threads`](TcpServerBuilder::threads) or [`pool`](TcpServerBuilder::pool)) the closures
/// are called on every loop, so they must be `Send` and `Sync`; each handler still stays on one
/// loop. [`serve_per_loop`](TcpServerBuilder::serve_per_loop) provides values that the handlers of
/// one loop share without locks.
#[must_use = "`serve` or `serve_fn` builds the server"]
pub struct TcpServerBuilder<'a, S = SingleLoop> {
    pub(super) event_loop: &'a EventLoop,
    /// One for each listener. An error is returned by the finishing call.
    pub(super) listen_on: Vec<io::Result<ListenOn>>,
    pub(super) settings: Settings,
    pub(super) loops: S,
}

impl<'a, S> TcpServerBuilder<'a, S> {
    /// The maximum number of connections that wait to be accepted. Default: 4096. 0 counts as 1.
    /// The kernel limits it to `net.core.somaxconn`.
    pub fn backlog(mut self, connections: u32) -> Self {
        self.settings.backlog = i32::try_from(connections.max(1)).unwrap_or(i32::MAX);
        self
    }

    /// The options of the server's sockets. Default: those of [`SocketOptions::new`]. Connections
    /// inherit them from the listening socket.
    pub fn socket_options(mut self, options: SocketOptions) -> Self {
        self.settings.options = options;
        self
    }

    /// Adds a [`Filter`](crate::net::Filter) between each connection's socket and its handler.
    /// `make` creates one for each connection. The order of the calls is the order from the socket
    /// to the handler.
    pub fn filter<F: Filter>(mut self, make: impl Fn() -> F + Send + Sync + 'static) -> Self {
        self.settings.filters.add(make);
        self
    }
}

impl<'a> TcpServerBuilder<'a, SingleLoop> {
    /// Serves connections on `loops` loops. With 1 that is the loop the server is bound to. With
    /// more the server has this number of threads, named `reveille-0`, `reveille-1` and so on, each
    /// with a loop. The loop it is bound to only accepts; with
    /// [`ListenerPerLoop`](crate::net::LoadBalancing::ListenerPerLoop) the threads accept instead.
    /// The loops have an [input buffer](crate::EventLoopBuilder::input_buffer) of the same size as
    /// the one that the server is bound to.
    ///
    /// Otherwise the loop that the server is bound to must run, or no connection is accepted. A
    /// blocking client on that loop's thread waits for ever for a reply: it keeps the loop from
    /// running.
    ///
    /// This call only records the number. The finishing call, such as
    /// [`serve`](TcpServerBuilder::serve), spawns the threads; for 0 it returns an error.
    /// Connections are distributed in turn unless
    /// [`load_balancing`](TcpServerBuilder::load_balancing) selects another policy.
    ///
    /// The threads end with the server. The thread that drops the server waits for them, and for
    /// the callbacks running there; after a [stop](TcpServer::stop) or with a
    /// [detached](TcpServer::detach) server it is the server's loop that waits, after the last
    /// connection or when it is dropped. A callback deadlocks if it waits for that thread in turn,
    /// by [`call`](crate::LoopHandle::call) or by a post to its full
    /// [mailbox](crate::task::MailboxLimit::Block);
    /// [`call_timeout`](crate::LoopHandle::call_timeout) does not.
    ///
    /// A handler should not quit its own loop. That ends all connections of the loop, and the
    /// [remaining loops](ServerHandle::live_loops) take over its share. When no loop is left,
    /// connections are closed as soon as they are accepted.
    pub fn threads(self, loops: usize) -> TcpServerBuilder<'a, MultiLoop> {
        self.with_loops(Loops::Threads(loops))
    }

    /// Serves connections on the loops of a pool. Several servers can share a pool, also on
    /// different loops. The loop that the server is bound to only accepts; with
    /// [`ListenerPerLoop`](crate::net::LoadBalancing::ListenerPerLoop) the loops of the pool accept
    /// instead.
    ///
    /// The server does not own the threads. Its end closes its connections and listeners there, and
    /// does not wait for the loops: a connection may get callbacks until its loop has processed the
    /// end, which it does in its next turn.
    ///
    /// When the pool is dropped first, the connections on its loops end with
    /// [`CloseReason::LoopEnded`](crate::net::CloseReason::LoopEnded). The server remains; it
    /// closes connections as soon as they are accepted, or listens no longer if the loops of the
    /// pool accepted. If only some of the loops end, the [remaining
    /// ones](ServerHandle::live_loops) take over their share.
    ///
    /// With [`ListenerPerLoop`](crate::net::LoadBalancing::ListenerPerLoop) the finishing call
    /// waits for each loop of the pool. So two loops of one pool that make such calls at the same
    /// time deadlock.
    ///
    /// ```
    /// use reveille::{EventLoop, LoopPool, TcpServer};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let pool = LoopPool::new(4, "worker")?;
    /// let event_loop = EventLoop::new()?;
    /// let _echo = TcpServer::bind(&event_loop, "127.0.0.1:0")?
    ///     .pool(&pool)
    ///     .serve_fn(|conn, input| conn.send(input.take_all()))?;
    /// let _discard = TcpServer::bind(&event_loop, "127.0.0.1:0")?
    ///     .pool(&pool)
    ///     .serve_fn(|_, input| input.clear())?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// `pool` and [`threads`](TcpServerBuilder::threads) exclude each other:
    ///
    /// ```compile_fail,E0599
    /// # fn both(builder: reveille::net::TcpServerBuilder<'_>, pool: &reveille::LoopPool) {
    /// builder.threads(2).pool(pool);
    /// # }
    /// ```
    ///
    /// ```compile_fail,E0599
    /// # fn both(builder: reveille::net::TcpServerBuilder<'_>, pool: &reveille::LoopPool) {
    /// builder.pool(pool).threads(2);
    /// # }
    /// ```
    ///
    /// # Errors
    /// The finishing call returns [`BrokenPipe`](io::ErrorKind::BrokenPipe) if all loops of the
    /// pool have ended, and [`Unsupported`](io::ErrorKind::Unsupported) in a forked child of the
    /// process that created the pool.
    pub fn pool(self, pool: &LoopPool) -> TcpServerBuilder<'a, MultiLoop> {
        self.with_loops(Loops::Pool(pool.handles().cloned().collect()))
    }

    fn with_loops(self, loops: Loops) -> TcpServerBuilder<'a, MultiLoop> {
        let TcpServerBuilder { event_loop, listen_on, settings, .. } = self;
        TcpServerBuilder { event_loop, listen_on, settings, loops: MultiLoop::new(loops) }
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
        let factory = Rc::new(RefCell::new(Contained::new(factory)));
        let make = move |conn: &TcpConnection<'_>| (factory.borrow_mut())(conn);
        let establish = move |event_loop: &EventLoop, pending| establish(event_loop, pending, &make);
        let TcpServerBuilder { event_loop, listen_on, settings, .. } = self;
        let listen_on = resolve_all(listen_on)?;
        let placement = Placement::home(event_loop);
        build(event_loop, listen_on, settings, placement, |_| Ok(Establish::ThisLoop(Rc::new(establish))))
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
    /// The factory is called on every loop, so it cannot capture an `Rc`. The handlers that it
    /// creates can; see [`serve_per_loop`](TcpServerBuilder::serve_per_loop).
    ///
    /// ```compile_fail,E0277
    /// use reveille::{EventLoop, TcpServer};
    /// use std::{cell::Cell, rc::Rc};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let event_loop = EventLoop::new()?;
    /// let messages = Rc::new(Cell::new(0));
    /// let _server = TcpServer::bind(&event_loop, "127.0.0.1:0")?
    ///     .threads(2)
    ///     .serve_fn(move |_, input| {
    ///         input.clear();
    ///         messages.set(messages.get() + 1); // error: the `Rc` is not `Send`
    ///     })?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// - [`InvalidInput`](io::ErrorKind::InvalidInput) if the number of
    ///   [threads](TcpServerBuilder::threads) is 0.
    /// - The errors of [`LoopPool::new`], if a thread or its loop cannot be created.
    /// - The errors of a [`pool`](TcpServerBuilder::pool) without loops.
    /// - The error of socket(2), bind(2) or listen(2), with the address in its message.
    pub fn serve<F, H>(self, factory: F) -> io::Result<TcpServer>
    where
        F: Fn(&TcpConnection<'_>) -> H + Send + Sync + 'static,
        H: ConnectionHandler,
    {
        let factory = Arc::new(Contained::new(factory));
        let make = move |conn: &TcpConnection<'_>| factory(conn);
        self.build_on_loops(|_| {
            Ok(move |event_loop: &EventLoop, pending| establish(event_loop, pending, &make))
        })
    }

    /// Starts the threads and builds the server. `make_establish` gets the group, whose shards are
    /// the loops.
    pub(super) fn build_on_loops<E>(
        self,
        make_establish: impl FnOnce(&Arc<Group>) -> io::Result<E>,
    ) -> io::Result<TcpServer>
    where
        E: Fn(&EventLoop, PendingConnection) + Send + Sync + 'static,
    {
        let TcpServerBuilder { event_loop, listen_on, settings, loops } = self;
        let listen_on = resolve_all(listen_on)?;
        let placement = loops.place(event_loop)?;
        let is_home = placement.is_home;
        build(event_loop, listen_on, settings, placement, |group| {
            let establish = make_establish(group)?;
            Ok(if is_home {
                Establish::ThisLoop(Rc::new(establish))
            } else {
                Establish::AnyLoop(Arc::new(establish))
            })
        })
    }
}

impl<S> fmt::Debug for TcpServerBuilder<'_, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpServerBuilder")
            .field("listen_on", &self.listen_on)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Builds the server. `make_establish` is called when the addresses have been bound, before the
/// server accepts.
fn build(
    event_loop: &EventLoop,
    listen_on: Vec<Listening>,
    settings: Settings,
    placement: Placement,
    make_establish: impl FnOnce(&Arc<Group>) -> io::Result<Establish>,
) -> io::Result<TcpServer> {
    // In a forked child, adopting would change the flags of the parent's sockets.
    event_loop.check_process()?;
    let Placement { loops, pool, load_balancing, is_home } = placement;
    let has_listener_per_loop = !is_home && load_balancing == LoadBalancing::ListenerPerLoop;
    let copies = if has_listener_per_loop { loops.len() } else { 1 };
    let Bound { addresses, acceptors } = Bound::bind(listen_on, &settings, copies)?;
    let Settings { limits, filters, max_buffered, quota, accepts_per_turn, .. } = settings;
    let group = Group::new(limits, filters, max_buffered, quota, loops);
    let listening = make_establish(&group).and_then(|establish| match establish {
        Establish::AnyLoop(establish) if has_listener_per_loop => {
            bind::listen_on_each(acceptors, accepts_per_turn, &group, &establish)
        }
        establish => {
            let acceptors = acceptors.into_iter().flatten().collect();
            bind::listen_on(event_loop, acceptors, accepts_per_turn, &group, load_balancing, &establish)
        }
    });
    if let Err(error) = listening {
        bind::undo(&group);
        return Err(error);
    }
    let handle = ServerHandle { home: event_loop.handle(), addresses, group };
    Ok(TcpServer { event_loop: event_loop.downgrade(), handle, pool, is_left: false })
}
