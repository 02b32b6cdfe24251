//! A reactor framework for Linux: one event loop per thread, callbacks, and an eventfd that wakes a
//! sleeping loop.
//!
//! An [`EventLoop`] waits for descriptors, deadlines and tasks, and calls back. Servers, clients
//! and other event sources are built on it. Other threads use a [`LoopHandle`], which queues tasks
//! and wakes the loop.
//!
//! ```no_run
//! use reveille::{EventLoop, TcpServer};
//!
//! fn main() -> std::io::Result<()> {
//!     let event_loop = EventLoop::new()?;
//!     let _server = TcpServer::bind(&event_loop, "127.0.0.1:2007")?
//!         .serve_fn(|conn, input| conn.send(input.take_all()))?;
//!     event_loop.run()
//! }
//! ```
//!
//! The [`guide`] explains the crate step by step, with pages on clients, other event sources,
//! ending connections, back-pressure, filters, embedding, observing and testing.
//!
//! # Overview
//!
//! | subject | start at |
//! |---|---|
//! | event loop, turns, panics, tasks | [`EventLoop`], [`LoopHandle`] |
//! | loops on threads | [`LoopThread`], [`LoopPool`] |
//! | async functions | [`EventLoop::spawn_local`], [`LoopHandle::spawn`], [`task`], [`time`] |
//! | work off the loop | [`Workers`] |
//! | timers | [`EventLoop::run_after`], [`Repeat`], [`VirtualClock`] |
//! | servers | [`TcpServer`], [`ConnectionHandler`], [`LoadBalancing`], [`OverflowPolicy`] |
//! | clients | [`TcpClient`], [`Backoff`] |
//! | lookups of names | [`Resolver`] |
//! | connections | [`TcpConnection`], [`ConnectionHandle`], [`SocketOptions`] |
//! | many connections | [`ConnectionGroup`], [`GroupMap`] |
//! | compression, encryption | [`Filter`] |
//! | frames | [`Framed`], [`LineCodec`], [`LengthCodec`], [`Decoder`] |
//! | Unix sockets | [`TcpServer::bind_unix`], [`UnixAddress`] |
//! | sockets that the program has | [`TcpServer::from_listener`], [`TcpConnection::adopt`] |
//! | UDP | [`UdpSocket`], [`DatagramHandler`] |
//! | any other descriptor | [`Channel`], [`Async`] |
//! | pipes, terminals, pairs in memory | [`adopt`], [`adopt_pipes`], [`pair`], [`Terminal`] |
//! | tests of handlers | [`testing`] |
//! | eventfds | [`EventFd`], [`EventFd::watch`] |
//! | messages between processes | [`SharedRing`] |
//! | signals and child processes | [`Signals`], [`Child`] |
//! | files, and changes of files | [`FileIo`], [`Watcher`] |
//! | hooks, metrics, blocked loops | [`Hook`], [`LoopHandle::metrics`], [`Watchdog`] |
//! | pressure and memory events | [`PressureTrigger`], [`MemoryThreshold`], [`MemoryEvents`] |
//!
//! # Threads
//! Objects that are bound to the thread of a loop take no lock, and are not `Send` or `Sync`:
//! [`EventLoop`], [`Channel`], [`TcpConnection`], [`TcpServer`], [`TcpClient`], [`UdpSocket`].
//! Objects for use on any thread only queue requests: [`LoopHandle`], [`ConnectionHandle`],
//! [`ServerHandle`], [`UdpHandle`]. The compiler distinguishes the two, so no call checks the
//! thread at run time.
//!
//! # Fork
//! A forked process has copies of all objects, and shares their descriptors with its parent. It may
//! drop these copies. A destructor frees memory and closes the descriptors of the child. It does
//! not affect the parent's connections, registrations, paths, file operations, processes and
//! threads. Objects on a loop keep their descriptors until that loop is dropped, or until an exec.
//! Neither `on_close` nor any other callback is called.
//!
//! Any other use of an inherited object is limited as follows:
//!
//! - Running an inherited loop, or creating an object on it, fails with
//!   [`Unsupported`](std::io::ErrorKind::Unsupported).
//! - Posting through an inherited handle is refused, and does not wake the parent.
//! - If a callback forks and returns in the child, the [`run`](EventLoop::run) of the child returns
//!   that error at once.
//! - Operations on a descriptor itself take effect as if the parent had made them:
//!   `TcpConnection::send` in a callback that has forked, [`EventFd::write`], and calls of a
//!   [`SharedRing`].
//!
//! The child may create a loop of its own, even while the inherited one exists. A program that
//! becomes a daemon creates its loop after the fork. Signal handlers are inherited as well: a
//! signal of [`Signals`] that the child receives is lost, until the child sets an
//! action of its own or executes a program. [`Child`] and
//! [`Command`](std::process::Command) start programs from any thread at any time.
//!
//! # Errors
//! Every error type of the crate converts into an [`io::Error`](std::io::Error), and each meaning
//! has one kind:
//!
//! - `WouldBlock`: a limit is reached. Nothing was accepted, and a later attempt may succeed.
//!   [`SendError::Full`], [`DatagramError::Full`],
//!   [`RingSendError::Full`],
//!   [`PostError::Full`],
//!   [`CallError::Full`], [`WorkersError::Full`], [`ResolverError::Full`].
//! - `BrokenPipe`: the other side has ended, or this side has ended its output: the connection,
//!   socket, link, loop or pool. [`SendError::Closed`], [`SendError::ShutDown`],
//!   [`DatagramError::Closed`],
//!   [`RingSendError::Closed`],
//!   [`PostError::LoopEnded`],
//!   [`CallError::LoopEnded`],
//!   [`WorkersError::Closed`], [`WorkersError::LoopEnded`], [`ResolverError::LoopEnded`],
//!   [`JobError::LoopEnded`], [`JoinError::LoopEnded`].
//! - `InvalidInput`: the message is longer than the limit, and can never be accepted.
//!   [`DatagramError::TooLong`], [`RingSendError::TooLong`].
//! - `InvalidData`: the peer or the input violates the protocol. [`RingError`],
//!   [`LineError`], [`LengthError`].
//! - `TimedOut`: the operation did not complete in time. [`CallError::TimedOut`],
//!   [`Elapsed`](time::Elapsed).
//! - `Other`: user code panicked. [`CallError::Panicked`], [`JobError::Panicked`],
//!   [`JoinError::Panicked`].
//!
//! A cancelled operation has the error code ECANCELED
//! ([`raw_os_error`](std::io::Error::raw_os_error) 125), which has no kind:
//! [`JobError::Cancelled`], [`JoinError::Aborted`], and the operations of a [`FileIo`].
//!
//! An operation that takes a value returns it with the error, in a [`Refused`]: a task, a future,
//! bytes, a file, a socket. A builder's method that takes one has no error to return it with, and
//! the finishing call drops it: see [`listener`](net::TcpServerBuilder::listener).
//!
//! # Limits of zero
//! A limit of 0 for what may be open, stored or waiting permits none of it. Where a loop could then
//! do nothing at all, 0 counts as 1: the tasks of a mailbox, the events or accepts of a turn. With
//! no threads the finishing call returns an error. A time limit of zero panics, as does the period
//! of a timer. Each setter with another meaning of zero states it.
//!
//! Errors of the kernel keep the kind that the standard library gives them, such as
//! [`DatagramError::Refused`] and [`ConnectError`].
//!
//! # Features
//! - `uring`: file I/O through io_uring where the kernel supports it, with the crate `io-uring`.
//!   Off by default; without it [`FileIo`] uses threads.
//! - `inspector`: `observe::Inspector`, a page about loops, servers and connections, with the crate
//!   `httparse`. Off by default.
//! - `tls`: TLS for servers, clients and single connections, with the crate `rustls`. Off by
//!   default. The program selects the crypto provider.
//!
//! # Logging
//! Errors that cannot be returned to a caller are logged through the `log` crate: panics in
//! callbacks, failed accepts, a client whose last attempt to connect has failed. Lines that a peer
//! or a shortage can cause repeatedly are limited to one a second on each thread for each kind. At
//! levels above debug, normal operation logs nothing, except why [`FileIo`] uses threads instead of
//! io_uring. At debug, a client logs each attempt to connect. The crate never installs a logger.
//!
//! [`adopt`]: TcpConnection::adopt
//! [`adopt_pipes`]: TcpConnection::adopt_pipes
//! [`Async`]: io::Async
//! [`Backoff`]: net::Backoff
//! [`CallError::Full`]: task::CallError::Full
//! [`CallError::LoopEnded`]: task::CallError::LoopEnded
//! [`CallError::Panicked`]: task::CallError::Panicked
//! [`CallError::TimedOut`]: task::CallError::TimedOut
//! [`Channel`]: io::Channel
//! [`Child`]: process::Child
//! [`ConnectError`]: net::ConnectError
//! [`DatagramError::Closed`]: net::DatagramError::Closed
//! [`DatagramError::Full`]: net::DatagramError::Full
//! [`DatagramError::Refused`]: net::DatagramError::Refused
//! [`DatagramError::TooLong`]: net::DatagramError::TooLong
//! [`DatagramHandler`]: net::DatagramHandler
//! [`Decoder`]: codec::Decoder
//! [`FileIo`]: fs::FileIo
//! [`Framed`]: codec::Framed
//! [`Hook`]: observe::Hook
//! [`JobError::Cancelled`]: task::JobError::Cancelled
//! [`JobError::LoopEnded`]: task::JobError::LoopEnded
//! [`JobError::Panicked`]: task::JobError::Panicked
//! [`JoinError::Aborted`]: task::JoinError::Aborted
//! [`JoinError::LoopEnded`]: task::JoinError::LoopEnded
//! [`JoinError::Panicked`]: task::JoinError::Panicked
//! [`LengthCodec`]: codec::LengthCodec
//! [`LengthError`]: codec::LengthError
//! [`LineCodec`]: codec::LineCodec
//! [`LineError`]: codec::LineError
//! [`LoadBalancing`]: net::LoadBalancing
//! [`ConnectionGroup`]: net::ConnectionGroup
//! [`Filter`]: net::Filter
//! [`GroupMap`]: net::GroupMap
//! [`MemoryEvents`]: pressure::MemoryEvents
//! [`MemoryThreshold`]: pressure::MemoryThreshold
//! [`OverflowPolicy`]: net::OverflowPolicy
//! [`pair`]: TcpConnection::pair
//! [`PostError::Full`]: task::PostError::Full
//! [`PostError::LoopEnded`]: task::PostError::LoopEnded
//! [`PressureTrigger`]: pressure::PressureTrigger
//! [`Repeat`]: time::Repeat
//! [`Resolver`]: net::Resolver
//! [`ResolverError::Full`]: net::ResolverError::Full
//! [`ResolverError::LoopEnded`]: net::ResolverError::LoopEnded
//! [`RingError`]: ipc::RingError
//! [`RingSendError::Closed`]: ipc::RingSendError::Closed
//! [`RingSendError::Full`]: ipc::RingSendError::Full
//! [`RingSendError::TooLong`]: ipc::RingSendError::TooLong
//! [`SendError::Closed`]: net::SendError::Closed
//! [`SendError::Full`]: net::SendError::Full
//! [`SendError::ShutDown`]: net::SendError::ShutDown
//! [`ServerHandle`]: net::ServerHandle
//! [`SharedRing`]: ipc::SharedRing
//! [`Signals`]: signal::Signals
//! [`SocketOptions`]: net::SocketOptions
//! [`Terminal`]: io::Terminal
//! [`UdpHandle`]: net::UdpHandle
//! [`UnixAddress`]: net::UnixAddress
//! [`VirtualClock`]: time::VirtualClock
//! [`Watchdog`]: observe::Watchdog
//! [`Watcher`]: fs::Watcher
//! [`Workers`]: task::Workers
//! [`WorkersError::Closed`]: task::WorkersError::Closed
//! [`WorkersError::Full`]: task::WorkersError::Full
//! [`WorkersError::LoopEnded`]: task::WorkersError::LoopEnded

