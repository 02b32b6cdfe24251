//! The driver of a UDP socket: receives datagrams and calls the handler.

use std::any::{Any, type_name};
use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

use super::core::UdpCore;
use super::endpoint::Input;
use super::handle::CloseNow;
use super::handler::DatagramHandler;
use super::udp_ref::UdpRef;
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::Contained;
use crate::event_loop::{Description, EventLoop, Source};
use crate::net::result::CloseReason;
use crate::readiness::{Interest, Readiness};

/// Limits of receiving in one turn, so that a busy socket does not starve the loop's other
/// channels.
const MAX_DATAGRAMS_PER_TURN: usize = 64;
const MAX_BYTES_PER_TURN: usize = 256 * 1024;

/// The source of a UDP socket: its core and its handler.
struct UdpDriver<H> {
    core: Rc<UdpCore>,
    handler: RefCell<Contained<H>>,
}

/// Registers a socket with the loop. It is assumed to be writable until a send would block.
pub(super) fn establish<H: DatagramHandler>(
    event_loop: &EventLoop,
    make: impl FnOnce(ChannelId) -> UdpCore,
    handler: Contained<H>,
) -> io::Result<Rc<UdpCore>> {
    let driver = event_loop.register(Interest::READABLE, |id| {
        Rc::new(UdpDriver { core: Rc::new(make(id)), handler: RefCell::new(handler) })
    })?;
    event_loop.add_ready(driver.core.id(), Readiness::WRITABLE);
    driver.core.update_wanted(event_loop);
    Ok(Rc::clone(&driver.core))
}

impl<H: DatagramHandler> UdpDriver<H> {
    fn call(&self, event_loop: &EventLoop, callback: impl FnOnce(&mut H, &UdpRef<'_>)) {
        callback(&mut self.handler.borrow_mut(), &UdpRef::new(event_loop, &self.core));
    }

    fn deliver_errors(&self, event_loop: &EventLoop) {
        for (error, peer) in self.core.take_reports(event_loop) {
            if self.core.is_open() {
                self.call(event_loop, |handler, socket| handler.on_error(socket, error.into_inner(), peer));
            }
        }
    }

    fn receive(&self, event_loop: &EventLoop) {
        let mut input = event_loop.lend_input();
        let mut bytes = 0;
        for _ in 0..MAX_DATAGRAMS_PER_TURN {
            match self.core.receive(event_loop, &mut input) {
                Ok(Input::Datagram(n, from, _)) => {
                    bytes += n;
                    let datagram = &input.writable_mut()[..n];
                    self.call(event_loop, |handler, socket| {
                        if let Err(error) = handler.on_datagram(socket, datagram, from) {
                            self.core.report(event_loop, error, Some(from));
                        }
                    });
                    self.core.end_delivery();
                }
                Ok(Input::ForeignPeer) => {}
                Ok(Input::WouldBlock) => break,
                Err(error) => self.core.report(event_loop, error, self.core.peer()),
            }
            if bytes >= MAX_BYTES_PER_TURN || !self.core.is_receiving() {
                break;
            }
        }
        event_loop.return_input(input);
    }
}

impl<H: DatagramHandler> Source for UdpDriver<H> {
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.core.as_fd())
    }

    fn describe(&self) -> Description {
        Description::of("a UDP socket").address("at", self.core.local()).handler(type_name::<H>())
    }

    /// Output first: earlier datagrams are sent before replies to new ones.
    fn on_ready(&self, event_loop: &EventLoop, ready: Readiness) {
        let core = &self.core;
        if ready.is_writable() && core.has_output() && core.flush(event_loop) && core.is_open() {
            self.call(event_loop, |handler, socket| handler.on_drained(socket));
        }
        if ready.is_error() {
            self.deliver_errors(event_loop);
        }
        if ready.is_readable() && core.is_receiving() {
            self.receive(event_loop);
        }
    }

    /// Takes datagrams of other threads from the mailbox. Those that cannot be sent at once are
    /// queued.
    fn on_notified(&self, event_loop: &EventLoop) {
        self.core.read_mailbox(event_loop);
    }

    fn on_control(&self, event_loop: &EventLoop, message: &mut dyn Any) {
        if message.is::<CloseNow>() {
            self.core.close_now(event_loop);
        }
    }

    fn on_panic(&self, event_loop: &EventLoop, _id: ChannelId) {
        self.core.close(event_loop, CloseReason::Panicked);
    }

    fn on_loop_end(&self, event_loop: &EventLoop) {
        self.core.close(event_loop, CloseReason::LoopEnded);
    }

    fn on_close(&self, event_loop: &EventLoop) {
        let reason = self.core.take_reason();
        self.call(event_loop, |handler, socket| handler.on_close(socket, &reason));
    }
}
