//! A UDP socket without its handler: its state, receiving and closing.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::destination::{UdpDestination, UdpSource};
use super::endpoint::{Endpoint, Input};
use super::error::MAX_LEN;
use super::handle::{Mailbox, UdpHandle};
use super::queue::{Limits, Queue};
use crate::buffer::Buffer;
use crate::event_loop::EventLoop;
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::Contained;
use crate::net::result::CloseReason;
use crate::readiness::{Interest, Readiness};

/// The readiness that is cleared when there is nothing to receive.
const INPUT: Readiness = Readiness::satisfying(Interest::READABLE);

/// An error, and the peer that it concerns.
pub(super) type Report = (Contained<io::Error>, Option<SocketAddr>);

/// The datagram that the handler is being called with.
#[derive(Clone, Copy)]
struct Delivery {
    from: SocketAddr,
    destination: UdpDestination,
}

/// A socket without its handler.
pub(super) struct UdpCore {
    id: ChannelId,
    pub(super) fd: OwnedFd,
    endpoint: Endpoint,
    /// Set while a datagram is being delivered.
    delivery: Cell<Option<Delivery>>,
    open: Cell<bool>,
    paused: Cell<bool>,
    /// The kernel accepts no more datagrams, and the poller watches for writability.
    awaiting_writable: Cell<bool>,
    pub(super) queue: RefCell<Queue>,
    pub(super) mailbox: Arc<Mailbox>,
    /// The mailbox has datagrams that did not fit in the queue.
    pub(super) more_in_mailbox: Cell<bool>,
    /// Errors that are not delivered yet: callbacks never nest.
    reports: RefCell<VecDeque<Report>>,
    reason: Cell<Option<Contained<CloseReason>>>,
}

impl UdpCore {
    pub(super) fn new(id: ChannelId, fd: OwnedFd, endpoint: Endpoint, limits: Limits) -> UdpCore {
        UdpCore {
            id,
            fd,
            endpoint,
            delivery: Cell::new(None),
            open: Cell::new(true),
            paused: Cell::new(false),
            awaiting_writable: Cell::new(false),
            queue: RefCell::new(Queue::new(limits)),
            mailbox: Arc::new(Mailbox::new(limits)),
            more_in_mailbox: Cell::new(false),
            reports: RefCell::default(),
            reason: Cell::new(None),
        }
    }

    pub(super) fn id(&self) -> ChannelId {
        self.id
    }

