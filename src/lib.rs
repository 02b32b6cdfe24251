//! A reactor for Linux: one event loop per thread, callbacks, and an eventfd that wakes it.
//!
//! An [`EventLoop`] waits for descriptors, deadlines and tasks, and calls back. On it stand TCP servers ([`TcpServer`]) and
//! clients ([`TcpClient`]), UDP sockets ([`UdpSocket`]), and channels for any descriptor of your own ([`Channel`]). Other threads speak to it through a [`LoopHandle`], which posts tasks and wakes
//! the loop for them.
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
//! # Two faces
//! What is bound to a loop's thread acts at once, and is neither `Send` nor `Sync`: [`EventLoop`], [`Channel`],
//! [`TcpConnection`], [`TcpServer`], [`TcpClient`], [`UdpSocket`]. What any thread may hold only queues: [`LoopHandle`],
//! [`ConnectionHandle`], [`ServerHandle`], [`UdpHandle`]. The compiler keeps them apart, so there is no call to check which thread one
//! is on.
//!
//! # Fork
//! A process that is forked has copies of all objects, and shares their descriptors with its parent. There it may drop them: a
//! destructor frees memory and closes the child's descriptors, and does nothing to the parent's connections, registrations, paths,
//! files under way, processes and threads. Objects on a loop keep their descriptors until that loop is dropped, or an exec. No
//! `on_close` and no other callback is called.
//!
//! Apart from that the child leaves inherited objects alone. To run an inherited loop, or to make anything on it, is an error
//! ([`Unsupported`](std::io::ErrorKind::Unsupported)); what is posted through a handle is refused, and does not wake the parent. A
//! callback that forks and returns in the child has that child's [`run`](EventLoop::run) return this error at once. What goes to a
//! descriptor directly (`TcpConnection::send` in a callback that has forked, [`EventFd::write`], an end of a [`SharedRing`]) reaches
//! the other side as if the parent had done it.
//!
//! The child may make a loop of its own, also while the inherited one is there. So a program that becomes a daemon makes its loop
//! after it has forked. Signal handlers are inherited as well: a signal of [`Signals`] that comes to the child is lost, until the
//! child sets an action of its own or executes a program. [`Child`] and [`Command`](std::process::Command) start programs from any
//! thread at any time.
//!
//! # Errors
//! Every error type of the crate converts into an [`io::Error`](std::io::Error), and one meaning has one kind:
//!
//! | meaning | kind | errors |
//! |---|---|---|
//! | a limit is reached, and nothing of this was accepted; it may be later | `WouldBlock` | [`SendError::Full`], [`DatagramError::Full`], [`RingSendError::Full`], [`PostErrorReason::Full`], [`CallError::Full`] |
//! | the other side has ended: the connection, socket, link or loop | `BrokenPipe` | [`SendError::Closed`], [`DatagramError::Closed`], [`RingSendError::Closed`], [`PostErrorReason::LoopGone`], [`CallError::LoopGone`] |
//! | it can never be accepted, as it is too long | `InvalidInput` | [`DatagramError::TooLong`], [`RingSendError::TooLong`] |
//! | the peer or the input breaks the protocol | `InvalidData` | [`RingError`], [`LineError`], [`LengthError`] |
//! | it did not end in time | `TimedOut` | [`CallError::TimedOut`] |
//! | code of the user's panicked | `Other` | [`CallError::Panicked`] |
//!
//! An error of the kernel's keeps the kind that the kernel gives it, such as [`DatagramError::Refused`] and [`ConnectError`].
//!
//! # Where to look
//! - [`EventLoop`]: what a turn does, what a panic does, what becomes of tasks.
//! - [`TcpServer`] and [`ConnectionHandler`]: servers, with state and without, on one loop or several.
//! - [`LoadBalancing`] and [`OverflowPolicy`]: how a server shares its connections out, and how many it takes.
//! - [`SocketOptions`]: keep-alive, buffers, timeouts of the kernel's.
//! - [`TcpServer::bind_unix`] and [`UnixAddress`]: the same on Unix sockets, with credentials and descriptors that are passed.
//! - [`TcpClient`] and [`Backoff`]: clients, and how often they try.
//! - [`Framed`] and [`Decoder`]: frames instead of bytes, as [lines](LineCodec), with [lengths](LengthCodec) before them, or your own.
//! - [`UdpSocket`] and [`DatagramHandler`]: datagrams, connected or not, multicast.
//! - [`EventFd`]: the kernel's counter, for your own signalling; [watched](EventFd::watch) by a loop or not.
//! - [`SharedRing`]: messages between two processes, through memory that both have, with eventfds as bells.
//! - [`Channel`]: pipes, terminals, anything that epoll takes.
//! - [`Signals`]: signals of the process.
//! - [`Child`]: processes started from the loop, whose end is a call.
//! - [`FileIo`]: opening, reading and writing files without keeping the loop waiting.
//! - [`Watcher`]: changes of files and directories.
//! - [`PressureTrigger`], [`MemoryThreshold`], [`MemoryEvents`]: the kernel's notice that memory or another resource is short.
//! - [`LoopThread`] and [`LoopPool`]: loops on threads of their own.
//!
//! # Features
//! - `uring`: file I/O through io_uring where the kernel has it, with the crate `io-uring`. Off by default, and then [`FileIo`] is
//!   threads.
//!
//! # Logging
//! What goes wrong and has no caller to be told is logged through the `log` crate: a panic in a callback, a connection that
//! could not be accepted, a client that gives up. Nothing is logged in the ordinary course but why files are left to threads, and the crate never installs a logger.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod buffer;
mod codec;
mod event_loop;
mod eventfd;
mod file_io;
mod net;
mod readiness;
mod shared_ring;
mod sources;
mod threads;

