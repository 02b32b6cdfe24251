//! `UdpHandle`: a handle to a UDP socket, for use from any thread.
//!
//! Requests of other threads wait in the mailbox, in order. The socket takes as many as its queue
//! has capacity for. The contents of both are therefore bounded, and a datagram that was accepted
//! is never refused later.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use super::destination::UdpSource;
use super::error::DatagramError;
use super::queue::{Datagram, Limits};
use crate::event_loop::LoopHandle;
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::trimming::slack::release_if_empty;

pub(super) enum Request {
    Send(Datagram),
    Close,
}

pub(super) struct Mailbox {
    content: Mutex<Content>,
    limits: Limits,
}

#[derive(Default)]
struct Content {
    requests: VecDeque<Request>,
    bytes: usize,
    closed: bool,
}

impl Mailbox {
    pub(super) fn new(limits: Limits) -> Mailbox {
        Mailbox { content: Mutex::default(), limits }
    }

    /// Appends a request. Returns `true` if it is the first, for which the loop must be notified.
    fn push(&self, request: Request) -> Result<bool, DatagramError> {
        let mut content = self.content.lock();
        if content.closed {
            return Err(DatagramError::Closed);
        }
        match &request {
            Request::Send(datagram) => {
                let bytes = datagram.bytes.len();
                let available = self.limits.bytes - content.bytes;
                if content.requests.len() >= self.limits.datagrams || bytes > available {
                    return Err(DatagramError::Full);
                }
                content.bytes += bytes;
            }
            // No later datagram could be sent.
            Request::Close => content.closed = true,
        }
        content.requests.push_back(request);
        Ok(content.requests.len() == 1)
    }

    /// Takes the next request, unless it is a datagram and `fits` returns `false` for its length:
    /// then it stays, and [`QueueFull`] is returned.
    pub(super) fn take(&self, fits: impl FnOnce(usize) -> bool) -> Result<Option<Request>, QueueFull> {
        let mut content = self.content.lock();
        match content.requests.front() {
            None => return Ok(None),
            Some(Request::Send(datagram)) if !fits(datagram.bytes.len()) => return Err(QueueFull),
            Some(Request::Send(datagram)) => content.bytes -= datagram.bytes.len(),
            Some(Request::Close) => {}
        }
        let request = content.requests.pop_front();
        release_if_empty(&mut content.requests);
        Ok(request)
    }

    /// Refuses all later requests. Returns the datagrams that were accepted and not taken yet.
    pub(super) fn close(&self) -> impl Iterator<Item = Datagram> {
        let mut content = self.content.lock();
        content.closed = true;
        content.bytes = 0;
        std::mem::take(&mut content.requests).into_iter().filter_map(|request| match request {
            Request::Send(datagram) => Some(datagram),
            Request::Close => None,
        })
    }
}

/// The queue has no capacity for the next datagram.
pub(super) struct QueueFull;

/// The control message of a handle that is used on the socket's own loop, after it has enqueued a
/// close.
pub(super) struct CloseNow;

/// A handle to a UDP socket, for use from any thread. Clones refer to the same socket.
///
/// Requests run on the socket's loop, in the order in which they were made. The handle keeps
/// neither the socket nor its descriptor open. After a close, sends return
/// [`Closed`](DatagramError::Closed).
///
/// ```
/// use reveille::{EventLoop, UdpSocket};
///
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// let socket = UdpSocket::bind(&event_loop, "127.0.0.1:0")?.serve_fn(|socket, datagram, _| {
///     assert_eq!(datagram, b"from another thread");
///     socket.event_loop().quit();
/// })?;
/// let (handle, to) = (socket.handle(), socket.local_addr()?);
/// std::thread::spawn(move || handle.send_to("from another thread", to));
/// event_loop.run()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct UdpHandle {
    event_loop: LoopHandle,
    id: ChannelId,
    peer: Option<SocketAddr>,
    mailbox: Arc<Mailbox>,
}

impl UdpHandle {
    pub(super) fn new(
        event_loop: LoopHandle,
        id: ChannelId,
        peer: Option<SocketAddr>,
        mailbox: Arc<Mailbox>,
    ) -> UdpHandle {
        UdpHandle { event_loop, id, peer, mailbox }
    }

