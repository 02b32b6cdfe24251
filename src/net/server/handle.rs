//! A server, seen from any thread.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::begin_to_stop;
use crate::event_loop::containment::Contained;
use crate::event_loop::{EventLoop, LoopHandle};
use crate::net::address::Address;
use crate::net::group::admission::ServerCounters;
use crate::net::group::{Group, StopReport, WhenEmpty};

/// A server, seen from any thread, from [`TcpServer::handle`](crate::TcpServer::handle). Clones speak to the same server.
///
/// It does not keep the server: once that has ended there is nothing to pause, and the counts stay what they are.
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
    pub(super) address: Address,
    pub(super) group: Arc<Group>,
}

impl ServerHandle {
    /// As [`TcpServer::local_addr`](crate::TcpServer::local_addr), also when the server has ended.
    ///
    /// # Panics
    /// If it is a server on a Unix socket.
    #[track_caller]
    pub fn local_addr(&self) -> SocketAddr {
        self.address.as_inet().expect("a server on a Unix socket has no IP address: see `address`")
    }

    /// Where the server listens, or has listened.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// As [`TcpServer::open_connections`](crate::TcpServer::open_connections).
    pub fn open_connections(&self) -> u64 {
        self.group.open()
    }

    /// How many of the server's loops serve connections: all of them, less those that have
    /// [ended](LoopHandle::is_terminated), as when a handler quits the loop that it is on.
    pub fn live_loops(&self) -> usize {
        self.group.live_loops()
    }

    /// As [`TcpServer::counters`](crate::TcpServer::counters).
    pub fn counters(&self) -> ServerCounters {
        self.group.admission.counters()
    }

    /// As [`TcpServer::pause_accepting`](crate::TcpServer::pause_accepting). A connection that a listener is just about to take may
    /// still come after this has returned.
    pub fn pause_accepting(&self) {
        self.group.admission.pause();
    }

    /// As [`TcpServer::resume_accepting`](crate::TcpServer::resume_accepting).
    pub fn resume_accepting(&self) {
        // The lock of an inherited server may be held for ever.
        if !self.home.is_inherited() {
            self.group.admission.resume();
        }
    }

    /// As [`TcpServer::stop`](crate::TcpServer::stop). From another thread it is begun by the server's loop in one of its next turns, on that
    /// loop before this returns. Without effect if the loop has gone; `then` is dropped then.
    ///
    /// The [`TcpServer`](crate::TcpServer) stays with whoever has it, and dropping it cuts off what is left. A server that is being
    /// stopped already may be told again: each `then` is called, and the shortest time counts.
    pub fn stop(&self, within: Duration, then: impl FnOnce(&EventLoop, StopReport) + Send + 'static) {
        let then: WhenEmpty = Contained::new(Box::new(then));
        let group = Arc::clone(&self.group);
        self.home.run_internal(move |event_loop| begin_to_stop(event_loop, &group, None, within, then));
    }
}

impl fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerHandle")
            .field("address", &self.address)
            .field("open_connections", &self.open_connections())
            .finish_non_exhaustive()
    }
}