#[cfg(not(target_os = "linux"))]
compile_error!(
    "reveille runs on Linux only: it is built on epoll and eventfd, and other systems have neither"
);

pub use buffer::Buffer;
pub use codec::{
    Decoder, FrameError, FrameHandler, Framed, Frames, LengthCodec, LengthError, LengthPrefix, LineCodec,
    LineEnding, LineError,
};
pub use event_loop::timers::clock::VirtualClock;
pub use event_loop::{
    CallError, EventLoop, EventLoopBuilder, LoopCounters, LoopHandle, MailboxLimit, MissedTickBehavior,
    PostError, PostErrorReason, Repeat, TimerId,
};
pub use eventfd::{EventFd, EventFdBuilder};
pub use file_io::{
    File, FileIo, FileIoBackend, FileIoBuilder, FileKind, FileTime, Metadata, OpenOptions, OperationId,
};
pub use net::disposal::close_descriptors;
pub use net::{
    Address, Backoff, CloseReason, ConnectAttempt, ConnectError, ConnectFailure, ConnectTarget,
    ConnectionHandle, ConnectionHandler, ConnectionState, DatagramError, DatagramHandler, IntoHandlerResult,
    KeepAlive, LoadBalancing, MultiLoop, OverflowPolicy, PeerCredentials, SendError, SendStatus,
    ServerCounters, ServerHandle, SingleLoop, SocketOptions, StopReport, TcpClient, TcpClientBuilder,
    TcpConnection, TcpInfo, TcpServer, TcpServerBuilder, TcpState, UdpDestination, UdpHandle, UdpRef,
    UdpSocket, UdpSocketBuilder, UdpSource, UnixAddress,
};
pub use readiness::{Interest, Readiness};
pub use shared_ring::source::{RingHandler, RingRef, SharedRingSource};
pub use shared_ring::{Doorbell, RingError, RingSendError, SharedRing};
pub use sources::cgroup_memory::{MemoryCounts, MemoryEvents, MemoryThreshold};
pub use sources::channel::{Channel, ChannelEvent};
pub use sources::child::Child;
pub use sources::eventfd_source::EventFdSource;
pub use sources::pressure::{PressureResource, PressureTrigger, PressureWatch};
pub use sources::signals::Signals;
pub use sources::signals::signal::Signal;
pub use sources::watcher::{FileChange, FileChanges, FileEvent, WatchId, Watcher};
pub use threads::loop_pool::LoopPool;
pub use threads::loop_thread::LoopThread;

/// The README's examples are compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
