//! `Inspector`: a page, JSON, and text for Prometheus, about loops, servers and connections.

mod clients;
mod delays;
mod descriptors;
mod http;
mod json;
mod prometheus;
mod reply;
mod routes;
mod scan;
mod session;
mod slow_list;
mod state;
mod watched_loop;

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use self::clients::MAX_CLIENTS;
use self::session::Session;
use self::state::{State, Watch};
use crate::event_loop::{EventLoop, LoopHandle};
use crate::net::server::TcpServer;
use crate::net::{Address, ServerHandle, UnixAddress};
use crate::threads::loop_thread::LoopThread;

/// The default limit of slow callbacks.
const SLOW: Duration = Duration::from_millis(100);

/// Connections beyond those that stay: the ones that are being replaced. No more are accepted in a
/// turn, and further ones wait in the backlog until those have been closed.
const MORE_CLIENTS: usize = 16;

/// Shows what loops and servers do: as a page for a browser, as JSON, and as text for Prometheus.
///
/// It serves HTTP/1.1 on a loopback address or a Unix socket, from a loop on a thread of its own,
/// until it is dropped. It only shows: there is no request that changes anything.
///
/// | path | content |
/// |---|---|
/// | `/` | the page; it loads nothing from elsewhere |
/// | `/metrics` | Prometheus' text format 0.0.4 |
/// | `/api/overview` | loops with their history of five minutes, slow callbacks, servers |
/// | `/api/connections` | the list of connections |
/// | `/api/connections/PATH` | one connection, by its `path` in the list |
/// | `/api/descriptors` | the open descriptors of the process |
///
/// The list has the parameters `sort` (`received`, `sent`, `age`, `unsent` or `unread`), `order`
/// (`asc` or `desc`) and `limit` (at most 1000). With `since` the overview has only the points of
/// the history after that second.
///
/// ```no_run
/// use reveille::observe::Inspector;
/// use reveille::{EventLoop, TcpServer};
///
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// let server = TcpServer::bind(&event_loop, "127.0.0.1:2007")?
///     .threads(4)
///     .serve_fn(|conn, input| conn.send(input.take_all()))?;
/// let inspector = Inspector::builder()
///     .listen_tcp(([127, 0, 0, 1], 2008))
///     .watch_server("echo", &server.handle()) // with its loops
///     .start()?;
/// println!("see http://{}/", inspector.local_address());
/// event_loop.run()
/// # }
/// ```
///
/// # Access
/// Every process of the machine can connect to a loopback address, also one of another user; a Unix
/// socket has the permissions of its owner only. The inspector refuses other addresses, unless
/// [`permit_remote`](InspectorBuilder::permit_remote) permits them: it neither encrypts nor
/// authenticates. Over TCP it serves only requests for `localhost`, a loopback address, or an
/// [allowed host](InspectorBuilder::allow_host), so a page of another site cannot read it through a
/// name that resolves to the loopback address. It keeps 64 clients connected; another one
/// replaces the client that has been silent longest.
///
/// # What is measured
/// - **Load** of a loop: the CPU time of its thread, as the kernel counts it. The time in which the
///   thread waits for a processor is shown next to it.
/// - **Delay**: the time from the post of a probe, a task of the inspector, to its start. The
///   inspector posts one a second, and ten while it gets requests. A loop that has not run a probe
///   for a second is shown as not responding; it does not delay the inspector. On a loop with
///   [metrics](LoopHandle::enable_metrics) the delays of all tasks and timers are shown too.
/// - **Slow callbacks**: those that run for at least the [limit](InspectorBuilder::slow_callbacks),
///   by the name of the type of the handler or closure. A callback is named when it returns. Its
///   duration is up to a quarter of the limit, and at most 25 ms, too short. A
///   [`Watchdog`](crate::observe::Watchdog) also names a callback that does not return.
/// - **Connections**: those of the watched loops, of servers, clients, and adopted ones. Bytes are
///   those of TCP's payload, as the kernel counts them; other streams have no count. The list is
///   collected on request, in slices of at most 256 connections and about 100 µs, one each 25 ms
///   and loop. Measured with the example `http` and 9,000 connections on one loop, a list took
///   three seconds, and 0.6 % of the loop's time while it was kept current.
///
/// # Cost
/// Without an inspector the loops do nothing for it. A watched loop numbers its callbacks, which
/// takes a few instructions each, and runs the probes. Counting its bytes costs a connection
/// nothing.
///
/// # Fork
/// In a forked child an inspector does nothing.
#[must_use = "dropping the inspector ends it"]
pub struct Inspector {
    requests: Arc<Mutex<Vec<Watch>>>,
    addresses: Vec<Address>,
    thread: LoopThread,
}

impl Inspector {
    /// Returns a builder with the default settings. It needs an address to listen on.
    pub fn builder() -> InspectorBuilder {
        InspectorBuilder {
            listen: Vec::new(),
            watched: Vec::new(),
            slow_limit: SLOW,
            allowed_hosts: Vec::new(),
            is_remote_permitted: false,
        }
    }

    /// Watches a loop until it ends. From any thread. A loop that is watched already is still
    /// watched once.
    pub fn watch_loop(&self, event_loop: &LoopHandle) {
        self.watch(Watch::Loop(event_loop.clone()));
    }

    /// Watches a server until it ends, and its loops: the one that it was bound to, and those that
    /// serve its connections. From any thread.
    pub fn watch_server(&self, name: impl Into<String>, server: &ServerHandle) {
        self.watch(Watch::Server(name.into(), server.clone()));
    }

