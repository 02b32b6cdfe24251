//! Passing file descriptors over Unix sockets, together with bytes.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::net::Shutdown;

use super::ConnectionCore;
use super::payload::Payload;
use super::queue::Queue;
use crate::buffer::Buffer;
use crate::event_loop::EventLoop;
use crate::event_loop::containment::logger;
use crate::net::disposal::close_descriptors;
use crate::net::result::SendError;
use crate::net::sys::fd_passing::{self, refuse_descriptors, send_with_descriptors};
use crate::net::sys::transport::Transferred;
use crate::net::sys::transport::Transport;
use crate::readiness::Readiness;

/// The maximum number of descriptors that a connection queues for sending. Bytes have their own
/// limit.
const MAX_QUEUED_FDS: usize = 1000;

/// How long descriptors wait that were refused because too many are in flight.
const RETRY: Duration = Duration::from_millis(10);

/// The timer for another attempt to send descriptors has fired.
pub(super) struct RetryFds;

/// What happens to descriptors that the peer sends.
///
/// The kernel never closes them on the loop's thread, where the peer could make a close block for
/// any length of time. The one exception is a process without free descriptors to receive them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FdPassing {
    /// None can arrive: TCP, or refused by the kernel.
    None,
    /// Refused by the kernel, but some that were sent before may be unread.
    Leftover,
    /// Received and closed: the kernel cannot refuse them, or the handler may still accept them.
    Discarded,
    /// At most this many per send of the peer.
    Accepted(u8),
}

impl FdPassing {
    pub(super) fn limit(self) -> u8 {
        match self {
            FdPassing::Accepted(max) => max,
            FdPassing::None | FdPassing::Leftover | FdPassing::Discarded => 0,
        }
    }
}

/// A duplicate of a socket that holds unread descriptors. It is closed on another thread.
#[derive(Default)]
pub(super) struct LastFd(Cell<Option<OwnedFd>>);

impl Drop for LastFd {
    fn drop(&mut self) {
        close_descriptors(self.0.take());
    }
}

/// Bytes and descriptors to send together; neither is empty.
pub(super) struct WithFds {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl WithFds {
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for bytes and descriptors that cannot be sent
    /// in one message.
    pub(super) fn new(bytes: Vec<u8>, descriptors: Vec<OwnedFd>) -> io::Result<WithFds> {
        let problem = if bytes.is_empty() {
            "descriptors are sent with at least one byte"
        } else if descriptors.is_empty() {
            "there are no descriptors to send"
        } else if descriptors.len() > usize::from(fd_passing::MAX_FDS) {
            "at most 253 descriptors can be sent in one message"
        } else {
            return Ok(WithFds { bytes, descriptors });
        };
        Err(io::Error::new(io::ErrorKind::InvalidInput, problem))
    }
}

impl Payload for WithFds {
    const IS_BORROWED: bool = false;

    fn len(&self) -> usize {
        self.bytes.len()
    }

    fn write(&self, transport: &Transport) -> io::Result<Transferred> {
        send_with_descriptors(transport.socket()?.as_fd(), &self.bytes, &self.descriptors)
    }

    fn queue(self, queue: &mut Queue, sent: usize) {
        // The descriptors are sent with the first byte.
        match sent {
            0 => queue.push_with_fds(self.bytes, self.descriptors),
            _ => queue.push_owned(self.bytes, sent),
        }
    }

    fn append_to(&self, _: &mut Buffer) -> bool {
        false
    }
}

impl ConnectionCore {
    pub(super) fn send_with_fds(&self, event_loop: &EventLoop, with_fds: WithFds) -> io::Result<()> {
        self.check_unix()?;
        let queued = self.unsent.borrow().as_ref().map_or(0, |queue| queue.descriptors());
        if queued + with_fds.descriptors.len() > MAX_QUEUED_FDS {
            return Err(SendError::Full.into());
        }
        self.send(event_loop, with_fds).map_err(|refused| refused.reason().into())
    }

    pub(super) fn accept_descriptors(&self, max: usize) -> io::Result<()> {
        self.check_unix()?;
        let max = u8::try_from(max).unwrap_or(u8::MAX).min(fd_passing::MAX_FDS);
        match self.passing.get() {
            FdPassing::None | FdPassing::Leftover if max > 0 => {
                refuse_descriptors(self.transport.socket()?.as_fd(), false);
            }
            FdPassing::None | FdPassing::Leftover => return Ok(()),
            FdPassing::Discarded | FdPassing::Accepted(_) => {}
        }
        self.passing.set(if max > 0 { FdPassing::Accepted(max) } else { FdPassing::Discarded });
        Ok(())
    }

    /// Called after `on_open`: makes the kernel refuse descriptors if the handler has not accepted
    /// any. Before that a peer may have sent some, even before the connection was accepted.
    pub(in crate::net) fn refuse_unwanted_descriptors(&self) {
        if self.passing.get() != FdPassing::Discarded {
            return;
        }
        if self.transport.socket().is_ok_and(|socket| refuse_descriptors(socket.as_fd(), true)) {
            self.passing.set(FdPassing::Leftover);
        }
    }

    /// The socket has been read until EAGAIN.
    pub(super) fn on_socket_drained(&self) {
        if self.passing.get() == FdPassing::Leftover {
            self.passing.set(FdPassing::None);
        }
    }

    /// Called before the socket is closed: has the unread descriptors in it closed on another
    /// thread. The kernel closes them with the last descriptor of the socket, so that thread gets a
    /// duplicate.
    pub(super) fn close_unread_descriptors(&self) {
        // A forked child leaves the socket and its content to the parent.
        if self.passing.get() == FdPassing::None || self.membership.group().is_inherited() {
            return;
        }
        let Ok(socket) = self.transport.socket() else { return };
        // From here on no descriptors can arrive. A duplicate that the user has made stays as it
        // is.
        if !self.lent.get() {
            let _ = rustix::net::shutdown(socket, Shutdown::Both);
        }
        if rustix::io::ioctl_fionread(socket).is_ok_and(|unread| unread == 0) {
            return;
        }
        match socket.try_clone() {
            Ok(duplicate) => self.last_fd.0.set(Some(duplicate)),
            Err(error) => logger::recurring("a Unix socket is closed unread", |left_out| {
                log::warn!("a Unix socket is closed with unread descriptors: {error}{left_out}");
            }),
        }
    }

    /// Too many descriptors are in flight; epoll does not report when that has passed.
    pub(super) fn retry_fds_later(&self, event_loop: &EventLoop) {
        if !self.is_fd_retry_armed.replace(true) {
            self.set_timer(event_loop, RETRY, RetryFds);
        }
    }

    pub(super) fn retry_fds(&self, event_loop: &EventLoop) {
        self.is_fd_retry_armed.set(false);
        event_loop.add_ready(self.id, Readiness::WRITABLE);
        self.update_wanted(event_loop);
    }

    fn check_unix(&self) -> io::Result<()> {
        if self.peer_address().is_unix() && !self.has_filters() {
            return Ok(());
        }
        let message = "descriptors can only be passed over Unix sockets without filters";
        Err(io::Error::new(io::ErrorKind::Unsupported, message))
    }
}
