//! What a UDP socket sends.
//!
//! A datagram goes to the kernel at once if none is queued before it, and else behind the queue.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use super::core::Core;
use super::destination::UdpSource;
use super::error::DatagramError;
use super::handle::{NoRoom, Request};
use super::queue::Datagram;
use super::socket;
use crate::event_loop::EventLoop;
use crate::net::result::{CloseReason, SendStatus};

/// Queued datagrams sent in one turn, so that a long queue does not keep others from theirs.
const DATAGRAMS_A_TURN: usize = 64;

impl Core {
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
            if self.insist(event_loop, send).map_err(DatagramError::of)? {
                return Ok(SendStatus::Written);
            }
        }
        let mut queue = self.queue.borrow_mut();
        if !queue.has_room(bytes.len()) {
            return Err(DatagramError::Full);
        }
        queue.push(Datagram { to, source, bytes: bytes.to_vec() });
        drop(queue);
        if is_first {
            self.await_room(event_loop);
        }
        self.update_wanted(event_loop);
        Ok(SendStatus::Queued)
    }

    /// Calls `send`, and once more if it fails on a connected socket: the error may be what became of an earlier datagram, and
    /// its being told has kept this one from being sent. Then it is reported, and no affair of this one.
    fn insist<T>(&self, event_loop: &EventLoop, mut send: impl FnMut() -> io::Result<T>) -> io::Result<T> {
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

    /// Whether there is anything queued, here or in the mailbox.
    #[inline]
    pub(super) fn has_output(&self) -> bool {
        self.more_in_mailbox.get() || !self.queue.borrow().is_empty()
    }

    /// Sends what is queued, as far as the kernel takes it and a turn allows. Answers whether nothing is left.
    pub(super) fn flush(&self, event_loop: &EventLoop) -> bool {
        self.refill(event_loop);
        self.flush_queue(event_loop, DATAGRAMS_A_TURN);
        self.update_wanted(event_loop);
        !self.has_output()
    }

    /// Sees to what other threads have left. It is sent at once if nothing waits before it; else it joins what waits, whose turn
    /// comes with the readiness that it waits for. Whoever has queued that is told when it is sent, which cannot be done from here.
    pub(super) fn read_mailbox(&self, event_loop: &EventLoop) {
        if self.has_output() {
            self.refill(event_loop);
            self.update_wanted(event_loop);
        } else {
            self.flush(event_loop);
        }
    }

    /// Closes the socket now, for a handle on the socket's own loop. What its handles have sent before is offered to the kernel first;
    /// what that does not take counts as unsent.
    pub(super) fn close_as_asked(&self, event_loop: &EventLoop) {
        self.read_mailbox(event_loop);
        if self.is_open() {
            self.flush_queue(event_loop, usize::MAX);
            self.refill(event_loop);
            self.close(event_loop, CloseReason::Closed);
        }
    }

    /// Takes what other threads have asked for, as far as there is room for it.
    fn refill(&self, event_loop: &EventLoop) {
        self.more_in_mailbox.set(false);
        while self.is_open() {
            match self.mailbox.take(|bytes| self.queue.borrow().has_room(bytes)) {
                Ok(Some(Request::Send(datagram))) => self.queue.borrow_mut().push(datagram),
                Ok(Some(Request::Close)) => {
                    self.flush_queue(event_loop, usize::MAX);
                    self.close(event_loop, CloseReason::Closed);
                }
                Ok(None) => break,
                Err(NoRoom) => {
                    self.more_in_mailbox.set(true);
                    break;
                }
            }
        }
    }

    fn flush_queue(&self, event_loop: &EventLoop, most: usize) {
        let mut queue = self.queue.borrow_mut();
        let took_all = queue.flush(
            most,
            |batch| {
                let batch = &batch[..batch.len().min(DATAGRAMS_A_TURN)];
                self.insist(event_loop, || socket::send_all(self.fd.as_fd(), batch))
            },
            |datagram, error| self.report(event_loop, error, datagram.to.or(self.peer())),
        );
        let is_empty = queue.is_empty();
        drop(queue);
        if !took_all {
            self.await_room(event_loop);
        } else if is_empty {
            self.end_waiting(event_loop);
        }
    }
}
