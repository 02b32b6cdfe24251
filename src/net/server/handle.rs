//! `ServerHandle`: a server as seen from any thread.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::begin_stop;
use crate::event_loop::containment::Contained;
use crate::event_loop::{EventLoop, LoopHandle};
use crate::net::address::Address;
use crate::net::group::admission::ServerCounters;
use crate::net::group::{Group, StopReport, WhenEmpty};

/// A handle to a server, for use from any thread. Returned by
/// [`TcpServer::handle`](crate::TcpServer::handle). Clones refer to the same server.
///
/// A handle does not keep the server alive. After the server has ended, pausing has no effect and
/// the counts no longer change.
///
/// ```
/// use reveille::{EventLoop, TcpServer};
///
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// let server = TcpServer::bind(&event_loop, "127.0.0.1:0")?
///     .serve_fn(|conn, input| conn.send(input.take_all()))?;
/// let handle = server.handle();
/// std::thread::spawn(move || println!("{:?}", handle.counters())).join().unwrap();
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ServerHandle {
    pub(super) home: LoopHandle,
    /// One for each listener; never empty.
    pub(super) addresses: Arc<[Address]>,
    pub(super) group: Arc<Group>,
}

impl ServerHandle {
    /// Same as [`TcpServer::local_addr`](crate::TcpServer::local_addr), also after the server has
    /// ended.
    ///
    /// # Errors
    /// [`Unsupported`](io::ErrorKind::Unsupported) if that is a Unix socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.local_address().to_inet()
    }

    /// Same as [`TcpServer::local_address`](crate::TcpServer::local_address), also after the server
    /// has ended.
    pub fn local_address(&self) -> &Address {
        &self.addresses[0]
    }

    /// Same as [`TcpServer::local_addresses`](crate::TcpServer::local_addresses), also after the
    /// server has ended.
    pub fn local_addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Same as [`TcpServer::open_connections`](crate::TcpServer::open_connections).
    pub fn open_connections(&self) -> u64 {
        self.group.open()
    }

    /// Same as [`TcpServer::handshakes`](crate::TcpServer::handshakes).
    pub fn handshakes(&self) -> u64 {
        self.group.admission.handshakes()
    }

    /// The number of the server's loops that have not [ended](LoopHandle::has_ended). A loop
    /// ends early if a handler quits it.
    pub fn live_loops(&self) -> usize {
        self.group.live_loops()
    }

    /// Same as [`TcpServer::counters`](crate::TcpServer::counters).
    pub fn counters(&self) -> ServerCounters {
        self.group.admission.counters()
    }

    /// Same as [`TcpServer::pause_accepting`](crate::TcpServer::pause_accepting). A listener on
    /// another thread may still open the connection that it is just accepting.
    pub fn pause_accepting(&self) {
        self.group.admission.pause();
    }

    /// Same as [`TcpServer::resume_accepting`](crate::TcpServer::resume_accepting).
    pub fn resume_accepting(&self) {
        // After a fork, the lock may be held forever by a thread that exists only in the parent.
        if !self.home.is_inherited() {
            self.group.admission.resume();
        }
    }

    /// Same as [`TcpServer::stop`](crate::TcpServer::stop). On the server's loop the stop begins
    /// before this returns; from another thread it begins in one of the loop's next turns. If the
    /// loop has ended, `then` is dropped and nothing else happens.
    ///
    /// The [`TcpServer`](crate::TcpServer) value remains with its owner, and dropping it aborts the
    /// remaining connections, unless the server is [detached](crate::TcpServer::detach). A server
    /// may be stopped several times: each `then` is called, and the earliest deadline applies.
    pub fn stop(&self, within: Duration, then: impl FnOnce(&EventLoop, StopReport) + Send + 'static) {
        let then: WhenEmpty = Contained::new(Box::new(then));
        let group = Arc::clone(&self.group);
        self.home.run_internal(move |event_loop| begin_stop(event_loop, &group, within, then));
    }
}

impl fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerHandle")
            .field("addresses", &self.addresses)
            .field("open_connections", &self.open_connections())
            .finish_non_exhaustive()
    }
}