#![cfg_attr(docsrs, feature(doc_cfg))]

mod buffer;
pub mod codec;
mod event_loop;
mod eventfd;
mod file_io;
pub mod guide;
#[cfg(feature = "inspector")]
mod inspector;
pub mod net;
#[cfg(test)]
#[path = "../tests/support/random.rs"]
mod random;
mod readiness;
mod shared_ring;
mod sources;
mod threads;

#[cfg(not(target_os = "linux"))]
compile_error!("reveille runs on Linux only: it needs epoll, eventfd and timerfd");

pub use buffer::Buffer;
pub use event_loop::{EventLoop, EventLoopBuilder, LoopHandle, Refused, TimerId};
pub use eventfd::EventFd;
pub use net::client::TcpClient;
pub use net::connection::handler::ConnectionHandler;
pub use net::connection::{ConnectionHandle, TcpConnection};
pub use net::server::TcpServer;
pub use net::udp::UdpSocket;
pub use threads::loop_pool::LoopPool;
pub use threads::loop_thread::LoopThread;

/// Channels and futures for any descriptor, the builder and the source of an [`EventFd`], and
/// terminals.
pub mod io {
    pub use crate::eventfd::EventFdBuilder;
    pub use crate::readiness::{Interest, Readiness};
    pub use crate::sources::async_source::Async;
    pub use crate::sources::channel::{Channel, ChannelEvent, Trigger};
    pub use crate::sources::eventfd_source::EventFdSource;
    pub use crate::sources::terminal::{RawMode, Terminal, WindowSize};
}

