//! `TcpServer`: listening, load balancing over loops, and stopping.

mod accepting;
pub(in crate::net) mod acceptor;
pub(in crate::net) mod balancer;
mod bind;
mod builder;
mod detached;
mod handle;
#[cfg(feature = "inspector")]
pub(crate) mod inspection;
mod limits;
mod listen_on;
pub(in crate::net) mod listener;
mod per_loop;
mod serve_async;
pub(in crate::net) mod socket_path;
mod stopped_callback;
#[cfg(feature = "tls")]
mod tls;
mod unix;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use self::builder::Settings;
use self::detached::DetachedServer;
use self::listen_on::ListenOn;
use self::listener::Listener;
use self::stopped_callback::StoppedCallback;
use super::address::{Address, AddressError};
use super::group::{Group, Stage, StopReport, WhenEmpty};
use super::names::Protocol;
use super::target::ConnectTarget;
use crate::event_loop::containment::Contained;
use crate::event_loop::{EventLoop, WeakLoop};
use crate::net::group::admission::ServerCounters;
use crate::threads::loop_pool::LoopPool;
pub use builder::{MultiLoop, SingleLoop, TcpServerBuilder};
pub use handle::ServerHandle;

/// A TCP or Unix-socket server, which runs until this value is dropped, or its loop if it is
/// [detached](TcpServer::detach).
///
/// The server listens as soon as it is built, and serves while its loop runs. Dropping it aborts
/// it, also from inside a callback or the handler factory: it stops listening and closes its
/// connections, with a reset if they have unsent output. When the drop returns, the listening
/// socket is closed, the address can be bound again, and the only handler method still called is
/// [`on_close`](crate::ConnectionHandler::on_close); on the loops of a
/// [pool](TcpServerBuilder::pool) that holds from their next turn on. [`stop`](TcpServer::stop)
/// lets the connections finish first.
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
    /// The server is left to the loop: dropping this value does not abort the server.
    is_left: bool,
}

