//! [`ConnectionHandle`]: a connection, used from any thread.
//!
//! Requests of other threads queue in the connection's mailbox, in order. One task on the
//! connection's loop drains all of them. The mailbox is bounded, like the output queue that it
//! feeds.

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::write::{Bytes, Payload};
use super::{ConnectionCore, ConnectionState};
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::{EventLoop, LoopHandle, Refused};
use crate::net::group::budget::Account;
use crate::net::result::{CloseReason, SendError};

/// What a handle requests of the connection.
enum Request {
    Send(Bytes),
    Shutdown,
    Close,
    CloseGracefully(Duration),
    PauseReading,
    ResumeReading,
}

/// The requests of all handles of a connection, and the limit on their bytes.
pub(super) struct Mailbox {
    content: Mutex<Content>,
    max_bytes: usize,
    /// The memory account of the connection; these bytes are counted in it.
    account: Arc<Account>,
}

struct Content {
    requests: Vec<Request>,
    /// The number of bytes that the requests are to send.
    bytes: usize,
    /// The memory that these bytes take.
    memory: usize,
    /// The number of bytes in the connection's queue, as last published by it. While it drains the
    /// mailbox, the drained bytes count here.
    queued: usize,
    accepts: Accepts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accepts {
    All,
    /// The output has ended, or is about to: no more sends, for this reason.
    NoSends(SendError),
    Nothing,
}

impl Mailbox {
    fn new(max_bytes: usize, queued: usize, accepts: Accepts, account: Arc<Account>) -> Mailbox {
        let content = Content { requests: Vec::new(), bytes: 0, memory: 0, queued, accepts };
        Mailbox { content: Mutex::new(content), max_bytes, account }
    }

    /// Adds a request. Returns `true` if the mailbox was empty, so that the loop must be notified.
    fn push(&self, request: Request) -> Result<bool, Refused<Request, SendError>> {
        let mut content = self.content.lock();
        match (&request, content.accepts) {
            (_, Accepts::Nothing) => return Err(Refused::new(request, SendError::Closed)),
            (Request::Send(_), Accepts::NoSends(reason)) => return Err(Refused::new(request, reason)),
            (Request::Send(bytes), Accepts::All) => {
                let memory = bytes.memory();
                if bytes.len() > self.max_bytes.saturating_sub(content.unsent())
                    || self.account.budget().is_exhausted_by(memory)
                {
                    return Err(Refused::new(request, SendError::Full));
                }
                content.bytes += bytes.len();
                content.memory += memory;
                self.account.count(memory);
            }
            (Request::Shutdown | Request::CloseGracefully(_), Accepts::All) => {
                content.accepts = Accepts::NoSends(SendError::ShutDown);
            }
            (Request::Shutdown | Request::CloseGracefully(_), Accepts::NoSends(_)) => {}
            (Request::Close | Request::PauseReading | Request::ResumeReading, _) => {}
        }
        content.requests.push(request);
        let is_first = content.requests.len() == 1;
        drop(content);
        self.account.enforce();
        Ok(is_first)
    }

    fn take(&self) -> Vec<Request> {
        let mut content = self.content.lock();
        content.queued = content.unsent();
        content.bytes = 0;
        self.account.subtract(mem::take(&mut content.memory));
        mem::take(&mut content.requests)
    }

    fn set_queued(&self, queued: usize) {
        self.content.lock().queued = queued;
    }

    fn is_open(&self) -> bool {
        self.content.lock().accepts != Accepts::Nothing
    }

    /// Refuses all later sends with `reason`. Earlier requests stay in the mailbox.
    pub(super) fn refuse_sends(&self, reason: SendError) {
        let mut content = self.content.lock();
        if content.accepts != Accepts::Nothing {
            content.accepts = Accepts::NoSends(reason);
        }
    }

    /// Refuses all later requests and drops the pending ones. Returns how many bytes these were to
    /// send.
    pub(super) fn close(&self) -> usize {
        self.content.lock().accepts = Accepts::Nothing;
        let dropped = self.take();
        let bytes = dropped.iter().map(|request| match request {
            Request::Send(bytes) => bytes.len(),
            _ => 0,
        });
        bytes.sum()
    }
}

impl Content {
    fn unsent(&self) -> usize {
        self.bytes.saturating_add(self.queued)
    }
}

impl ConnectionCore {
    pub(super) fn handle(&self) -> ConnectionHandle {
        let mailbox = self.mailbox.get_or_init(|| {
            let accepts = match (self.state.get(), self.check_output()) {
                (ConnectionState::Closed, _) => Accepts::Nothing,
                (ConnectionState::Closing, Err(reason)) => Accepts::NoSends(reason),
                _ => Accepts::All,
            };
            let max_bytes = self.membership.group().limits.max_unsent;
            let account = Arc::clone(self.membership.account());
            Arc::new(Mailbox::new(max_bytes, self.unsent_in_memory(), accepts, account))
        });
        ConnectionHandle {
            event_loop: self.membership.event_loop().clone(),
            id: self.id,
            mailbox: Arc::clone(mailbox),
        }
    }