    fn watch(&self, watch: Watch) {
        // In a forked child the lock may be held for ever.
        if !self.thread.handle().is_inherited() {
            self.requests.lock().push(watch);
        }
    }

    /// The address that the inspector listens on; the first one, if there are several.
    pub fn local_address(&self) -> &Address {
        &self.addresses[0]
    }

    /// The addresses that the inspector listens on, in the order of the builder's calls.
    pub fn local_addresses(&self) -> &[Address] {
        &self.addresses
    }
}

impl fmt::Debug for Inspector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inspector").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// Builds an [`Inspector`].
#[must_use = "`start` starts the inspector"]
pub struct InspectorBuilder {
    listen: Vec<Listen>,
    watched: Vec<Watch>,
    slow_limit: Duration,
    allowed_hosts: Vec<String>,
    is_remote_permitted: bool,
}

enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl InspectorBuilder {
    /// Listens on a loopback address. Port 0 selects a free port, see
    /// [`local_address`](Inspector::local_address).
    pub fn listen_tcp(mut self, address: impl Into<SocketAddr>) -> Self {
        self.listen.push(Listen::Tcp(address.into()));
        self
    }

    /// Listens on a Unix socket with this path. Only its owner may connect. The file is removed
    /// when the inspector ends. One that a program has left behind is replaced.
    pub fn listen_unix(mut self, path: impl Into<PathBuf>) -> Self {
        self.listen.push(Listen::Unix(path.into()));
        self
    }

    /// Same as [`Inspector::watch_loop`].
    pub fn watch_loop(mut self, event_loop: &LoopHandle) -> Self {
        self.watched.push(Watch::Loop(event_loop.clone()));
        self
    }

    /// Same as [`Inspector::watch_server`].
    pub fn watch_server(mut self, name: impl Into<String>, server: &ServerHandle) -> Self {
        self.watched.push(Watch::Server(name.into(), server.clone()));
        self
    }

    /// The duration from which a callback is slow. Default: 100 ms. With a limit below 100 ms, the
    /// inspector's thread wakes up more often than every 25 ms: four times in the limit, and at
    /// most every millisecond.
    pub fn slow_callbacks(mut self, limit: Duration) -> Self {
        self.slow_limit = limit;
        self
    }

    /// Also serves requests for this host: a name or an IP address, without a port. Default: only
    /// `localhost` and loopback addresses.
    pub fn allow_host(mut self, host: impl Into<String>) -> Self {
        self.allowed_hosts.push(host.into());
        self
    }

    /// Permits addresses other than those of the loopback interface. Everyone who can connect to
    /// them can see the addresses of all clients of the program, and the names of its types. The
    /// host that the clients use must be [allowed](InspectorBuilder::allow_host).
    pub fn permit_remote(mut self) -> Self {
        self.is_remote_permitted = true;
        self
    }

    /// Starts the inspector.
    ///
    /// # Errors
    /// - [`InvalidInput`](io::ErrorKind::InvalidInput) without an address, or with an address that
    ///   is not a loopback address and not [permitted](InspectorBuilder::permit_remote).
    /// - The error of starting a thread, of creating its loop, or of binding an address.
    pub fn start(self) -> io::Result<Inspector> {
        let InspectorBuilder { listen, watched, slow_limit, allowed_hosts, is_remote_permitted } = self;
        let invalid = |message: String| Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        if listen.is_empty() {
            return invalid("an inspector needs an address to listen on".to_owned());
        }
        for address in &listen {
            match address {
                Listen::Tcp(address) if !address.ip().is_loopback() && !is_remote_permitted => {
                    return invalid(format!(
                        "the inspector may not listen on {address}: not a loopback address"
                    ));
                }
                Listen::Tcp(_) | Listen::Unix(_) => {}
            }
        }
        let requests = Arc::new(Mutex::new(watched));
        let (shared, addresses) = (Arc::clone(&requests), Arc::new(Mutex::new(Vec::new())));
        let bound = Arc::clone(&addresses);
        let thread = LoopThread::spawn_with("inspector", move |event_loop| {
            let state = Rc::new(RefCell::new(State::new(slow_limit, allowed_hosts, shared)));
            let server = serve(event_loop, listen, &state)?;
            *bound.lock() = server.local_addresses().to_vec();
            state.borrow_mut().tick(Instant::now());
            let interval = state.borrow().tick_interval();
            event_loop.run_every(interval, move |_| state.borrow_mut().tick(Instant::now()));
            Ok(server)
        })?;
        let addresses = std::mem::take(&mut *addresses.lock());
        Ok(Inspector { requests, addresses, thread })
    }
}

fn serve(event_loop: &EventLoop, listen: Vec<Listen>, state: &Rc<RefCell<State>>) -> io::Result<TcpServer> {
    let mut builder = TcpServer::builder(event_loop).replace_stale().path_mode(0o600);
    for address in listen {
        builder = match address {
            Listen::Tcp(address) => builder.listen(address),
            Listen::Unix(path) => builder.listen(UnixAddress::path(path)?),
        };
    }
    let state = Rc::clone(state);
    builder
        .max_connections(MAX_CLIENTS + MORE_CLIENTS)
        .accepts_per_turn(MORE_CLIENTS)
        .max_buffered(session::MAX_BUFFERED)
        .limits(session::limits())
        .serve(move |_| Session::new(Rc::clone(&state)))
}

impl fmt::Debug for InspectorBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InspectorBuilder").field("slow_limit", &self.slow_limit).finish_non_exhaustive()
    }
}