    pub(super) fn local(&self) -> SocketAddr {
        self.endpoint.local
    }

    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.endpoint.peer
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.get()
    }

    pub(super) fn handle(&self, event_loop: &EventLoop) -> UdpHandle {
        UdpHandle::new(event_loop.handle(), self.id, self.endpoint.peer, Arc::clone(&self.mailbox))
    }

    /// Updates the readiness that the loop calls the socket for. Errors are always included, even
    /// while receiving is paused.
    pub(super) fn update_wanted(&self, event_loop: &EventLoop) {
        if !self.open.get() {
            return;
        }
        let mut wanted = Readiness::ERROR;
        if !self.paused.get() {
            wanted |= INPUT;
        }
        if self.has_output() {
            wanted |= Readiness::WRITABLE;
        }
        event_loop.set_wanted(self.id, wanted);
    }

    /// Waits for the kernel to accept datagrams again. Only then does the poller watch for
    /// writability: otherwise each datagram that has left the machine would raise an edge and wake
    /// the loop for nothing.
    pub(super) fn await_writable(&self, event_loop: &EventLoop) {
        event_loop.clear_ready(self.id, Readiness::WRITABLE);
        if !self.awaiting_writable.replace(true) {
            self.set_interest(event_loop, Interest::READABLE | Interest::WRITABLE);
        }
    }

    /// Stops watching for writability, since everything has been sent.
    pub(super) fn stop_awaiting_writable(&self, event_loop: &EventLoop) {
        if self.awaiting_writable.replace(false) {
            self.set_interest(event_loop, Interest::READABLE);
        }
    }

    fn set_interest(&self, event_loop: &EventLoop, interest: Interest) {
        if let Err(error) = event_loop.rewatch(self.id, self.fd.as_fd(), interest) {
            self.report(event_loop, error, None);
            // Without an event of writability, retry every turn.
            self.awaiting_writable.set(false);
            event_loop.add_ready(self.id, Readiness::WRITABLE);
        }
    }

    pub(super) fn set_paused(&self, event_loop: &EventLoop, paused: bool) {
        self.paused.set(paused);
        self.update_wanted(event_loop);
    }

    pub(super) fn is_receiving(&self) -> bool {
        self.open.get() && !self.paused.get()
    }

    /// Receives one datagram into the writable region of `input`, which is empty.
    pub(super) fn receive(&self, event_loop: &EventLoop, input: &mut Buffer) -> io::Result<Input> {
        // The loop may have a smaller buffer, and a longer datagram would be truncated.
        if input.capacity() < MAX_LEN {
            input.reserve(MAX_LEN);
        }
        let space = input.writable_mut();
        let received = self.endpoint.receive(self.fd.as_fd(), space)?;
        match received {
            Input::WouldBlock => event_loop.clear_ready(self.id, INPUT & !Readiness::ERROR),
            Input::Datagram(_, from, destination) => self.delivery.set(Some(Delivery { from, destination })),
            Input::ForeignPeer => {}
        }
        Ok(received)
    }

    /// Ends the delivery: the handler has returned.
    pub(super) fn end_delivery(&self) {
        self.delivery.set(None);
    }

    pub(super) fn destination(&self) -> Option<UdpDestination> {
        self.delivery.get().map(|delivery| delivery.destination)
    }

    /// Returns the source for a datagram to `to` if that is a reply to the one being delivered.
    pub(super) fn source_of_reply(&self, to: SocketAddr) -> Option<UdpSource> {
        self.delivery.get().filter(|delivery| delivery.from == to)?.destination.source()
    }

    /// Queues an error for the handler, which gets it in a separate callback.
    pub(super) fn report(&self, event_loop: &EventLoop, error: io::Error, peer: Option<SocketAddr>) {
        self.reports.borrow_mut().push_back((Contained::new(error), peer));
        event_loop.add_ready(self.id, Readiness::ERROR);
    }

    /// Same as [`report`](UdpCore::report), for an error that belongs to no datagram. Errors with
    /// the same code are coalesced, as in the kernel.
    pub(super) fn report_once(&self, event_loop: &EventLoop, error: io::Error) {
        let is_known = |report: &Report| report.0.raw_os_error() == error.raw_os_error();
        if !self.reports.borrow().iter().any(is_known) {
            self.report(event_loop, error, self.endpoint.peer);
        }
    }

    /// Takes the queued errors, and the socket's pending error.
    pub(super) fn take_reports(&self, event_loop: &EventLoop) -> VecDeque<Report> {
        event_loop.clear_ready(self.id, Readiness::ERROR);
        let mut reports = self.reports.take();
        match crate::net::sys::stream::take_error(&self.fd) {
            Ok(None) => {}
            Ok(Some(error)) | Err(error) => reports.push_back((Contained::new(error), self.endpoint.peer)),
        }
        reports
    }

    /// The only way to close the socket. The handler's `on_close` runs in phase 6, when no callback
    /// is active.
    pub(super) fn close(&self, event_loop: &EventLoop, reason: CloseReason) {
        let reason = Contained::new(reason);
        if !self.open.replace(false) {
            return;
        }
        self.reason.set(Some(reason));
        // Datagrams accepted from other threads count as unsent, so that `on_close` sees them.
        let mut queue = self.queue.borrow_mut();
        self.mailbox.close().for_each(|datagram| queue.push(datagram));
        drop(queue);
        event_loop.set_wanted(self.id, Readiness::NONE);
        event_loop.close_later(self.id);
    }

    pub(super) fn take_reason(&self) -> Contained<CloseReason> {
        self.reason.take().unwrap_or_else(|| Contained::new(CloseReason::Closed))
    }
}

impl AsFd for UdpCore {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
