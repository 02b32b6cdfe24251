//! A UDP socket, seen from any thread.
//!
//! What other threads ask waits in the mailbox, in order; the socket takes from it what its queue has room for, so what both
//! hold is bounded, and what was accepted is never refused afterwards.

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

    /// Adds a request. Answers whether it is the first, for which the loop must be told.
    fn put(&self, request: Request) -> Result<bool, DatagramError> {
        let mut content = self.content.lock();
        if content.closed {
            return Err(DatagramError::Closed);
        }
        match &request {
            Request::Send(datagram) => {
                let bytes = datagram.bytes.len();
                let room = self.limits.bytes - content.bytes;
                if content.requests.len() >= self.limits.datagrams || bytes > room {
                    return Err(DatagramError::Full);
                }
                content.bytes += bytes;
            }
            // Nothing that comes behind it could be sent.
            Request::Close => content.closed = true,
        }
        content.requests.push_back(request);
        Ok(content.requests.len() == 1)
    }

    /// Takes the next request, unless it is a datagram that `has_room` has no room for. An error says that there is one left.
    pub(super) fn take(&self, has_room: impl FnOnce(usize) -> bool) -> Result<Option<Request>, NoRoom> {
        let mut content = self.content.lock();
        match content.requests.front() {
            None => return Ok(None),
            Some(Request::Send(datagram)) if !has_room(datagram.bytes.len()) => return Err(NoRoom),
            Some(Request::Send(datagram)) => content.bytes -= datagram.bytes.len(),
            Some(Request::Close) => {}
        }
        let request = content.requests.pop_front();
        release_if_empty(&mut content.requests);
        Ok(request)
    }

    /// Refuses every later request, and hands out the datagrams that were accepted and have not been taken.
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

/// That the next request must wait.
pub(super) struct NoRoom;

/// What a handle on the socket's own loop says to it when it has asked for the close.
pub(super) struct CloseNow;

/// A UDP socket, seen from any thread. Clones speak to the same socket.
///
/// What is asked through a handle happens on the socket's loop, in the order asked. The handle keeps neither the socket nor its
/// descriptor: once the socket has gone it says so.
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
/// let (handle, to) = (socket.handle(), socket.local_addr());
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

    /// Sends one datagram behind what this thread has sent through any handle of the socket before.
    ///
    /// From any thread. What the socket's own callbacks send may come before datagrams that are still on their way to the loop.
    /// If the kernel refuses it later, the handler's [`on_error`](crate::DatagramHandler::on_error) is told.
    ///
    /// # Errors
    /// [`Closed`](DatagramError::Closed) if the socket has gone; [`Full`](DatagramError::Full) if as much is on its way to the
    /// loop as the socket may have unsent; [`TooLong`](DatagramError::TooLong).
    pub fn send_to(&self, datagram: impl Into<Vec<u8>>, to: SocketAddr) -> Result<(), DatagramError> {
        self.send_to_from(datagram.into(), to, None)
    }

    /// As [`send_to`](UdpHandle::send_to), from the address `source` of this machine: see [`UdpRef::send_from`](crate::UdpRef::send_from).
    /// A reply that is sent through a handle needs it if the socket is bound to all addresses.
    ///
    /// # Errors
    /// As there. A source that the kernel refuses is passed to [`on_error`](crate::DatagramHandler::on_error).
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
        self.ask(Request::Send(Datagram { to: Some(to), source, bytes }))
    }

    /// Sends one datagram to the peer of a connected socket, as [`send_to`](UdpHandle::send_to).
    ///
    /// # Errors
    /// As there; and [`Refused`](DatagramError::Refused) (EDESTADDRREQ) if the socket is not connected.
    pub fn send(&self, datagram: impl Into<Vec<u8>>) -> Result<(), DatagramError> {
        let bytes = datagram.into();
        DatagramError::check_length(bytes.len(), self.peer)?;
        match self.peer {
            Some(_) => self.ask(Request::Send(Datagram { to: None, source: None, bytes })),
            None => Err(DatagramError::no_destination()),
        }
    }

    /// Closes the socket, as [`UdpRef::close`](crate::UdpRef::close), once what was sent before through its handles has been
    /// offered to the kernel. From now on they refuse to send.
    ///
    /// From any thread; without effect if the socket has gone. On the socket's own loop it is closed when this returns, and of its handler
    /// only [`on_close`](crate::DatagramHandler::on_close) is still called.
    pub fn close(&self) {
        // A socket that has gone is as closed as it can be.
        let _ = self.ask(Request::Close);
        if self.event_loop.is_in_loop_thread() {
            let id = self.id;
            self.event_loop.run_internal(move |event_loop| _ = event_loop.send_control(id, &mut CloseNow));
        }
    }

    /// Whether the socket has not been closed, as far as is known here.
    pub fn is_open(&self) -> bool {
        !self.event_loop.is_inherited() && !self.mailbox.content.lock().closed
    }

    /// The loop that the socket is on.
    pub fn event_loop(&self) -> &LoopHandle {
        &self.event_loop
    }

    fn ask(&self, request: Request) -> Result<(), DatagramError> {
        if self.event_loop.is_inherited() {
            return Err(DatagramError::Closed);
        }
        if self.mailbox.put(request)? {
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
