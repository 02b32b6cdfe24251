//! A connection, seen from any thread.
//!
//! What other threads ask of a connection waits in its mailbox, in order; one task on the connection's loop reads all of it. The
//! mailbox, like the queue it feeds, is bounded.

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::write::{Bytes, Payload};
use super::{ConnectionCore, ConnectionState};
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::{EventLoop, LoopHandle};
use crate::net::group::budget::Account;
use crate::net::result::{CloseReason, SendError};

enum Request {
    Send(Bytes),
    Shutdown,
    Close,
    CloseGracefully(Duration),
    PauseReading,
    ResumeReading,
}

pub(super) struct Mailbox {
    content: Mutex<Content>,
    max_bytes: usize,
    /// What the connection holds, these bytes included.
    account: Arc<Account>,
}

struct Content {
    requests: Vec<Request>,
    /// How many bytes these are to send.
    bytes: usize,
    /// How much memory these take.
    memory: usize,
    /// How many the connection has in its queue, as it last said. While it takes these they count here.
    queued: usize,
    accepts: Accepts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accepts {
    All,
    /// The connection is shut down, or about to be: nothing more can be sent.
    NoSends,
    Nothing,
}

impl Mailbox {
    fn new(max_bytes: usize, queued: usize, accepts: Accepts, account: Arc<Account>) -> Mailbox {
        let content = Content { requests: Vec::new(), bytes: 0, memory: 0, queued, accepts };
        Mailbox { content: Mutex::new(content), max_bytes, account }
    }