impl TcpServer {
    /// A builder of a server that listens on `address`: a socket address or `host:port`, see
    /// [`ConnectTarget`].
    ///
    /// The server tries each resolved address in order and listens on the first that binds. Port 0
    /// selects an ephemeral port; [`local_addr`](TcpServer::local_addr) returns it. `[::]` is
    /// dual-stack unless `net.ipv6.bindv6only` is set.
    ///
    /// Resolving a name may block; an address never does. For several listeners, or one that exists
    /// already, see [`builder`](TcpServer::builder).
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for text that is not an address, and the
    /// errors of the lookup.
    ///
    /// The errors of bind(2) and listen(2) are returned by the methods `serve` and `serve_fn`:
    /// the address is in use, is not local, or its port is privileged. The error names the address.
    pub fn bind(
        event_loop: &EventLoop,
        address: impl TryInto<ConnectTarget, Error: Into<AddressError>>,
    ) -> io::Result<TcpServerBuilder<'_>> {
        let addresses =
            ConnectTarget::new(address, "listen on")?.resolve_blocking("listen on", Protocol::Tcp)?;
        Ok(TcpServer::builder(event_loop).adding(Ok(ListenOn::Addresses(addresses))))
    }

    /// The IP address and port that the server listens on, with its first listener.
    /// [`local_address`](TcpServer::local_address) works for every address family.
    ///
    /// # Errors
    /// [`Unsupported`](io::ErrorKind::Unsupported) if that is a Unix socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.handle.local_addr()
    }

    /// The address that the server listens on, of any family. The first one, if there are
    /// [several](TcpServer::local_addresses).
    pub fn local_address(&self) -> &Address {
        self.handle.local_address()
    }

    /// The addresses of all listeners, in the order in which the builder got them.
    pub fn local_addresses(&self) -> &[Address] {
        self.handle.local_addresses()
    }

    /// A handle to this server, for use from any thread.
    pub fn handle(&self) -> ServerHandle {
        self.handle.clone()
    }

    /// The number of open connections on all loops, including those on their way to a loop.
    pub fn open_connections(&self) -> u64 {
        self.handle.open_connections()
    }

    /// The number of open connections whose [filters](crate::net::Filter) have not completed their
    /// handshakes, on all loops, including those on their way to a loop. Upgrades of open
    /// connections do not count.
    pub fn handshakes(&self) -> u64 {
        self.handle.handshakes()
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

    /// Excludes the server from what [`run_until_idle`](EventLoop::run_until_idle) waits for. It
    /// serves as long as a loop runs. Its open connections count, and so does the report of a
    /// [`stop`](TcpServer::stop). To be called before [`detach`](TcpServer::detach).
    pub fn exclude_from_idle(&self) {
        self.set_counted(false);
    }

    /// Ends the effect of [`exclude_from_idle`](TcpServer::exclude_from_idle).
    pub fn include_in_idle(&self) {
        self.set_counted(true);
    }

    fn set_counted(&self, counted: bool) {
        if !self.handle.home.is_inherited() {
            self.handle.group.set_counted(counted);
        }
    }

    /// The bytes of memory that the connections use for unsent output and unread input, as
    /// [`max_buffered`](TcpServerBuilder::max_buffered) counts them.
    pub fn buffered(&self) -> usize {
        self.handle.group.buffered()
    }

    /// Stops the server gracefully.
    ///
    /// The server stops listening on all its loops before this returns, and the address can be
    /// bound again. The next call of each handler is its
    /// [`on_stop`](crate::ConnectionHandler::on_stop). Then its connection is half-closed: queued
    /// output is sent, then the FIN; further input is discarded.
    /// [Linked](crate::TcpConnection::relay_to) connections continue.
    ///
    /// Connections that are still open after the time `within` are reset, including those whose
    /// handler has not seen the stop yet. A peer that has received all data by then still reads a
    /// regular end of stream. With a zero `within`,
    /// [`on_close`](crate::ConnectionHandler::on_close) is called but `on_stop` is not.
    ///
    /// `then` is called on this server's loop when the last connection has ended, on any loop, and
    /// the last listener is closed. Its argument counts the connections by the way they ended. It
    /// is called once, unless the loop itself ends earlier.
    pub fn stop(mut self, within: Duration, then: impl FnOnce(&EventLoop, StopReport) + 'static) {
        self.leave_to_loop();
        let then = Contained::new(then);
        self.event_loop.with(|event_loop| {
            if let Ok(then) = StoppedCallback::register(event_loop, then.into_inner()) {
                begin_stop(event_loop, &self.handle.group, within, then);
            }
        });
    }

    /// Leaves the server to the loop, until the loop is dropped. Returns a handle, with which the
    /// server can be [stopped](ServerHandle::stop) earlier.
    ///
    /// The loop also keeps the server's [threads](TcpServerBuilder::threads), if it has any, until
    /// the server has stopped. The drop of the loop waits for them. Connections end with
    /// [`CloseReason::LoopEnded`](crate::net::CloseReason::LoopEnded); those on the loops of a
    /// [pool](TcpServerBuilder::pool) with [`Stopped`](crate::net::CloseReason::Stopped), as their
    /// loops continue.
    ///
    /// If the loop has ended already, the server ends as if it were dropped.
    ///
    /// ```
    /// use reveille::{EventLoop, TcpServer};
    /// use std::time::Duration;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let event_loop = EventLoop::new()?;
    /// let server = TcpServer::bind(&event_loop, "127.0.0.1:0")?
    ///     .serve_fn(|conn, input| conn.send(input.take_all()))?
    ///     .detach();
    /// event_loop.run_after(Duration::from_millis(1), move |_| {
    ///     server.stop(Duration::from_secs(3), |event_loop, _| event_loop.quit());
    /// });
    /// event_loop.run()
    /// # }
    /// ```
    pub fn detach(mut self) -> ServerHandle {
        self.leave_to_loop();
        self.handle.clone()
    }

    /// Makes the loop end the server, and own its threads, instead of this value. Without effect if
    /// the loop has ended.
    fn leave_to_loop(&mut self) {
        let (group, pool) = (&self.handle.group, &mut self.pool);
        let left = self.event_loop.with(|event_loop| DetachedServer::leave(event_loop, group, pool));
        self.is_left = left.is_some_and(|left| left.is_ok());
    }
}

/// Starts the stop. To be called on the server's own loop.
fn begin_stop(event_loop: &EventLoop, group: &Arc<Group>, within: Duration, then: WhenEmpty) {
    // With a zero deadline nothing can drain.
    group.advance(if within.is_zero() { Stage::Resetting } else { Stage::Draining });
    Listener::close_all(group);
    let resetting = Arc::clone(group);
    let deadline = event_loop.run_after(within, move |_| resetting.advance(Stage::Resetting));
    let when_empty = move |event_loop: &EventLoop, report| {
        event_loop.cancel(deadline);
        then.into_inner()(event_loop, report);
    };
    group.call_when_empty(event_loop.handle(), Contained::new(Box::new(when_empty)));
}

/// Stops listening and closes all connections.
fn abort(group: &Arc<Group>) {
    group.advance(Stage::Aborting);
    Listener::close_all(group);
    group.check_empty();
}

impl Drop for TcpServer {
    /// Aborts the server. In a forked child it does nothing: the server belongs to the parent.
    fn drop(&mut self) {
        if !self.is_left && !self.handle.home.is_inherited() {
            abort(&self.handle.group);
        }
    }
}

impl fmt::Debug for TcpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpServer")
            .field("local_addresses", &self.local_addresses())
            .field("open_connections", &self.open_connections())
            .finish_non_exhaustive()
    }
}