    pub(in crate::net) fn read_mailbox(&self, event_loop: &EventLoop) {
        let Some(mailbox) = self.mailbox.get() else { return };
        let requests = mailbox.take();
        if requests.is_empty() {
            return;
        }
        // Bytes sent through a handle are unsolicited, even if the mailbox is drained by a send of
        // the handler while it is given input. So they are not collected together with its replies.
        self.send_collected(event_loop);
        let replying = self.replying.replace(false);
        self.collecting(event_loop, || self.run_requests(event_loop, requests));
        // Still collected if a callback is running.
        self.send_collected(event_loop);
        self.replying.set(replying);
        self.publish_queued();
    }

    fn run_requests(&self, event_loop: &EventLoop, requests: Vec<Request>) {
        for request in requests {
            match request {
                Request::Shutdown => self.shutdown(event_loop),
                Request::Close => self.close(event_loop, CloseReason::Closed),
                Request::CloseGracefully(within) => self.close_gracefully(event_loop, within),
                Request::PauseReading => self.pause_reading(event_loop),
                Request::ResumeReading => self.resume_reading_remotely(event_loop),
                Request::Send(bytes) => {
                    if let Err(refused) = self.send(event_loop, bytes) {
                        let reason = refused.reason();
                        // These bytes were accepted, so they cannot be left out of the stream. The
                        // stream ends here, and they count as unsent.
                        self.count_lost(refused.into_inner().len());
                        if !self.has_output_failed() {
                            self.close(event_loop, CloseReason::Error(reason.into()));
                        }
                    }
                }
            }
        }
    }

    /// Publishes how many bytes are queued, so that other threads stay within the limit.
    pub(super) fn publish_queued(&self) {
        if let Some(mailbox) = self.mailbox.get() {
            mailbox.set_queued(self.unsent_in_memory());
        }
    }
}

/// A connection, used from any thread. Clones refer to the same connection.
///
/// Requests made through handles run on the connection's loop, in the order they were made, over
/// all threads. A send on the loop itself goes after everything that handles accepted before it
/// began; two concurrent sends have no defined order.
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
    id: ChannelId,
    mailbox: Arc<Mailbox>,
}

impl ConnectionHandle {
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
    pub fn send(&self, bytes: impl Into<Vec<u8>>) -> Result<(), Refused<Vec<u8>, SendError>> {
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
        let request = Request::Send(Bytes::Shared(Arc::clone(bytes)));
        self.request(request).map_err(|refused| refused.reason())
    }

    /// The number of unsent bytes, without those in files: bytes in the mailbox, and bytes queued
    /// on the connection's loop as last published. Use it to pace a producer on another thread, in
    /// addition to [`SendError::Full`].
    ///
    /// From any thread; takes a lock that is held only briefly.
    pub fn unsent(&self) -> usize {
        if self.event_loop.is_inherited() { 0 } else { self.mailbox.content.lock().unsent() }
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

    pub(super) fn id(&self) -> ChannelId {
        self.id
    }

    /// Whether the connection is not closed, as far as is known here.
    pub fn is_open(&self) -> bool {
        !self.event_loop.is_inherited() && self.mailbox.is_open()
    }

    /// The loop of the connection.
    pub fn event_loop(&self) -> &LoopHandle {
        &self.event_loop
    }

    fn request(&self, request: Request) -> Result<(), Refused<Request, SendError>> {
        if self.event_loop.is_inherited() {
            return Err(Refused::new(request, SendError::Closed));
        }
        if self.mailbox.push(request)? {
            let id = self.id;
            // If the loop is gone, the connection's close has counted the request, or will.
            self.event_loop.post_internal(move |event_loop| event_loop.notify(id));
        }
        Ok(())
    }

    /// Same as [`request`](ConnectionHandle::request). On the connection's own loop, the request
    /// and all earlier ones have run when this returns.
    fn request_now(&self, request: Request) -> Result<(), Refused<Request, SendError>> {
        if !self.event_loop.is_in_loop_thread() {
            return self.request(request);
        }
        self.mailbox.push(request)?;
        let id = self.id;
        self.event_loop.run_internal(move |event_loop| event_loop.notify(id));
        Ok(())
    }
}

impl fmt::Debug for ConnectionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionHandle").field("open", &self.is_open()).finish_non_exhaustive()
    }
}
