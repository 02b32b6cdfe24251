//! A UDP socket without its handler: its state, what it receives, and how it ends.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::destination::{UdpDestination, UdpSource};
use super::error::LONGEST;
use super::handle::{Mailbox, UdpHandle};
use super::queue::{Limits, Queue};
use super::socket::{self, Received};
use crate::buffer::Buffer;
use crate::event_loop::EventLoop;
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::Contained;
use crate::net::result::CloseReason;
use crate::readiness::{Interest, Readiness};

/// What is used up when there is nothing to receive.
const INPUT: Readiness = Readiness::answering(Interest::READABLE);

/// Something that went wrong, and the one it concerns.
pub(super) type Report = (Contained<io::Error>, Option<SocketAddr>);

/// What came of a try to receive.
pub(super) enum Input {
    /// A datagram of so many bytes, and its sender. Its destination is noted in the core.
    Datagram(usize, SocketAddr),
    /// One that is not for the handler.
    Stranger,
    /// There is none; the loop will say when there is.
    Nothing,
}

/// A datagram that the handler is being called with.
#[derive(Clone, Copy)]
struct Delivery {
    from: SocketAddr,
    destination: UdpDestination,
}

/// All of a socket but its handler.
pub(super) struct Core {
    id: ChannelId,
    pub(super) fd: OwnedFd,
    local: SocketAddr,
    peer: Option<SocketAddr>,
    /// Of the datagram that is being delivered.
    delivery: Cell<Option<Delivery>>,
    open: Cell<bool>,
    paused: Cell<bool>,
    /// The kernel takes no more, and has been asked to say when it does.
    full: Cell<bool>,
    pub(super) queue: RefCell<Queue>,
    pub(super) mailbox: Arc<Mailbox>,
    /// There is more in the mailbox than the queue had room for.
    pub(super) more_in_mailbox: Cell<bool>,
    /// What the handler has yet to be told: its calls never nest.
    reports: RefCell<VecDeque<Report>>,
    reason: Cell<Option<Contained<CloseReason>>>,
}

impl Core {
    pub(super) fn new(
        id: ChannelId,
        fd: OwnedFd,
        local: SocketAddr,
        peer: Option<SocketAddr>,
        limits: Limits,
    ) -> Core {
        Core {
            id,
            fd,
            local,
            peer,
            delivery: Cell::new(None),
            open: Cell::new(true),
            paused: Cell::new(false),
            full: Cell::new(false),
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
        self.local
    }

    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.get()
    }

    pub(super) fn handle(&self, event_loop: &EventLoop) -> UdpHandle {
        UdpHandle::new(event_loop.handle(), self.id, self.peer, Arc::clone(&self.mailbox))
    }

    /// Tells the loop what the socket waits for. An error always concerns it, whatever else is paused.
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

    /// Has the kernel say when it takes datagrams again. Only then is the socket watched for that: each one that has left the
    /// machine makes room, and would wake the loop for nothing.
    pub(super) fn await_room(&self, event_loop: &EventLoop) {
        event_loop.clear_ready(self.id, Readiness::WRITABLE);
        if !self.full.replace(true) {
            self.watch_for(event_loop, Interest::READABLE | Interest::WRITABLE);
        }
    }

    /// Notes that all is sent.
    pub(super) fn end_waiting(&self, event_loop: &EventLoop) {
        if self.full.replace(false) {
            self.watch_for(event_loop, Interest::READABLE);
        }
    }