/// Spawned futures, and tasks from other threads: the limit of the mailbox, the errors of posting,
/// and the counters of a loop. Work on other threads: [`Workers`](task::Workers).
pub mod task {
    pub use crate::event_loop::handle::call_async::CallFuture;
    pub use crate::event_loop::tasks::executor::{spawn_local, with_loop, yield_now};
    pub use crate::event_loop::tasks::join_handle::{AbortOnDrop, JoinError, JoinHandle};
    pub use crate::event_loop::{CallError, LoopCounters, MailboxLimit, PostError};
    #[cfg(feature = "hyper")]
    #[cfg_attr(docsrs, doc(cfg(feature = "hyper")))]
    pub use crate::net::stream::hyper::LocalExecutor;
    pub use crate::threads::workers::builder::WorkersBuilder;
    pub use crate::threads::workers::error::{JobError, WorkersError};
    pub use crate::threads::workers::job_future::JobFuture;
    pub use crate::threads::workers::{JobId, Workers};
}

/// Observing a loop: hooks, metrics, a watchdog for callbacks that block, and an inspector for
/// browsers and Prometheus (feature `inspector`).
pub mod observe {
    pub use crate::event_loop::hooks::Hook;
    pub use crate::event_loop::observation::metrics::{Delays, LoopMetrics};
    #[cfg(feature = "inspector")]
    #[cfg_attr(docsrs, doc(cfg(feature = "inspector")))]
    pub use crate::inspector::{Inspector, InspectorBuilder};
    pub use crate::threads::watchdog::{Blocked, Watchdog};
}

