//! Descriptors that are sent along with bytes, on Unix sockets.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::Shutdown;

use super::ConnectionCore;
use super::queue::Queue;
use super::write::Payload;
use crate::event_loop::EventLoop;
use crate::event_loop::containment::logger;
use crate::net::disposal::close_descriptors;
use crate::net::result::{SendError, SendStatus};
use crate::net::sys::fd_passing::{self, refuse_descriptors, send_with_descriptors};
use crate::net::sys::stream::Transferred;
use crate::readiness::Readiness;

/// How many descriptors a connection keeps until its peer reads. Bytes have their own limit.
const MAX_QUEUED_FDS: usize = 1000;

/// How long descriptors wait that could not be sent because too many are on their way.
const RETRY: Duration = Duration::from_millis(10);

/// The timer for another attempt to send descriptors has fired.
pub(super) struct RetryFds;

/// What becomes of descriptors that the peer sends. On no path does the kernel close them on the loop's thread, where a close may take as
/// long as the peer likes; the exception is a process that has no free descriptors to receive them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FdPassing {
    /// None can come: of TCP, or refused by the kernel.
    None,
    /// Refused by the kernel, but some that were sent before may still be unread.
    Leftover,
    /// They are received and closed: the kernel cannot refuse them, or the handler has not had its say.
    Discarded,
    /// At most so many with one send of the peer's.
    Accepted(u8),
}

impl FdPassing {
    pub(super) fn limit(self) -> u8 {
        match self {
            FdPassing::Accepted(most) => most,
            FdPassing::None | FdPassing::Leftover | FdPassing::Discarded => 0,
        }
    }
}

/// A duplicate of a socket that holds unread descriptors, which is closed on another thread.
#[derive(Default)]
pub(super) struct LastFd(Cell<Option<OwnedFd>>);

impl Drop for LastFd {
    fn drop(&mut self) {
        close_descriptors(self.0.take());
    }
}

/// Bytes and descriptors, of which neither are none.
pub(super) struct WithFds {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl WithFds {
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for what cannot be sent in one message.
    pub(super) fn new(bytes: Vec<u8>, descriptors: Vec<OwnedFd>) -> io::Result<WithFds> {
        let problem = if bytes.is_empty() {
            "descriptors travel with bytes, of which there are none"
        } else if descriptors.is_empty() {
            "there are no descriptors to send"
        } else if descriptors.len() > usize::from(fd_passing::MOST) {
            "more than 253 descriptors do not go into one message"
        } else {
            return Ok(WithFds { bytes, descriptors });
        };
        Err(io::Error::new(io::ErrorKind::InvalidInput, problem))
    }
}

impl Payload for WithFds {
    fn len(&self) -> usize {
        self.bytes.len()
    }

    fn write(&self, socket: BorrowedFd<'_>) -> io::Result<Transferred> {
        send_with_descriptors(socket, &self.bytes, &self.descriptors)
    }

    fn queue(self, queue: &mut Queue, sent: usize) {
        // With the first byte the descriptors have gone.
        match sent {
            0 => queue.push_with_fds(self.bytes, self.descriptors),
            _ => queue.push_owned(self.bytes, sent),
        }
    }
}

impl ConnectionCore {
    pub(super) fn send_with_fds(&self, event_loop: &EventLoop, with_fds: WithFds) -> io::Result<SendStatus> {
        self.check_unix()?;
        let queued = self.unsent.borrow().as_ref().map_or(0, |queue| queue.descriptors());
        if queued + with_fds.descriptors.len() > MAX_QUEUED_FDS {
            return Err(SendError::Full.into());
        }
        self.send(event_loop, with_fds).map_err(|(error, _)| error.into())
    }

    pub(super) fn accept_descriptors(&self, most: usize) -> io::Result<()> {
        self.check_unix()?;
        let most = u8::try_from(most).unwrap_or(u8::MAX).min(fd_passing::MOST);
        match self.passing.get() {
            FdPassing::None | FdPassing::Leftover if most > 0 => {
                refuse_descriptors(self.fd.as_fd(), false);
            }
            FdPassing::None | FdPassing::Leftover => return Ok(()),
            FdPassing::Discarded | FdPassing::Accepted(_) => {}
        }
        self.passing.set(if most > 0 { FdPassing::Accepted(most) } else { FdPassing::Discarded });
        Ok(())
    }

    /// Once the handler has had its say: has the kernel refuse what the connection does not take. Until now it could not, as a peer may
    /// send descriptors before the connection is accepted.
    pub(in crate::net) fn refuse_unwanted_descriptors(&self) {
        if self.passing.get() == FdPassing::Discarded && refuse_descriptors(self.fd.as_fd(), true) {
            self.passing.set(FdPassing::Leftover);
        }
    }

    /// Notes that the socket has been read empty.
    pub(super) fn on_socket_drained(&self) {
        if self.passing.get() == FdPassing::Leftover {
            self.passing.set(FdPassing::None);
        }
    }

    /// Before the socket is closed: has descriptors that are in it, unread, closed on another thread. The kernel closes them with the last
    /// descriptor of the socket, so that thread is given a duplicate.
    pub(super) fn close_unread_descriptors(&self) {
        // A forked child leaves the socket, and what is in it, to its parent.
        if self.passing.get() == FdPassing::None || self.membership.group().is_inherited() {
            return;
        }
        // From here on none can come. A duplicate that the user has made stays as it is.
        if !self.lent.get() {
            let _ = rustix::net::shutdown(&self.fd, Shutdown::Both);
        }
        if rustix::io::ioctl_fionread(&self.fd).is_ok_and(|unread| unread == 0) {
            return;
        }
        match self.fd.try_clone() {
            Ok(duplicate) => self.last_fd.0.set(Some(duplicate)),
            Err(error) => logger::recurring("a Unix socket is closed unread", |left_out| {
                log::warn!("a Unix socket is closed with what is unread in it: {error}{left_out}");
            }),
        }
    }

    /// Descriptors could not be sent because too many are on their way. When some have arrived is not reported.
    pub(super) fn retry_fds_later(&self, event_loop: &EventLoop) {
        if !self.is_fd_retry_armed.replace(true) {
            self.set_timer(event_loop, RETRY, RetryFds);
        }
    }

    pub(super) fn retry_fds(&self, event_loop: &EventLoop) {
        self.is_fd_retry_armed.set(false);
        event_loop.add_ready(self.id, Readiness::WRITABLE);
    }

    fn check_unix(&self) -> io::Result<()> {
        if self.peer().is_unix() {
            return Ok(());
        }
        let message = "descriptors go from process to process through Unix sockets only";
        Err(io::Error::new(io::ErrorKind::Unsupported, message))
    }
}