    /// Adds a request. Answers whether it is the first, for which the loop must be told.
    fn push(&self, request: Request) -> Result<bool, SendError> {
        let mut content = self.content.lock();
        match (&request, content.accepts) {
            (_, Accepts::Nothing) | (Request::Send(_), Accepts::NoSends) => return Err(SendError::Closed),
            (Request::Send(bytes), Accepts::All) => {
                let memory = bytes.memory();
                if bytes.len() > self.max_bytes.saturating_sub(content.unsent())
                    || self.account.budget().is_exhausted_by(memory)
                {
                    return Err(SendError::Full);
                }
                content.bytes += bytes.len();
                content.memory += memory;
                self.account.count(memory);
            }
            (Request::Shutdown | Request::CloseGracefully(_), _) => content.accepts = Accepts::NoSends,
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

    /// Refuses every later send. What was accepted before is still in the mailbox.
    pub(super) fn refuse_sends(&self) {
        let mut content = self.content.lock();
        if content.accepts == Accepts::All {
            content.accepts = Accepts::NoSends;
        }
    }

    /// Refuses every later request, and drops those that were accepted. Returns how many bytes these were to send.
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
            let accepts = match self.state.get() {
                ConnectionState::Connecting | ConnectionState::Open => Accepts::All,
                ConnectionState::Closing => Accepts::NoSends,
                ConnectionState::Closed => Accepts::Nothing,
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
        // What comes through a handle is unsolicited, also if the handler's own send has it read while it is given input.
        let replying = self.replying.replace(false);
        for request in mailbox.take() {
            match request {
                Request::Shutdown => self.shutdown(event_loop),
                Request::Close => self.close(event_loop, CloseReason::Closed),
                Request::CloseGracefully(within) => self.close_gracefully(event_loop, within),
                Request::PauseReading => self.pause_reading(event_loop),
                Request::ResumeReading => self.resume_reading_remotely(event_loop),
                Request::Send(bytes) => {
                    if let Err((error, bytes)) = self.send(event_loop, bytes) {
                        // They were accepted, so they cannot be left out of the stream: without them it ends here, and
                        // they count as unsent.
                        self.count_lost(bytes.len());
                        if !self.has_output_failed() {
                            self.close(event_loop, CloseReason::Error(error.into()));
                        }
                    }
                }
            }
        }
        self.replying.set(replying);
        self.publish_queued();
    }

    /// Lets other threads know how much is queued, so that they do not send more than there is room for.
    pub(super) fn publish_queued(&self) {
        if let Some(mailbox) = self.mailbox.get() {
            mailbox.set_queued(self.unsent_in_memory());
        }
    }
}

/// A connection, seen from any thread. Clones speak to the same connection.
///
/// What is asked through a handle happens on the connection's loop, in the order asked, of all threads together. A send on the loop
/// itself goes behind what had been accepted here before it began; of two that know nothing of each other either may be first.
///
/// The handle keeps neither the connection nor its descriptor: once the connection has gone it says so, and it never speaks to another
/// one that has taken its place.
///
/// ```
/// use reveille::{Buffer, ConnectionHandle, ConnectionHandler, TcpConnection};
/// use std::io;
/// use std::sync::mpsc::Sender;
///
/// /// Hands each message to a thread that answers in its own time.
/// struct Forward(Sender<(ConnectionHandle, Vec<u8>)>);
///
/// impl ConnectionHandler for Forward {
///     fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
///         self.0.send((conn.handle(), input.take_all().to_vec())).map_err(io::Error::other)
///     }
/// }
/// // In that thread: `handle.send(answer)`.
/// ```
#[derive(Clone)]
pub struct ConnectionHandle {
    event_loop: LoopHandle,
    id: ChannelId,
    mailbox: Arc<Mailbox>,
}

impl ConnectionHandle {
    /// Sends `bytes` behind what has been sent through any handle of the connection before.
    ///
    /// From any thread. What the connection's own callbacks send after this has returned goes behind it. If they take the room for bytes
    /// that were accepted here and are still on their way, the connection is closed: its handler's `on_close` gets [`SendError::Full`].
    ///
    /// # Errors
    /// [`SendError::Closed`] if the connection has gone; [`SendError::Full`] if with these more bytes would be
    /// [unsent](ConnectionHandle::unsent) than may be. None of them are sent then, and the connection stays as it is.
    pub fn send(&self, bytes: impl Into<Vec<u8>>) -> Result<(), SendError> {
        self.request(Request::Send(Bytes::Owned(bytes.into())))
    }

    /// As [`send`](ConnectionHandle::send), of bytes that several connections may be sending at a time; see
    /// [`TcpConnection::send_shared`](super::TcpConnection::send_shared).
    ///
    /// # Errors
    /// As [`send`](ConnectionHandle::send).
    pub fn send_shared(&self, bytes: &Arc<[u8]>) -> Result<(), SendError> {
        self.request(Request::Send(Bytes::Shared(Arc::clone(bytes))))
    }

    /// How many bytes are unsent, those in files left out: what is on its way to the connection's loop, and what is queued there as far as is
    /// known here. The pace of a producer on another thread, beside [`SendError::Full`].
    ///
    /// From any thread; takes a lock that is never held for long.
    pub fn unsent(&self) -> usize {
        if self.event_loop.is_inherited() { 0 } else { self.mailbox.content.lock().unsent() }
    }

    /// Shuts the connection down, as [`TcpConnection::shutdown`](super::TcpConnection::shutdown), behind what was sent before.
    ///
    /// From any thread; without effect if the connection has gone.
    pub fn shutdown(&self) {
        // A connection that has gone is as shut down as it can be.
        let _ = self.request(Request::Shutdown);
    }

    /// Closes the connection, as [`TcpConnection::close`](super::TcpConnection::close).
    ///
    /// From any thread; without effect if the connection has gone. On the connection's own loop it is closed when this returns, and of its
    /// handler only [`on_close`](crate::ConnectionHandler::on_close) is still called.
    pub fn close(&self) {
        // As above.
        let _ = self.request_now(Request::Close);
    }

    /// Closes the connection in order, as [`TcpConnection::close_gracefully`](super::TcpConnection::close_gracefully), behind what was
    /// sent before. The time counts from when the request reaches the loop, which is at once on the connection's own loop.
    ///
    /// From any thread; without effect if the connection has gone.
    pub fn close_gracefully(&self, within: Duration) {
        // As above.
        let _ = self.request_now(Request::CloseGracefully(within));
    }

    /// Has the connection read no more, as [`TcpConnection::pause_reading`](super::TcpConnection::pause_reading): for a consumer on
    /// another thread that has enough for now. What has been read before may still come.
    ///
    /// From any thread; without effect if the connection has gone.
    pub fn pause_reading(&self) {
        // As above.
        let _ = self.request(Request::PauseReading);
    }

    /// Has the connection read again, as [`TcpConnection::resume_reading`](super::TcpConnection::resume_reading).
    ///
    /// From any thread; without effect if the connection has gone.
    pub fn resume_reading(&self) {
        // As above.
        let _ = self.request(Request::ResumeReading);
    }

    pub(super) fn id(&self) -> ChannelId {
        self.id
    }

    /// Whether the connection has not been closed, as far as is known here.
    pub fn is_open(&self) -> bool {
        !self.event_loop.is_inherited() && self.mailbox.is_open()
    }

    /// The loop that the connection is on.
    pub fn event_loop(&self) -> &LoopHandle {
        &self.event_loop
    }

    fn request(&self, request: Request) -> Result<(), SendError> {
        if self.event_loop.is_inherited() {
            return Err(SendError::Closed);
        }
        if self.mailbox.push(request)? {
            let id = self.id;
            if !self.event_loop.send_errand(move |event_loop| event_loop.notify(id)) {
                return Err(SendError::Closed);
            }
        }
        Ok(())
    }

    /// As [`ask`](ConnectionHandle::ask), but on the connection's own loop the request, with all that was asked before, is carried out
    /// before this returns.
    fn request_now(&self, request: Request) -> Result<(), SendError> {
        if !self.event_loop.is_in_loop_thread() {
            return self.request(request);
        }
        self.mailbox.push(request)?;
        let id = self.id;
        self.event_loop.run_errand(move |event_loop| event_loop.notify(id));
        Ok(())
    }
}

impl fmt::Debug for ConnectionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionHandle").field("open", &self.is_open()).finish_non_exhaustive()
    }
}
