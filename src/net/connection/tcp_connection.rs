//! [`TcpConnection`]: the view of a connection that its handler's callbacks get.

mod descriptors;
mod ending;
mod filters;
mod socket;
pub(super) mod tasks;
pub(super) mod timers;

use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::handle::ConnectionHandle;
use super::mailbox::Taken;
use super::ordered_replies::ReplySlot;
use super::payload::Bytes;
use super::{ConnectionCore, ConnectionId, ConnectionState};
use crate::event_loop::{EventLoop, Refused};
use crate::net::result::SendError;

/// A connection, on its loop's thread, for the duration of a callback: of a TCP or Unix socket, or
/// of another [stream](crate::net::ConnectionBuilder#descriptors-that-are-not-sockets).
///
/// Methods act immediately, except that small sends leave together when the callback returns. The
/// callbacks that they cause (a close, a drained queue) run after the current callback has
/// returned. To keep a connection for later, or to use it from another thread, keep its
/// [`handle`](TcpConnection::handle): this value cannot outlive the callback.
///
/// ```compile_fail
/// use reveille::{EventLoop, TcpServer};
///
/// let event_loop = EventLoop::new().unwrap();
/// let mut kept = Vec::new();
/// TcpServer::bind(&event_loop, "127.0.0.1:0").unwrap().serve_fn(move |conn, _| kept.push(conn));
/// ```
#[derive(Clone, Copy)]
pub struct TcpConnection<'a> {
    event_loop: &'a EventLoop,
    core: &'a ConnectionCore,
}