/// Repeating timers, waiting in async functions, and a clock for tests.
pub mod time {
    pub use crate::event_loop::timers::clock::VirtualClock;
    pub use crate::event_loop::timers::interval::{Interval, interval};
    pub use crate::event_loop::timers::sleep::{Sleep, sleep, sleep_until};
    pub use crate::event_loop::timers::timeout::{Elapsed, Timeout, timeout};
    pub use crate::event_loop::{MissedTickBehavior, Repeat};
    #[cfg(feature = "hyper")]
    #[cfg_attr(docsrs, doc(cfg(feature = "hyper")))]
    pub use crate::net::stream::hyper::LoopTimer;
}

/// TLS, with [rustls].
///
/// [`ServerTls`](tls::ServerTls) and [`ClientTls`](tls::ClientTls) are given to the builder of a
/// server or a client, and handlers do not change. The program selects a crypto provider by a
/// feature of rustls, of which this crate enables none.
#[cfg(feature = "tls")]
#[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
pub mod tls {
    pub use crate::net::tls::{
        ClientCertificates, ClientTls, ClientTlsBuilder, ServerTls, ServerTlsBuilder, StartTls, TlsError,
        TlsInfo,
    };
}

/// Tests of connection handlers, without a socket and without waiting.
pub mod testing {
    pub use crate::net::test_peer::Peer;
}

/// Files: operations that do not block the loop, and changes of files and directories.
pub mod fs {
    pub use crate::file_io::{
        File, FileIo, FileIoBackend, FileIoBuilder, FileKind, FileTime, Metadata, OpenOptions, OperationId,
    };
    pub use crate::sources::watcher::{FileChange, FileChanges, FileEvent, WatchId, Watcher};
}

/// Messages between processes, through shared memory.
pub mod ipc {
    pub use crate::shared_ring::source::{RingHandler, RingRef, SharedRingSource};
    pub use crate::shared_ring::{Doorbell, RingError, RingSendError, SharedRing};
}

/// Child processes.
pub mod process {
    pub use crate::sources::child::Child;
}

/// Signals of the process.
pub mod signal {
    pub use crate::sources::signals::Signals;
    pub use crate::sources::signals::signal::Signal;
    pub use crate::sources::signals::signal_stream::SignalStream;
}

/// Notifications of the kernel about shortages of memory, CPU time and I/O.
pub mod pressure {
    pub use crate::sources::cgroup_memory::{MemoryCounts, MemoryEvents, MemoryThreshold};
    pub use crate::sources::pressure::{PressureResource, PressureTrigger, PressureWatch};
}

/// Compiles the examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