    /// Sends one datagram after those that this thread has already sent through any handle of the
    /// socket.
    ///
    /// Callable from any thread. Datagrams that the socket's own callbacks send may precede those
    /// in transit to the loop. If the kernel refuses a datagram later,
    /// [`on_error`](crate::net::DatagramHandler::on_error) is called.
    ///
    /// # Errors
    /// [`Closed`](DatagramError::Closed) if the socket is closed. [`Full`](DatagramError::Full) if
    /// the datagrams in transit to the loop have reached the limit of
    /// [`max_unsent`](crate::net::UdpSocketBuilder::max_unsent).
    /// [`TooLong`](DatagramError::TooLong) for a datagram that no network transports.
    pub fn send_to(&self, datagram: impl Into<Vec<u8>>, to: SocketAddr) -> Result<(), DatagramError> {
        self.send_to_from(datagram.into(), to, None)
    }

    /// Same as [`send_to`](UdpHandle::send_to), from the local address `source`: see
    /// [`UdpRef::send_from`](crate::net::UdpRef::send_from). A reply through a handle needs it if
    /// the socket is bound to all addresses.
    ///
    /// # Errors
    /// Same as [`send_to`](UdpHandle::send_to). A source that the kernel refuses is reported to
    /// [`on_error`](crate::net::DatagramHandler::on_error).
    pub fn send_from(
        &self,
        source: impl Into<UdpSource>,
        datagram: impl Into<Vec<u8>>,
        to: SocketAddr,
    ) -> Result<(), DatagramError> {
        self.send_to_from(datagram.into(), to, Some(source.into()))
    }

    fn send_to_from(
        &self,
        bytes: Vec<u8>,
        to: SocketAddr,
        source: Option<UdpSource>,
    ) -> Result<(), DatagramError> {
        DatagramError::check_length(bytes.len(), Some(to))?;
        self.enqueue(Request::Send(Datagram { to: Some(to), source, bytes }))
    }

    /// Sends one datagram to the peer of a connected socket. Same as
    /// [`send_to`](UdpHandle::send_to).
    ///
    /// # Errors
    /// Same as [`send_to`](UdpHandle::send_to), and [`Refused`](DatagramError::Refused)
    /// (EDESTADDRREQ) if the socket is not connected.
    pub fn send(&self, datagram: impl Into<Vec<u8>>) -> Result<(), DatagramError> {
        let bytes = datagram.into();
        DatagramError::check_length(bytes.len(), self.peer)?;
        match self.peer {
            Some(_) => self.enqueue(Request::Send(Datagram { to: None, source: None, bytes })),
            None => Err(DatagramError::no_destination()),
        }
    }

    /// Closes the socket, same as [`UdpRef::close`](crate::net::UdpRef::close), after all datagrams
    /// that were sent before through its handles have been passed to the kernel. From now on its
    /// handles refuse to send.
    ///
    /// Callable from any thread; no effect if the socket is closed. On the socket's own loop, the
    /// socket is closed when this returns: [`on_close`](crate::net::DatagramHandler::on_close) is
    /// the only callback still to come.
    pub fn close(&self) {
        // An error means that the socket is closed already.
        let _ = self.enqueue(Request::Close);
        if self.event_loop.is_in_loop_thread() {
            let id = self.id;
            self.event_loop.run_internal(move |event_loop| _ = event_loop.send_control(id, &mut CloseNow));
        }
    }

    /// Returns `false` once the socket has been closed, as far as this thread can see.
    pub fn is_open(&self) -> bool {
        !self.event_loop.is_inherited() && !self.mailbox.content.lock().closed
    }

    /// The loop of the socket.
    pub fn event_loop(&self) -> &LoopHandle {
        &self.event_loop
    }

    fn enqueue(&self, request: Request) -> Result<(), DatagramError> {
        if self.event_loop.is_inherited() {
            return Err(DatagramError::Closed);
        }
        if self.mailbox.push(request)? {
            let id = self.id;
            if !self.event_loop.post_internal(move |event_loop| event_loop.notify(id)) {
                return Err(DatagramError::Closed);
            }
        }
        Ok(())
    }
}

impl fmt::Debug for UdpHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UdpHandle").field("open", &self.is_open()).finish_non_exhaustive()
    }
}