impl<'a> TcpConnection<'a> {
    pub(in crate::net) fn new(event_loop: &'a EventLoop, core: &'a ConnectionCore) -> TcpConnection<'a> {
        TcpConnection { event_loop, core }
    }

    pub(in crate::net) fn core(&self) -> &'a ConnectionCore {
        self.core
    }

    /// The loop of the connection.
    pub fn event_loop(&self) -> &'a EventLoop {
        self.event_loop
    }

    /// The id of the connection.
    pub fn id(&self) -> ConnectionId {
        self.core.connection_id
    }

    /// Returns a handle that can be stored and used from any thread.
    pub fn handle(&self) -> ConnectionHandle {
        self.core.handle()
    }

    /// Sends `bytes`, or queues what the kernel does not take now. Sends are ordered, and follow
    /// everything that [handles](ConnectionHandle) accepted before this, except what waits behind a
    /// [call](ConnectionHandle::with).
    ///
    /// Bytes sent from [`on_message`](crate::ConnectionHandler::on_message) are replies: while more
    /// of them are queued than the [high-water mark](crate::net::ConnectionLimits::water_marks),
    /// the connection does not read. Bytes sent from any other callback are unsolicited; for them
    /// only [`on_high_water`](crate::ConnectionHandler::on_high_water) and the limit `max_unsent`
    /// report that too much is queued.
    ///
    /// Small sends of a callback are collected, and leave in one system call when the callback
    /// returns; [`flush`](TcpConnection::flush) sends them before. Order is the order of the calls.
    ///
    /// An accepted byte is sent, or [`unsent`](TcpConnection::unsent) counts it at the close.
    /// `unsent` also returns how much waits because the socket is full.
    ///
    /// # Errors
    /// - [`SendError::Closed`] after [`close`](TcpConnection::close), or if a write has found that
    ///   the peer has closed or reset the connection. In the latter case the input continues: what
    ///   the peer sent before is still delivered, and then the connection closes with the error of
    ///   the write. A handler that returns this error, as with `?`, closes the connection at once
    ///   and discards that input.
    /// - [`SendError::ShutDown`] after [`shutdown`](TcpConnection::shutdown) or
    ///   [`close_gracefully`](TcpConnection::close_gracefully), and while the server stops, unless
    ///   [work](TcpConnection::keep_open) is outstanding.
    /// - [`SendError::Full`] if the bytes would exceed the limit of the queue.
    ///
    /// In all cases none of the bytes are sent.
    pub fn send(&self, bytes: impl AsRef<[u8]>) -> Result<(), SendError> {
        self.ordered_core().send(self.event_loop, bytes.as_ref()).map_err(|refused| refused.reason())
    }

    /// Sends now what the current callback has sent so far, instead of when it returns. For a
    /// callback that continues to work for long. Without effect outside a callback of this
    /// connection.
    ///
    /// # Errors
    /// - [`SendError::Closed`] if the connection is closed, or the peer is found to have closed or
    ///   reset it.
    /// - [`SendError::ShutDown`] if this end has shut it down; its output is being sent.
    pub fn flush(&self) -> Result<(), SendError> {
        self.core.send_collected(self.event_loop);
        self.core.check_output()
    }

    /// Sends several slices as one: for example a separate header and body.
    ///
    /// Otherwise the same as [`send`](TcpConnection::send): all slices are accepted or refused
    /// together.
    ///
    /// # Errors
    /// Same as [`send`](TcpConnection::send).
    pub fn send_vectored(&self, slices: &[IoSlice<'_>]) -> Result<(), SendError> {
        self.ordered_core().send(self.event_loop, slices).map_err(|refused| refused.reason())
    }

    /// Sends bytes and takes ownership of them. Same as [`send`](TcpConnection::send), but bytes
    /// that the kernel does not accept now are queued without a copy.
    ///
    /// The whole vector stays allocated until its last byte has been sent.
    ///
    /// # Errors
    /// Same as [`send`](TcpConnection::send), with the bytes.
    pub fn send_owned(&self, bytes: impl Into<Vec<u8>>) -> Result<(), Refused<Vec<u8>, SendError>> {
        self.ordered_core().send(self.event_loop, bytes.into())
    }

    /// Sends bytes that several connections may be sending at the same time, such as a broadcast
    /// message. Same as [`send`](TcpConnection::send), but what the kernel does not take now is
    /// queued by reference: 1 MiB for a hundred slow peers takes 1 MiB.
    ///
    /// Each connection counts the full length against its own limit. Less than 4 KiB is copied,
    /// since that is cheaper.
    ///
    /// ```
    /// use reveille::TcpConnection;
    /// use reveille::net::SendError;
    /// use std::sync::Arc;
    ///
    /// fn announce(conn: &TcpConnection, news: &Arc<[u8]>) -> Result<(), SendError> {
    ///     conn.send_shared(news)
    /// }
    /// ```
    ///
    /// # Errors
    /// Same as [`send`](TcpConnection::send).
    pub fn send_shared(&self, bytes: &Arc<[u8]>) -> Result<(), SendError> {
        self.ordered_core()
            .send(self.event_loop, Bytes::Shared(Arc::clone(bytes)))
            .map_err(|refused| refused.reason())
    }

    /// Sends `length` bytes of a file, starting at `offset`, after everything sent before. The
    /// bytes do not pass through user space (sendfile(2)).
    ///
    /// The connection keeps the file until the last byte is sent, and reads it at the pace of the
    /// peer: later changes to the file affect what is sent. The position of the file is neither
    /// used nor moved, so clones of one file may be sent on many connections. One turn of the loop
    /// sends at most about 1 MiB.
    ///
    /// The unsent part of the file counts as [unsent](TcpConnection::unsent), also for the
    /// [automatic pause](crate::net::ConnectionLimits::water_marks). It takes no memory, so
    /// `max_unsent` does not apply to it. At most 64 files are queued. When at most 64 KiB of a
    /// file is left, it is copied into memory if the limit permits, so that many small replies hold
    /// no descriptors.
    ///
    /// sendfile(2) has two side effects. Bytes outside the page cache are read from the disk while
    /// the loop blocks, so files on slow disks belong on a loop of their own. And it raises
    /// `SIGPIPE` if the peer has closed; Rust programs ignore this signal by default.
    ///
    /// ```no_run
    /// use reveille::TcpConnection;
    /// use std::fs::File;
    /// use std::io::{self, IoSlice};
    ///
    /// fn reply(conn: &TcpConnection, path: &str) -> io::Result<()> {
    ///     let file = File::open(path)?;
    ///     let length = file.metadata()?.len();
    ///     conn.send(format!("{length}\r\n"))?;
    ///     conn.send_file(file, 0, length)?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// [`SendError::Closed`] and [`SendError::ShutDown`] as from [`send`](TcpConnection::send);
    /// [`SendError::Full`] if 64 files are queued. The error returns the file.
    ///
    /// An error of the file itself resets the connection, since bytes that were promised to the
    /// peer cannot be sent: [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) for a file that is too
    /// short, and the error of the kernel for a pipe or a directory. If this happens immediately,
    /// the call returns [`SendError::Closed`], and part of the file may have been sent.
    pub fn send_file(
        &self,
        file: impl Into<OwnedFd>,
        offset: u64,
        length: u64,
    ) -> Result<(), Refused<OwnedFd, SendError>> {
        self.ordered_core().send_file(self.event_loop, file.into(), offset, length)
    }

    /// Reserves the next place in the output for a reply that is computed elsewhere. Output that is
    /// sent after this call leaves after the slot is filled. Replies therefore leave in the order
    /// of the requests, however long each takes.
    ///
    /// Open slots are outstanding work: a [shutdown](TcpConnection::shutdown) sends the FIN after
    /// them. At [`max_open_replies`](crate::net::ConnectionLimits::max_open_replies) slots the
    /// connection stops reading until one is free.
    ///
    /// # Errors
    /// [`SendError::Closed`] and [`SendError::ShutDown`] as from [`send`](TcpConnection::send).
    /// [`SendError::Full`] if the maximum of slots is reserved: a handler that reads several
    /// requests from one input leaves the rest there, and gets it again when a slot is free. A
    /// [`FrameHandler`](crate::codec::FrameHandler) gets no frames at the maximum.
    pub fn reserve_reply(&self) -> Result<ReplySlot, SendError> {
        self.ordered_core().reserve_reply(self.event_loop)
    }

    /// Sends bytes that a client has accepted before it had a session.
    pub(super) fn send_accepted(&self, bytes: Vec<u8>) {
        if let Err(refused) = self.core.send(self.event_loop, bytes) {
            let reason = refused.reason();
            self.core.end_stream(self.event_loop, refused.into_inner().len(), reason);
        }
    }

    /// Drains the handle mailbox first, so that sends stay ordered.
    fn ordered_core(&self) -> &'a ConnectionCore {
        self.core.read_mailbox(self.event_loop, Taken::UpToCall);
        self.core
    }

    /// Links this connection with another one of the same loop: from now on the input of each is
    /// relayed, that is, sent on the other.
    ///
    /// - Input that either handler has left unread is sent first. In a callback for a message, that
    ///   includes the rest of the message.
    /// - Neither connection is read while the other has more unsent bytes than its high-water mark,
    ///   until they have fallen to the low-water mark. Each direction therefore buffers at most the
    ///   high-water mark and one read.
    /// - When one peer sends its FIN, the other connection is [shut down](TcpConnection::shutdown)
    ///   after all earlier bytes. When both have, both connections close with
    ///   [`CloseReason::Finished`](crate::net::CloseReason::Finished).
    /// - Bytes that a connection cannot take, because its peer has closed or it was shut down, are
    ///   dropped and counted as its [unsent](TcpConnection::unsent) bytes. The other direction
    ///   continues to its end; then this connection closes with its first error.
    /// - An error of one connection ends the other with
    ///   [`CloseReason::RelayEnded`](crate::net::CloseReason::RelayEnded), once the bytes relayed
    ///   before have been acknowledged. If the input was cut short, the other connection is
    ///   reset, so that its peer does not take a truncated stream for a complete one. If the FIN
    ///   had been relayed, nothing is missing: the peer sees a normal end, and has two seconds to
    ///   send its FIN. It is reset before if it sends more than 1 MiB in this time.
    /// - Relayed bytes and a relayed FIN wait for the [replies](TcpConnection::reserve_reply) that
    ///   are reserved before them. A slot that is dropped ends the link as an error does.
    /// - A [`close`](TcpConnection::close) of one connection closes the other at once, with
    ///   `RelayEnded`; if output is queued there, by a reset.
    /// - A Unix socket has no reset: its peer sees an end of input in all these cases, and cannot
    ///   detect missing bytes. A protocol that is relayed to a Unix socket should mark its own end.
    /// - A [`close_gracefully`](TcpConnection::close_gracefully) of one connection applies to both,
    ///   with the same deadline.
    /// - A server's [stop](crate::TcpServer::stop) lets linked connections continue, unless
    ///   [`on_stop`](crate::ConnectionHandler::on_stop) ends them. At the deadline of the stop both
    ///   connections are reset.
    ///
    /// The handlers are called only for the close, for a stop, for the [idle
    /// timeout](TcpConnection::set_idle_timeout) and the [deadline](TcpConnection::set_deadline),
    /// and by timers and handles. Bytes sent through a handle are inserted into the relayed stream.
    /// Paused reading is resumed. The link lasts as long as the connections.
    ///
    /// # Errors
    /// - [`InvalidInput`](io::ErrorKind::InvalidInput) if the other connection is on another loop
    ///   (a relay across threads would have to copy the bytes and synchronise its back-pressure;
    ///   place both on one loop), or is this connection.
    /// - [`NotConnected`](io::ErrorKind::NotConnected) if either is not
    ///   [open](ConnectionState::Open), has [shut its input down](TcpConnection::shutdown_read), or
    ///   is linked already. A connection whose output has
    ///   [failed](ConnectionState) can be linked, to relay its remaining input.
    pub fn relay_to(&self, other: &ConnectionHandle) -> io::Result<()> {
        self.core.relay_to(self.event_loop, other)
    }

    /// Stops reading until [`resume_reading`](TcpConnection::resume_reading). No system call; the
    /// peer is throttled once the kernel's buffers are full.
    ///
    /// Errors of the connection are still detected. An error closes the connection at once if no
    /// input is left for the handler. Otherwise sends are refused from then on, and the close
    /// follows when reading has resumed and that input is delivered. If queued output can no longer
    /// be sent, reading resumes automatically: a handler that has paused until its output is sent
    /// would otherwise wait forever. Any other paused connection is ended by its [idle
    /// timeout](TcpConnection::set_idle_timeout), by a close, or by the stop of its server or
    /// client.
    pub fn pause_reading(&self) {
        self.core.pause_reading(self.event_loop);
    }

    /// Resumes reading. Input that the handler left in its buffer when it paused is delivered
    /// again, even without new bytes. The exception is a handler that pauses and resumes within one
    /// callback: what it leaves of that message waits for more bytes, as usual.
    pub fn resume_reading(&self) {
        self.core.resume_reading(self.event_loop);
    }

    /// Requests one call of [`on_drained`](crate::ConnectionHandler::on_drained), in a later turn
    /// of the loop, when nothing is queued and the socket is writable. This paces a producer that
    /// always has more to send. No system call. No effect once the output has
    /// [failed](ConnectionState).
    pub fn notify_drained(&self) {
        if self.core.has_output_failed() {
            return;
        }
        self.core.wants_drained.set(true);
        self.core.update_wanted(self.event_loop);
    }

    /// The number of bytes that were accepted for sending and not taken by the kernel: those
    /// queued, in memory and in files, and those dropped because the output has
    /// [failed](ConnectionState), which are counted until the close.
    ///
    /// Small sends of a callback are collected, at most 64 KiB of them. While the callback runs,
    /// they are not counted unless it calls [`flush`](TcpConnection::flush); in
    /// [`on_close`](crate::ConnectionHandler::on_close) the number is exact.
    pub fn unsent(&self) -> usize {
        self.core.unsent()
    }

    /// The number of input bytes that the connection holds because the handler has not consumed
    /// them. Within a callback for a message, the bytes being delivered are not counted.
    pub fn unread(&self) -> usize {
        self.core.unread_len()
    }

    /// Whether this end has shut the connection down.
    pub(crate) fn is_shut_down(&self) -> bool {
        self.core.check_output() == Err(SendError::ShutDown)
    }

    /// Whether the handler gets no more input, except its end.
    pub(crate) fn discards_input(&self) -> bool {
        self.core.discards_input()
    }

    /// Whether the handler gets no input for now, or no more at all: paused by the user or by
    /// unsent replies, linked, or discarded.
    pub(crate) fn is_held(&self) -> bool {
        let core = self.core;
        core.is_blocked() || core.was_ever_linked() || core.discards_input()
    }

    /// The number of bytes that were accepted for sending and not acknowledged by the peer: those
    /// [queued](TcpConnection::unsent), and those that only the kernel holds. One system call.
    ///
    /// On a Unix socket the kernel counts the memory of the bytes that the peer's program has not
    /// read: 0 is exact, and any other number is larger than the number of bytes. If the peer has
    /// closed without having read all data, the amount is unknown, and this returns at least 1.
    /// With filters, such as TLS, 0 is exact too; otherwise the bytes that the kernel holds are
    /// converted to bytes of the handler at the average ratio.
    ///
    /// In [`on_close`](crate::ConnectionHandler::on_close) this is the final result of the
    /// connection: 0 means that the peer's system has received every byte. Only the peer's program
    /// can confirm that it has read them.
    ///
    /// # Errors
    /// Returns the error of the ioctl `SIOCOUTQ` (tcp(7)).
    pub fn undelivered(&self) -> io::Result<usize> {
        self.core.send_collected(self.event_loop);
        self.core.undelivered()
    }

    /// The state of the connection.
    pub fn state(&self) -> ConnectionState {
        self.core.state()
    }
}

impl AsFd for TcpConnection<'_> {
    /// Borrows the socket, for options that have no method here. Only the connection itself may
    /// read from or write to it.
    ///
    /// Of a connection with two descriptors this is the input. An end of a
    /// [pair](TcpConnection::pair) has no descriptor: this is then the
    /// [loop's](crate::EventLoop#inside-another-loop), on which all calls for sockets fail.
    ///
    /// A duplicate of it keeps the connection open towards the peer, but does not keep the loop
    /// busy: a connection whose descriptor was lent is removed from the poller before it is closed,
    /// which costs one system call.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.core.lend_fd().unwrap_or_else(|| self.event_loop.as_fd())
    }
}

impl fmt::Debug for TcpConnection<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpConnection")
            .field("peer_address", self.core.peer_address())
            .field("state", &self.state())
            .field("unsent", &self.unsent())
            .finish_non_exhaustive()
    }
}