    fn watch_for(&self, event_loop: &EventLoop, interest: Interest) {
        if let Err(error) = event_loop.rewatch(self.id, self.fd.as_fd(), interest) {
            self.report(event_loop, error, None);
            // Whoever cannot be told must look for himself.
            self.full.set(false);
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

    /// Receives one datagram into the room of `input`, which is empty.
    pub(super) fn receive(&self, event_loop: &EventLoop, input: &mut Buffer) -> io::Result<Input> {
        // A loop may have been given a smaller buffer, and what does not fit would be lost.
        if input.capacity() < LONGEST {
            input.reserve(LONGEST);
        }
        let space = input.writable_mut();
        let (received, destination) = if self.is_at_all_addresses() {
            socket::receive_with_destination(self.fd.as_fd(), space)?
        } else {
            (socket::receive(self.fd.as_fd(), space)?, None)
        };
        match received {
            Received::WouldBlock => {
                event_loop.clear_ready(self.id, INPUT & !Readiness::ERROR);
                Ok(Input::Nothing)
            }
            Received::Datagram(n, _) if n > space.len() => {
                let message = format!("a datagram of {n} bytes was cut off at {}, and is lost", space.len());
                Err(io::Error::new(io::ErrorKind::InvalidData, message))
            }
            Received::Datagram(n, from) => match from.or(self.peer) {
                // What came between the binding and the connecting of the socket may be anybody's.
                Some(from) if self.peer.is_none_or(|peer| is_same(peer, from)) => {
                    let destination = destination.unwrap_or_else(|| self.own_destination());
                    self.delivery.set(Some(Delivery { from, destination }));
                    Ok(Input::Datagram(n, from))
                }
                _ => Ok(Input::Stranger),
            },
        }
    }

    /// Notes that the handler has returned.
    pub(super) fn end_delivery(&self) {
        self.delivery.set(None);
    }

    pub(super) fn destination(&self) -> Option<UdpDestination> {
        self.delivery.get().map(|delivery| delivery.destination)
    }

    /// The source of a datagram to `to`, if that is a reply to the one that is being delivered.
    pub(super) fn source_of_reply(&self, to: SocketAddr) -> Option<UdpSource> {
        self.delivery.get().filter(|delivery| delivery.from == to)?.destination.source()
    }

    /// Whether datagrams to any address of this machine are received, so that the kernel reports to which.
    fn is_at_all_addresses(&self) -> bool {
        self.peer.is_none() && self.local.ip().to_canonical().is_unspecified()
    }

    /// The destination of each datagram to a socket that is bound to one address.
    fn own_destination(&self) -> UdpDestination {
        UdpDestination { address: self.local.ip().to_canonical(), interface: 0, source: None }
    }

    /// Keeps word of an error for the handler, which is told in a call of its own.
    pub(super) fn report(&self, event_loop: &EventLoop, error: io::Error, peer: Option<SocketAddr>) {
        self.reports.borrow_mut().push_back((Contained::new(error), peer));
        event_loop.add_ready(self.id, Readiness::ERROR);
    }

    /// As [`report`](Core::report), of an error that belongs to no datagram: many of one kind are told as one, as the kernel
    /// does.
    pub(super) fn report_once(&self, event_loop: &EventLoop, error: io::Error) {
        let is_known = |report: &Report| report.0.raw_os_error() == error.raw_os_error();
        if !self.reports.borrow().iter().any(is_known) {
            self.report(event_loop, error, self.peer);
        }
    }

    /// What the handler is to be told now, the socket's own error included.
    pub(super) fn take_reports(&self, event_loop: &EventLoop) -> VecDeque<Report> {
        event_loop.clear_ready(self.id, Readiness::ERROR);
        let mut reports = self.reports.take();
        match crate::net::sys::stream::take_error(&self.fd) {
            Ok(None) => {}
            Ok(Some(error)) | Err(error) => reports.push_back((Contained::new(error), self.peer)),
        }
        reports
    }

    /// The only way to the end. The handler hears of it in phase 6, when no callback is under way.
    pub(super) fn close(&self, event_loop: &EventLoop, reason: CloseReason) {
        let reason = Contained::new(reason);
        if !self.open.replace(false) {
            return;
        }
        self.reason.set(Some(reason));
        // What was accepted from other threads counts as unsent, for the handler to see.
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

impl AsFd for Core {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether two addresses name one end. The scope and flow of an IPv6 address may be filled in on one side only.
fn is_same(one: SocketAddr, other: SocketAddr) -> bool {
    one.port() == other.port() && one.ip().to_canonical() == other.ip().to_canonical()
}
