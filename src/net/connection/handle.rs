//! [`ConnectionHandle`]: a connection, used from any thread.

use std::any::TypeId;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use super::calls::{Call, SendCall};
use super::mailbox::{Mailbox, Request};
use super::payload::Bytes;
use super::{ConnectionCore, ConnectionId, TcpConnection};
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::{EventLoop, LoopHandle, Refused};
use crate::net::result::{IntoHandlerResult, SendError, WithError};

impl ConnectionCore {
    pub(super) fn handle(&self) -> ConnectionHandle {
        ConnectionHandle {
            event_loop: self.membership.event_loop().clone(),
            channel: self.id,
            mailbox: Arc::clone(self.mailbox()),
        }
    }
}

/// A connection, used from any thread. Clones refer to the same connection.
///
/// Requests made through handles run on the connection's loop, in the order they were made, over
/// all threads. A send on the loop goes after everything that handles accepted before. The
/// exception is requests that wait behind a queued [call](ConnectionHandle::with). Two concurrent
/// sends have no defined order.
///
/// Handles are equal if they refer to the same connection. As the key of a map, use the
/// [id](ConnectionHandle::id), which is `Copy` and ordered.
///
/// The handle keeps neither the connection nor its descriptor alive. Once the connection is closed,
/// the methods report that, and they never affect another connection that reuses its slot.
///
/// ```
/// use reveille::{Buffer, ConnectionHandle, ConnectionHandler, TcpConnection};
/// use std::io;
/// use std::sync::mpsc::Sender;
///
/// /// Passes each message to a worker thread, which replies later.
/// struct Forward(Sender<(ConnectionHandle, Vec<u8>)>);
///
/// impl ConnectionHandler for Forward {
///     fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
///         self.0.send((conn.handle(), input.take_all().to_vec())).map_err(io::Error::other)
///     }
/// }
/// // In the worker thread: `handle.send(reply)`.
/// ```
#[derive(Clone)]
pub struct ConnectionHandle {
    event_loop: LoopHandle,
    channel: ChannelId,
    mailbox: Arc<Mailbox>,
}

impl ConnectionHandle {
    /// The id of the connection.
    pub fn id(&self) -> ConnectionId {
        self.mailbox.id
    }

    /// Sends `bytes` after everything sent before through any handle of the connection.
    ///
    /// From any thread. Bytes that the connection's own callbacks send after this has returned go
    /// after these. If those callbacks use up the limit while bytes accepted here are still in the
    /// mailbox, the connection is closed: its handler's `on_close` gets [`SendError::Full`].
    ///
    /// # Errors
    /// - [`SendError::Closed`] if the connection is closed, or its output has failed.
    /// - [`SendError::ShutDown`] if this end has shut it down.
    /// - [`SendError::Full`] if the [unsent](ConnectionHandle::unsent) bytes would exceed the
    ///   limit.
    ///
    /// The error returns the bytes. None of them are sent, and the connection is unaffected.
    pub fn send(&self, bytes: impl AsRef<[u8]> + Into<Vec<u8>>) -> Result<(), Refused<Vec<u8>, SendError>> {
        if self.append(bytes.as_ref()) {
            return Ok(());
        }
        self.request(Request::Send(Bytes::Owned(bytes.into()))).map_err(|refused| {
            let reason = refused.reason();
            match refused.into_inner() {
                Request::Send(Bytes::Owned(bytes)) => Refused::new(bytes, reason),
                _ => unreachable!("the request is returned unchanged"),
            }
        })
    }

    /// Same as [`send`](ConnectionHandle::send), for bytes that several connections may be sending
    /// at the same time; see [`TcpConnection::send_shared`](super::TcpConnection::send_shared).
    ///
    /// # Errors
    /// Same as [`send`](ConnectionHandle::send), without the bytes.
    pub fn send_shared(&self, bytes: &Arc<[u8]>) -> Result<(), SendError> {
        if self.append(bytes) {
            return Ok(());
        }
        let request = Request::Send(Bytes::Shared(Arc::clone(bytes)));
        self.request(request).map_err(|refused| refused.reason())
    }

    /// The number of unsent bytes, without those in files: bytes in the mailbox, and bytes queued
    /// on the connection's loop as last published. Those that a running callback has collected are
    /// not included, see [`TcpConnection::unsent`]. Use it to pace a producer on another thread, in
    /// addition to [`SendError::Full`].
    ///
    /// From any thread; takes a lock that is held only briefly.
    pub fn unsent(&self) -> usize {
        if self.event_loop.is_inherited() { 0 } else { self.mailbox.unsent() }
    }

    /// The part of the [unsent](ConnectionHandle::unsent) bytes that the connection's loop has not
    /// taken yet. If most bytes are in transit, the loop is slow; otherwise the peer is.
    ///
    /// From any thread; takes a lock that is held only briefly.
    pub fn in_transit(&self) -> usize {
        if self.event_loop.is_inherited() { 0 } else { self.mailbox.in_transit() }
    }

