//! The back ends as the loops share them, and their health checks.

use std::cell::RefCell;
use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reveille::net::Backoff;
use reveille::{Buffer, ConnectionHandler, EventLoop, TcpClient, TcpConnection};

use super::backends::{Backend, BackendId, Backends, Change};
use super::config::Config;
use super::proxy_header::{Header, ProxyVersion};

/// The delays between the probes of a back end that is down. Each is drawn at random from the upper
/// half of its range.
const FIRST_DELAY: Duration = Duration::from_millis(250);
const LONGEST_DELAY: Duration = Duration::from_secs(15);

/// What the loops share.
#[derive(Debug)]
pub(crate) struct Pool {
    state: Mutex<State>,
    /// The time limit of each connect.
    pub(crate) timeout: Duration,
    pub(crate) totals: Totals,
}

#[derive(Debug, Default)]
struct State {
    backends: Backends,
    send_proxy: Option<ProxyVersion>,
}

#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) connected: AtomicU64,
    pub(crate) retried: AtomicU64,
    pub(crate) refused: AtomicU64,
}

/// A connection to a back end, or an attempt. It is counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Lease {
    pool: Arc<Pool>,
    pub(crate) id: BackendId,
    pub(crate) address: SocketAddr,
    pub(crate) send_proxy: Option<ProxyVersion>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let drained = self.pool.state().backends.release(self.id);
        if let Some(address) = drained {
            log::info!("{address} has drained");
        }
    }
}

impl Pool {
    pub(crate) fn new(config: &Config, timeout: Duration) -> Pool {
        let pool = Pool { state: Mutex::default(), timeout, totals: Totals::default() };
        pool.configure(config);
        pool
    }

    pub(crate) fn configure(&self, config: &Config) -> Change {
        let mut state = self.state();
        state.send_proxy = config.send_proxy;
        state.backends.configure(config.policy, &config.targets)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Selects a back end that is not among those `tried`.
    pub(crate) fn select(self: &Arc<Pool>, tried: &[BackendId]) -> Option<Lease> {
        let mut state = self.state();
        let (id, address) = state.backends.select(tried)?;
        let send_proxy = state.send_proxy;
        Some(Lease { pool: Arc::clone(self), id, address, send_proxy })
    }

    /// One line for each back end.
    pub(crate) fn describe(&self) -> String {
        let mut text = String::new();
        for backend in self.state().backends.list() {
            let health = if backend.is_up { "up" } else { "down" };
            let draining = if backend.is_draining { ", draining" } else { "" };
            let (address, connections) = (backend.address, backend.connections);
            let _ = writeln!(text, "{address}: {health}{draining}, {connections} connections");
        }
        text
    }

    /// Records that a back end could not be connected to. From then on it is probed, until a probe
    /// succeeds or it is removed from the configuration.
    pub(crate) fn mark_down(self: &Arc<Pool>, event_loop: &EventLoop, id: BackendId, address: SocketAddr) {
        if self.state().backends.set_up(id, false) {
            log::warn!("{address} is down");
            if let Err(error) = self.probe(event_loop, id, address) {
                // It would stay down forever.
                self.state().backends.set_up(id, true);
                log::error!("{address} cannot be probed: {error}");
            }
        }
    }

    fn mark_up(&self, id: BackendId, address: SocketAddr) {
        if self.state().backends.set_up(id, true) {
            log::warn!("{address} is up");
        }
    }

    /// Connects once to each back end that is up. A failure marks it as down.
    pub(crate) fn check_all(self: &Arc<Pool>, event_loop: &EventLoop) {
        let state = self.state();
        let is_in_use = |backend: &&Backend| backend.is_up && !backend.is_draining;
        let up: Vec<Backend> = state.backends.list().iter().filter(is_in_use).copied().collect();
        drop(state);
        for backend in up {
            let (id, address, pool) = (backend.id, backend.address, Arc::clone(self));
            let checked = TcpClient::connect(event_loop, address)
                .timeout(self.timeout)
                .on_failure(move |event_loop, error| {
                    if is_of_peer(error.kind()) {
                        pool.mark_down(event_loop, id, address);
                    } else {
                        log::warn!("{address} could not be checked: {error}");
                    }
                })
                .serve(self.probe_handler(id, address));
            match checked {
                Ok(client) => client.detach(),
                Err(error) => log::error!("{address} could not be checked: {error}"),
            }
        }
    }

    /// Connects to a back end again and again, with growing delays, until that succeeds.
    fn probe(self: &Arc<Pool>, event_loop: &EventLoop, id: BackendId, address: SocketAddr) -> io::Result<()> {
        // The client is in its own callback, so that the callback can end it.
        let slot = Rc::new(RefCell::new(None));
        let (own, pool) = (Rc::clone(&slot), Arc::clone(self));
        let client = TcpClient::connect(event_loop, address)
            .timeout(self.timeout)
            .retry(Backoff::new().start(FIRST_DELAY).cap(LONGEST_DELAY))
            .on_attempt(move |_, attempt| {
                if attempt.result.is_err() && pool.state().backends.is_configured(id) {
                    return;
                }
                let client: Option<TcpClient> = own.take();
                match (attempt.result, client) {
                    // The client ends with its connection.
                    (Ok(()), Some(client)) => client.detach(),
                    // Removed from the configuration: the drop ends the client.
                    (_, client) => drop(client),
                }
            })
            .serve(self.probe_handler(id, address))?;
        slot.replace(Some(client));
        Ok(())
    }

    fn probe_handler(
        self: &Arc<Pool>,
        id: BackendId,
        address: SocketAddr,
    ) -> impl FnMut(&TcpConnection<'_>) -> Probe + 'static {
        let pool = Arc::clone(self);
        move |_| Probe { pool: Arc::clone(&pool), id, address }
    }
}

/// Whether a failure to connect is one of the back end, and not of this host, such as a lack of
/// descriptors.
pub(crate) fn is_of_peer(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
    )
}

/// The connection of a check. It ends at once, and reads nothing: a back end may send without an
/// end.
struct Probe {
    pool: Arc<Pool>,
    id: BackendId,
    address: SocketAddr,
}

impl ConnectionHandler for Probe {
    fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.pool.mark_up(self.id, self.address);
        // A back end that expects a header would report its absence as an error.
        let version = self.pool.state().send_proxy;
        if let Some(version) = version {
            conn.send(Header::Local.encode(version))?;
        }
        conn.flush()?;
        conn.close();
        Ok(())
    }

    fn on_message(&mut self, _: &TcpConnection<'_>, _: &mut Buffer) -> io::Result<()> {
        Ok(()) // closed before
    }
}

impl Totals {
    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Relaxed);
    }
}
