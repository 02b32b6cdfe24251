//! The output of a UDP socket.
//!
//! A datagram is passed to the kernel at once if the queue is empty, and otherwise appended to the
//! queue.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use super::core::UdpCore;
use super::destination::UdpSource;
use super::error::DatagramError;
use super::handle::{QueueFull, Request};
use super::queue::Datagram;
use super::socket;
use crate::event_loop::EventLoop;
use crate::net::result::{CloseReason, SendStatus};

/// The maximum number of queued datagrams sent in one turn, so that a long queue does not starve
/// other channels.
const MAX_DATAGRAMS_PER_TURN: usize = 64;

impl UdpCore {
    pub(super) fn send(
        &self,
        event_loop: &EventLoop,
        bytes: &[u8],
        to: Option<SocketAddr>,
        source: Option<UdpSource>,
    ) -> Result<SendStatus, DatagramError> {
        if !self.is_open() {
            return Err(DatagramError::Closed);
        }
        DatagramError::check_length(bytes.len(), to.or(self.peer()))?;
        let is_first = !self.has_output();
        if is_first {
            let send = || socket::send(self.fd.as_fd(), bytes, to, source);
            if self.send_with_retry(event_loop, send).map_err(DatagramError::of)? {
                return Ok(SendStatus::Written);
            }
        }
        let mut queue = self.queue.borrow_mut();
        if !queue.fits(bytes.len()) {
            return Err(DatagramError::Full);
        }
        queue.push(Datagram { to, source, bytes: bytes.to_vec() });
        drop(queue);
        if is_first {
            self.await_writable(event_loop);
        }
        self.update_wanted(event_loop);
        Ok(SendStatus::Queued)
    }

    /// Calls `send`, and retries once on a connected socket: the first error may be a pending ICMP
    /// error of an earlier datagram, which the failed call has consumed. That error goes to
    /// `on_error`.
    fn send_with_retry<T>(
        &self,
        event_loop: &EventLoop,
        mut send: impl FnMut() -> io::Result<T>,
    ) -> io::Result<T> {
        let first = match send() {
            Err(error) if self.peer().is_some() => error,
            result => return result,
        };
        let second = send();
        if second.as_ref().err().is_none_or(|error| error.raw_os_error() != first.raw_os_error()) {
            self.report_once(event_loop, first);
        }
        second
    }

    /// Returns `true` if datagrams are queued, here or in the mailbox.
    #[inline]
    pub(super) fn has_output(&self) -> bool {
        self.more_in_mailbox.get() || !self.queue.borrow().is_empty()
    }

    /// Sends queued datagrams until the kernel would block or the limit of the turn is reached.
    /// Returns `true` if none is left.
    pub(super) fn flush(&self, event_loop: &EventLoop) -> bool {
        self.refill(event_loop);
        self.flush_queue(event_loop, MAX_DATAGRAMS_PER_TURN);
        self.update_wanted(event_loop);
        !self.has_output()
    }

    /// Takes the datagrams of other threads. They are sent at once if the queue is empty. Otherwise
    /// they are appended to it and sent when the socket becomes writable. The queue is not flushed
    /// here, since `on_drained` must follow a flush and cannot be called from here.
    pub(super) fn read_mailbox(&self, event_loop: &EventLoop) {
        if self.has_output() {
            self.refill(event_loop);
            self.update_wanted(event_loop);
        } else {
            self.flush(event_loop);
        }
    }

    /// Closes the socket at once, for a handle that is used on the socket's own loop. Datagrams
    /// that were sent through its handles are passed to the kernel first; those that it does not
    /// accept count as unsent.
    pub(super) fn close_now(&self, event_loop: &EventLoop) {
        self.read_mailbox(event_loop);
        if self.is_open() {
            self.flush_queue(event_loop, usize::MAX);
            self.refill(event_loop);
            self.close(event_loop, CloseReason::Closed);
        }
    }

    /// Moves requests of other threads into the queue, up to its limits.
    fn refill(&self, event_loop: &EventLoop) {
        self.more_in_mailbox.set(false);
        while self.is_open() {
            match self.mailbox.take(|bytes| self.queue.borrow().fits(bytes)) {
                Ok(Some(Request::Send(datagram))) => self.queue.borrow_mut().push(datagram),
                Ok(Some(Request::Close)) => {
                    self.flush_queue(event_loop, usize::MAX);
                    self.close(event_loop, CloseReason::Closed);
                }
                Ok(None) => break,
                Err(QueueFull) => {
                    self.more_in_mailbox.set(true);
                    break;
                }
            }
        }
    }

    fn flush_queue(&self, event_loop: &EventLoop, max: usize) {
        let mut queue = self.queue.borrow_mut();
        let accepted_all = queue.flush(
            max,
            |batch| {
                let batch = &batch[..batch.len().min(MAX_DATAGRAMS_PER_TURN)];
                self.send_with_retry(event_loop, || socket::send_all(self.fd.as_fd(), batch))
            },
            |datagram, error| self.report(event_loop, error, datagram.to.or(self.peer())),
        );
        let is_empty = queue.is_empty();
        drop(queue);
        if !accepted_all {
            self.await_writable(event_loop);
        } else if is_empty {
            self.stop_awaiting_writable(event_loop);
        }
    }
}