    /// Calls `call` with the connection's handler, on the connection's loop. The type of the first
    /// parameter selects the handler: the one that was created for the connection, or the frame
    /// handler inside a [`Framed`](crate::codec::Framed). An error that `call` returns closes the
    /// connection, as if a callback had returned it.
    ///
    /// From any thread. On the connection's own loop the call runs before this returns, unless a
    /// callback of the connection is running; then it runs after that callback. On other threads
    /// it is queued.
    ///
    /// Requests of handles and calls run in order: a request that is made after a queued call waits
    /// until the call has returned, also if the call itself makes it. A
    /// [shutdown](TcpConnection::shutdown) or close by the connection's own callback does not wait
    /// for queued calls. The shutdown still sends all bytes that were accepted before it.
    ///
    /// An accepted call always runs. If the connection closes first, it runs right before
    /// [`on_close`](crate::ConnectionHandler::on_close), and
    /// [`state`](TcpConnection::state) is `Closed`. The exception is a connection whose factory
    /// panics: it has no handler, and the call is dropped.
    ///
    /// ```
    /// use reveille::{Buffer, ConnectionHandle, ConnectionHandler, TcpConnection};
    /// use std::io;
    ///
    /// struct Session {
    ///     topics: Vec<String>,
    /// }
    ///
    /// impl ConnectionHandler for Session {
    ///     fn on_message(&mut self, _: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
    ///         self.topics.push(String::from_utf8_lossy(input.take_all()).into_owned());
    ///         Ok(())
    ///     }
    /// }
    ///
    /// /// On any thread.
    /// fn publish(connection: &ConnectionHandle, topic: String, news: String) -> io::Result<()> {
    ///     connection.with(move |session: &mut Session, conn| {
    ///         if session.topics.contains(&topic) { conn.send(news) } else { Ok(()) }
    ///     })?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// - [`WithError::Closed`] if the connection is closed.
    /// - [`WithError::WrongHandler`] if the handler has another type.
    ///
    /// The error returns `call`.
    pub fn with<H, F, R>(&self, call: F) -> Result<(), Refused<F, WithError>>
    where
        H: 'static,
        F: FnOnce(&mut H, &TcpConnection<'_>) -> R + Send + 'static,
        R: IntoHandlerResult,
    {
        if let Some(event_loop) = self.event_loop.local_loop() {
            return self.with_local(&event_loop, call);
        }
        if let Err(reason) = self.check_handler::<H>() {
            return Err(Refused::new(call, reason));
        }
        match self.mailbox.push_call(call, SendCall::new) {
            Err(call) => Err(Refused::new(call, WithError::Closed)),
            Ok(is_first) => {
                if is_first {
                    self.notify();
                }
                Ok(())
            }
        }
    }

    /// Same as [`with`](ConnectionHandle::with), for a caller on the connection's own loop; `call`
    /// need not be `Send`.
    ///
    /// # Errors
    /// Same as [`with`](ConnectionHandle::with), and [`WithError::WrongLoop`] if `event_loop` is
    /// not the loop of the connection.
    pub fn with_local<H, F, R>(&self, event_loop: &EventLoop, call: F) -> Result<(), Refused<F, WithError>>
    where
        H: 'static,
        F: FnOnce(&mut H, &TcpConnection<'_>) -> R + 'static,
        R: IntoHandlerResult,
    {
        let checked = match self.event_loop.is_in_loop_thread() {
            // In a forked child, the connection is closed whatever the loop.
            false if !self.event_loop.is_inherited() && !self.event_loop.has_ended() => {
                Err(WithError::WrongLoop)
            }
            _ => self.check_handler::<H>(),
        };
        match checked {
            Ok(()) if self.mailbox.is_open() && event_loop.is_registered(self.channel) => {
                event_loop.call_source(self.channel, &mut Some(Call::new(call)));
                Ok(())
            }
            Ok(()) => Err(Refused::new(call, WithError::Closed)),
            Err(reason) => Err(Refused::new(call, reason)),
        }
    }

    fn check_handler<H: 'static>(&self) -> Result<(), WithError> {
        if self.event_loop.is_inherited() {
            Err(WithError::Closed)
        } else if !(self.mailbox.has_handler)(TypeId::of::<H>()) {
            Err(WithError::WrongHandler)
        } else {
            Ok(())
        }
    }

    /// Shuts the connection down, same as
    /// [`TcpConnection::shutdown`](super::TcpConnection::shutdown), after everything sent before.
    ///
    /// From any thread; no effect if the connection is closed.
    pub fn shutdown(&self) {
        // A closed connection is already shut down.
        let _ = self.request(Request::Shutdown);
    }

    /// Closes the connection, same as [`TcpConnection::close`](super::TcpConnection::close).
    ///
    /// From any thread; no effect if the connection is closed. On the connection's own loop it is
    /// closed when this returns, and of its handler only
    /// [`on_close`](crate::ConnectionHandler::on_close) is still called.
    pub fn close(&self) {
        let _ = self.request_now(Request::Close);
    }

    /// Resets the connection, same as [`TcpConnection::reset`](super::TcpConnection::reset).
    ///
    /// From any thread; no effect if the connection is closed. On the connection's own loop it is
    /// closed when this returns, and of its handler only
    /// [`on_close`](crate::ConnectionHandler::on_close) is still called.
    pub fn reset(&self) {
        let _ = self.request_now(Request::Reset);
    }

    /// Ends the input, same as
    /// [`TcpConnection::shutdown_read`](super::TcpConnection::shutdown_read).
    ///
    /// From any thread; no effect if the connection is closed. On the connection's own loop the
    /// input has ended when this returns. From another thread it is queued, and input that arrives
    /// before is still delivered.
    pub fn shutdown_read(&self) {
        let _ = self.request_now(Request::ShutdownRead);
    }

    /// Closes the connection gracefully, same as
    /// [`TcpConnection::close_gracefully`](super::TcpConnection::close_gracefully), after
    /// everything sent before. The time starts when the request reaches the loop, which is
    /// immediately on the connection's own loop.
    ///
    /// From any thread; no effect if the connection is closed.
    pub fn close_gracefully(&self, within: Duration) {
        let _ = self.request_now(Request::CloseGracefully(within));
    }

    /// Pauses reading, same as
    /// [`TcpConnection::pause_reading`](super::TcpConnection::pause_reading): for a consumer on
    /// another thread that is overloaded. Input that was read before may still be delivered.
    ///
    /// From any thread; no effect if the connection is closed.
    pub fn pause_reading(&self) {
        let _ = self.request(Request::PauseReading);
    }

    /// Resumes reading, same as
    /// [`TcpConnection::resume_reading`](super::TcpConnection::resume_reading).
    ///
    /// From any thread; no effect if the connection is closed.
    pub fn resume_reading(&self) {
        let _ = self.request(Request::ResumeReading);
    }

    /// Whether a payload of `len` bytes is within the limits of unsent bytes and of memory.
    pub(in crate::net) fn has_room_for(&self, len: usize) -> bool {
        self.mailbox.has_room_for(len)
    }

    pub(in crate::net) fn channel(&self) -> ChannelId {
        self.channel
    }

    pub(super) fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    /// Whether the connection is not closed, as far as is known here.
    pub fn is_open(&self) -> bool {
        !self.event_loop.is_inherited() && self.mailbox.is_open()
    }

    /// The loop of the connection.
    pub fn event_loop(&self) -> &LoopHandle {
        &self.event_loop
    }

    /// Copies the bytes of a small send behind those of the last request, so that they need no
    /// block of their own. Returns whether this was possible; otherwise they are sent as a request.
    fn append(&self, bytes: &[u8]) -> bool {
        !self.event_loop.is_inherited() && self.mailbox.append(bytes)
    }

    pub(super) fn request(&self, request: Request) -> Result<(), Refused<Request, SendError>> {
        if self.event_loop.is_inherited() {
            return Err(Refused::new(request, SendError::Closed));
        }
        if self.mailbox.push(request)? {
            self.notify();
        }
        Ok(())
    }

    /// Queues the task that drains the mailbox. If the loop has ended, the connection's close has
    /// drained it, or will.
    fn notify(&self) {
        let id = self.channel;
        self.event_loop.post_internal(move |event_loop| _ = event_loop.call_source(id, &mut None::<Call>));
    }

    /// Same as [`request`](ConnectionHandle::request). On the connection's own loop, the request
    /// and all earlier ones have run when this returns.
    fn request_now(&self, request: Request) -> Result<(), Refused<Request, SendError>> {
        if !self.event_loop.is_in_loop_thread() {
            return self.request(request);
        }
        self.mailbox.push(request)?;
        let id = self.channel;
        self.event_loop.run_internal(move |event_loop| event_loop.notify(id));
        Ok(())
    }
}

impl PartialEq for ConnectionHandle {
    /// Two handles are equal if they refer to the same connection.
    fn eq(&self, other: &ConnectionHandle) -> bool {
        self.id() == other.id()
    }
}

impl Eq for ConnectionHandle {}

impl Hash for ConnectionHandle {
    fn hash<S: Hasher>(&self, state: &mut S) {
        self.id().hash(state);
    }
}

impl fmt::Debug for ConnectionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionHandle")
            .field("id", &self.id())
            .field("open", &self.is_open())
            .finish_non_exhaustive()
    }
}
