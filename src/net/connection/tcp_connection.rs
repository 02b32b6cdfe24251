//! A connection as its handler sees it.

mod socket;

use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::fd_passing::WithFds;
use super::handle::ConnectionHandle;
use super::write::Bytes;
use super::{ConnectionCore, ConnectionState};
use crate::event_loop::EventLoop;
use crate::net::result::{CloseReason, SendError, SendStatus};

/// A connection, of TCP or of a Unix socket, on its loop's thread, for the length of a callback.
///
/// Everything here acts at once, except that what it causes (a close, a drained queue) is delivered after the callback has
/// returned. To keep a connection for later, or for another thread, keep its [`handle`](TcpConnection::handle): this
/// value cannot outlive the call.
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

    /// The loop that the connection is on.
    pub fn event_loop(&self) -> &'a EventLoop {
        self.event_loop
    }

    /// The face of this connection that can be kept, and that any thread may use.
    pub fn handle(&self) -> ConnectionHandle {
        self.core.handle()
    }

    /// Sends `bytes`, or queues what the kernel does not take now. Sends keep their order, and go behind all that was accepted from
    /// [handles](ConnectionHandle) before this call.
    ///
    /// Sent from [`on_message`](crate::ConnectionHandler::on_message), the bytes are replies: while more of these are queued than
    /// the [high-water mark](crate::TcpServerBuilder::water_marks) the connection does not read. Sent from any other callback they
    /// are unsolicited, and only [`on_high_water`](crate::ConnectionHandler::on_high_water) and the limit report that too much
    /// is queued.
    ///
    /// The answer says whether the kernel has [taken](SendStatus::Written) all of it, or something is [queued](SendStatus::Queued) now. Either way the
    /// bytes are accepted: they are sent, or [`unsent`](TcpConnection::unsent) counts them at the close.
    ///
    /// # Errors
    /// [`SendError::Closed`] after [`shutdown`](TcpConnection::shutdown) or [`close`](TcpConnection::close), or if this or an earlier
    /// write has found that the peer has closed or reset the connection. In the latter case the input goes on: what the peer sent before
    /// is still delivered, and then the connection closes with the error of the write. A handler that returns this error, as with `?`,
    /// closes the connection at once, and has no use for that input. [`SendError::Full`] if the bytes would take the queue past its
    /// limit. None of them are sent in either case.
    pub fn send(&self, bytes: impl AsRef<[u8]>) -> Result<SendStatus, SendError> {
        self.ordered_core().send(self.event_loop, bytes.as_ref()).map_err(|(error, _)| error)
    }

    /// Sends several slices as if they were one, in one system call: a header and a body that lie apart.
    ///
    /// As [`send`](TcpConnection::send) otherwise: they are accepted or refused together.
    ///
    /// # Errors
    /// As [`send`](TcpConnection::send).
    pub fn send_vectored(&self, slices: &[IoSlice<'_>]) -> Result<SendStatus, SendError> {
        self.ordered_core().send(self.event_loop, slices).map_err(|(error, _)| error)
    }

    /// Sends bytes that the caller gives away. As [`send`](TcpConnection::send), but what the kernel does not take now is queued as
    /// it is instead of being copied.
    ///
    /// The whole vector stays until the last of its bytes has been sent.
    ///
    /// # Errors
    /// As [`send`](TcpConnection::send). The bytes are dropped then.
    pub fn send_owned(&self, bytes: impl Into<Vec<u8>>) -> Result<SendStatus, SendError> {
        self.ordered_core().send(self.event_loop, Bytes::Owned(bytes.into())).map_err(|(error, _)| error)
    }

    /// Sends bytes that several connections may be sending at a time, such as a message to all members of a group. As
    /// [`send`](TcpConnection::send), but what the kernel does not take now is queued by reference: a megabyte for a hundred peers that
    /// do not read is one megabyte.
    ///
    /// Each connection counts them against its own limit in full. Less than four KiB are copied, as that is cheaper.
    ///
    /// ```
    /// use reveille::{SendError, TcpConnection};
    /// use std::sync::Arc;
    ///
    /// fn welcome(conn: &TcpConnection, news: &Arc<[u8]>) -> Result<(), SendError> {
    ///     conn.send_shared(news).map(drop)
    /// }
    /// ```
    ///
    /// # Errors
    /// As [`send`](TcpConnection::send).
    pub fn send_shared(&self, bytes: &Arc<[u8]>) -> Result<SendStatus, SendError> {
        self.ordered_core()
            .send(self.event_loop, Bytes::Shared(Arc::clone(bytes)))
            .map_err(|(error, _)| error)
    }

    /// Sends `length` bytes of a file from `offset` on, behind what was sent before, without their passing through this process
    /// (sendfile(2)).
    ///
    /// The connection keeps the file until the last byte is sent, and reads it at the pace of the peer: a file that is changed
    /// meanwhile is sent as it is then. Its position is neither used nor moved, so clones of one file may be sent
    /// on many connections. At most about a megabyte goes out in one turn of the loop.
    ///
    /// What is left of the file counts as [unsent](TcpConnection::unsent), also for the
    /// [automatic pause](crate::TcpServerBuilder::water_marks). But it takes no memory, and so `max_unsent` does not concern it. 64 files may wait. Of one that has no more
    /// than 64 KiB left a copy waits instead, if there is room for it, so that many small answers keep no descriptors.
    ///
    /// Two things to know of sendfile: bytes that the system has not in its cache are read from the disk while the loop
    /// waits, so files on slow disks belong on a loop of their own; and it raises `SIGPIPE` if the peer has gone, which Rust
    /// programs ignore unless they are told otherwise.
    ///
    /// ```no_run
    /// use reveille::TcpConnection;
    /// use std::fs::File;
    /// use std::io::{self, IoSlice};
    ///
    /// fn answer(conn: &TcpConnection, path: &str) -> io::Result<()> {
    ///     let file = File::open(path)?;
    ///     let length = file.metadata()?.len();
    ///     conn.send(format!("{length}\r\n"))?;
    ///     conn.send_file(file, 0, length)?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// [`SendError::Closed`] as from [`send`](TcpConnection::send); [`SendError::Full`] if 64 files wait.
    ///
    /// What goes wrong with the file itself resets the connection, since the peer has been promised bytes that cannot be had: a file that
    /// ends too early with [`UnexpectedEof`](io::ErrorKind::UnexpectedEof), a pipe or a directory with what the kernel says of it. If that
    /// shows at once the error is [`SendError::Closed`], and some of the file may have been sent.
    pub fn send_file(
        &self,
        file: impl Into<OwnedFd>,
        offset: u64,
        length: u64,
    ) -> Result<SendStatus, SendError> {
        self.ordered_core().send_file(self.event_loop, file.into(), offset, length)
    }

    /// Sends open descriptors to the process at the other end of a Unix socket (`SCM_RIGHTS`, unix(7)), along with `bytes`, behind
    /// what was sent before. The peer gets descriptors of its own for the same files, and this process's are closed when they are
    /// sent; [`try_clone`](OwnedFd::try_clone) makes one that is kept.
    ///
    /// As [`send`](TcpConnection::send) otherwise. On the way descriptors belong to the first of the bytes that they are sent with.
    /// At most 253 go in one send, and a thousand wait in a queue.
    ///
    /// ```
    /// use reveille::TcpConnection;
    /// use std::fs::File;
    /// use std::io;
    ///
    /// fn hand_over(conn: &TcpConnection, path: &str) -> io::Result<()> {
    ///     conn.send_with_descriptors("file\n", [File::open(path)?.into()]).map(drop)
    /// }
    /// ```
    ///
    /// # Errors
    /// As [`send`](TcpConnection::send), as an [`io::Error`]; [`InvalidInput`](io::ErrorKind::InvalidInput) without a byte, without a
    /// descriptor or with too many; [`Unsupported`](io::ErrorKind::Unsupported) for a TCP connection. Nothing is sent then, and the
    /// descriptors are closed. It is [`SendError::Full`] as well while the user has too many descriptors on their way, in all processes
    /// (`ETOOMANYREFS`, unix(7)); those that are queued already wait until this is over. Another error of the kernel closes the connection.
    pub fn send_with_descriptors(
        &self,
        bytes: impl Into<Vec<u8>>,
        descriptors: impl IntoIterator<Item = OwnedFd>,
    ) -> io::Result<SendStatus> {
        let with_fds = WithFds::new(bytes.into(), descriptors.into_iter().collect())?;
        self.ordered_core().send_with_fds(self.event_loop, with_fds)
    }

    /// Takes descriptors from the process at the other end of a Unix socket from now on, at most so many with one of its sends (253,
    /// the kernel's limit, if it is more), and gives them to [`on_descriptors`](crate::ConnectionHandler::on_descriptors). With 0 it
    /// takes none, which is the default: from Linux 6.16 on the kernel refuses them to the peer (EPERM), as soon as
    /// [`on_open`](crate::ConnectionHandler::on_open) has returned. Before that, and on older kernels, they are received and
    /// [closed](crate::close_descriptors), and the bytes come without them.
    ///
    /// It belongs into the handler's factory, or `on_open`, since what has been read is past. A peer that sends more than is allowed
    /// has its connection closed.
    ///
    /// # Errors
    /// [`Unsupported`](io::ErrorKind::Unsupported) for a TCP connection.
    pub fn accept_descriptors(&self, most: usize) -> io::Result<()> {
        self.core.accept_descriptors(most)
    }

    /// The connection, when all that handles had been given before has gone before.
    fn ordered_core(&self) -> &'a ConnectionCore {
        self.core.read_mailbox(self.event_loop);
        self.core
    }

    /// Ends sending: what is queued is still sent, then the peer reads the end of input. The connection still receives, and
    /// closes when the peer has finished as well.
    ///
    /// A peer that never does so keeps the connection: see [`close_after`](TcpConnection::close_after).
    pub fn shutdown(&self) {
        self.core.shutdown(self.event_loop);
    }

    /// Ends the connection now. What is queued is lost, and so is what has been received and not read. If there is any of either, the
    /// connection is reset, so that the peer does not take what it has for the whole; a Unix socket knows no such end.
    pub fn close(&self) {
        self.core.close(self.event_loop, CloseReason::Closed);
    }

    /// Ends the connection now, for a reason of the crate's own.
    pub(crate) fn close_for(&self, reason: CloseReason) {
        self.core.close(self.event_loop, reason);
    }

    /// Ends the connection when `delay` has passed, unless it has ended by then.
    pub fn close_after(&self, delay: Duration) {
        self.core.close_after(self.event_loop, delay);
    }

    /// How long the connection may be idle, instead of what its server or client was told; `None` for as long as it likes. The time
    /// begins anew now.
    ///
    /// Idle is a connection on which no byte comes, and none is taken by the kernel to be sent. When the time has passed
    /// [`on_idle`](crate::ConnectionHandler::on_idle) is called, which closes the connection unless it is written otherwise.
    ///
    /// To push the deadline back costs a message a few nanoseconds: no system call, and nothing is done to a timer.
    ///
    /// # Panics
    /// If the timeout is zero.
    #[track_caller]
    pub fn set_idle_timeout(&self, timeout: Option<Duration>) {
        self.core.set_idle_timeout(self.event_loop, timeout);
    }

    /// Ends the connection in order, but not later than `within` this time: what is queued is sent, then the FIN, and when the peer
    /// has finished and acknowledged all, the connection closes ([`CloseReason::Finished`]). When the time is up it is reset instead
    /// ([`CloseReason::DeadlinePassed`]), and neither end keeps anything of it. A Unix socket knows no reset, and its peer sees an end.
    ///
    /// What still comes in is thrown away; [`on_message`](crate::ConnectionHandler::on_message) and
    /// [`on_peer_shutdown`](crate::ConnectionHandler::on_peer_shutdown) are not called any more. In
    /// [`on_close`](crate::ConnectionHandler::on_close), [`undelivered`](TcpConnection::undelivered) says how it went. Called again,
    /// this sets another time.
    ///
    /// ```
    /// use reveille::{Buffer, CloseReason, ConnectionHandler, TcpConnection};
    /// use std::io;
    /// use std::time::Duration;
    ///
    /// struct LastWord;
    ///
    /// impl ConnectionHandler for LastWord {
    ///     fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
    ///         conn.send(input.take_all())?;
    ///         conn.close_gracefully(Duration::from_secs(10));
    ///         Ok(())
    ///     }
    ///
    ///     fn on_close(&mut self, conn: &TcpConnection, reason: &CloseReason) {
    ///         match conn.undelivered() {
    ///             Ok(0) => println!("{}: the peer has all", conn.peer()),
    ///             Ok(bytes) => println!("{}: {bytes} bytes did not arrive: {reason}", conn.peer()),
    ///             Err(error) => println!("{}: {error}", conn.peer()),
    ///         }
    ///     }
    /// }
    /// ```
    pub fn close_gracefully(&self, within: Duration) {
        self.core.close_gracefully(self.event_loop, within);
    }

    /// Links this connection with another one of the same loop: from now on what comes in on either goes out on the other.
    ///
    /// - What either handler has left unread goes first. If this is called in a message, so does what is left of that.
    /// - Neither is read while the other has more unsent than its high-water mark, until that has fallen to the low-water mark. So
    ///   a link holds in each direction the high-water mark and one buffer full at most.
    /// - When one peer finishes, the other connection is [shut down](TcpConnection::shutdown) behind all that came before. When both
    ///   have, both close, with [`CloseReason::Finished`].
    /// - What a connection cannot take because its peer has closed, or because it was shut down, is dropped and counted as
    ///   [unsent](TcpConnection::unsent) there. The other direction goes on to its end; then this connection closes with its first error.
    /// - An error of one ends the other with [`CloseReason::RelayEnded`] when what was passed on before has arrived. If the input was cut
    ///   off, that is a reset, so that the peer does not take what it has for the whole. If the end of the input had been passed on,
    ///   nothing is missing, and the peer sees an end in order; it then has two seconds to finish.
    /// - A [`close`](TcpConnection::close) of one closes the other at once, with [`CloseReason::RelayEnded`]; if it has anything queued, by
    ///   a reset.
    /// - A Unix socket knows no reset: its peer sees an end in each of these cases, and cannot tell that something is missing. A protocol
    ///   that is relayed to one should mark its own ends.
    /// - A [`close_gracefully`](TcpConnection::close_gracefully) of one is one of the other as well, with the same time.
    /// - A server's [stop](crate::TcpServer::stop) lets the two go on, unless [`on_stop`](crate::ConnectionHandler::on_stop) ends them; when
    ///   its time is up, both are reset.
    ///
    /// The handlers hear only of the close, of a stop, and of being [idle](TcpConnection::set_idle_timeout). What is sent through a
    /// handle goes in between. Reading that was paused goes on. The link lasts as long as the connections.
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if the other connection is on another loop (its bytes would have to be copied and
    /// its pace to be told across threads; have the two on one loop), or is this one;
    /// [`NotConnected`](io::ErrorKind::NotConnected) if either is not [open](ConnectionState::Open), or is linked already. One whose output has
    /// [failed](ConnectionState) can be linked, to pass on the input that it still has.
    pub fn relay_to(&self, other: &ConnectionHandle) -> io::Result<()> {
        self.core.relay_to(self.event_loop, other)
    }

    /// Reads no more until [`resume_reading`](TcpConnection::resume_reading). No system call; the peer is held back once the
    /// kernel's buffers are full.
    ///
    /// An error of the connection is still noticed. It closes the connection at once if no input is left that the handler could be given.
    /// Otherwise sends are refused from then on, and the close follows when reading has resumed and that input is delivered. If output was
    /// queued that can no longer be sent, reading resumes by itself: a handler that has paused until its output is sent would wait for
    /// ever. Any other connection that stays paused is ended by its [idle timeout](TcpConnection::set_idle_timeout), by a close, or by the stop of its
    /// server or client.
    pub fn pause_reading(&self) {
        self.core.pause_reading(self.event_loop);
    }

    /// Reads again. What the handler had left in its input buffer when reading paused is offered to it again, also if
    /// nothing new has come. Not so what it leaves of the very message in which it pauses and resumes: that waits for more, as ever.
    pub fn resume_reading(&self) {
        self.core.resume_reading(self.event_loop);
    }

    /// Asks for one call of [`on_drained`](crate::ConnectionHandler::on_drained), in a later turn of the loop, when nothing is
    /// queued and the kernel takes more: the pace of a producer that always has something to send. No system call. Without effect once
    /// the output has [failed](ConnectionState).
    pub fn notify_drained(&self) {
        if self.core.has_output_failed() {
            return;
        }
        self.core.wants_drained.set(true);
        self.core.update_wanted(self.event_loop);
    }

    /// How many bytes were accepted for sending and not taken by the kernel: those that are queued, in memory and in files, and those that
    /// were dropped because the output has [failed](ConnectionState), which are counted until the close.
    pub fn unsent(&self) -> usize {
        self.core.unsent()
    }

    /// How many bytes of input the connection holds because the handler has left them. In a message, what is offered just then does
    /// not count.
    pub fn unread(&self) -> usize {
        self.core.unread_len()
    }

    /// Whether the handler wants no input for now, or is to get none: because the peer does not read what it is sent, or because input
    /// goes to another connection, or nowhere, from now on.
    pub(crate) fn is_held(&self) -> bool {
        let core = self.core;
        core.paused.get() || core.throttled.get() || core.is_linked() || core.is_draining()
    }

    /// How many of the bytes that were accepted for sending have not been acknowledged by the peer: those that are
    /// [queued](TcpConnection::unsent), and those that only the kernel has. One system call.
    ///
    /// On a Unix socket the kernel counts what the peer's program has not read, and counts the memory that it takes: 0 is as good, and any
    /// other number is more than the bytes. If the peer has closed without having read all, how much that was is not known, and this is at
    /// least 1.
    ///
    /// In [`on_close`](crate::ConnectionHandler::on_close) it is the verdict on the connection: 0 says that the peer's system has got
    /// every byte. Whether the program there has read them, only the program can say.
    ///
    /// # Errors
    /// What the kernel says (`SIOCOUTQ`, tcp(7)).
    pub fn undelivered(&self) -> io::Result<usize> {
        self.core.undelivered()
    }

    /// How far the connection is.
    pub fn state(&self) -> ConnectionState {
        self.core.state()
    }
}

impl AsFd for TcpConnection<'_> {
    /// The socket, for options that have no method here. Reading or writing it is the connection's business alone.
    ///
    /// A duplicate of it keeps the connection open towards the peer, but not the loop busy: a connection whose descriptor was lent leaves
    /// the poller before it is closed, at the price of one system call.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.core.lend_fd()
    }
}

impl fmt::Debug for TcpConnection<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpConnection")
            .field("peer", self.core.peer())
            .field("state", &self.state())
            .field("unsent", &self.unsent())
            .finish_non_exhaustive()
    }
}
