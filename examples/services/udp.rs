//! The services over UDP: at most one reply for each datagram.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use reveille::net::{DatagramHandler, UdpRef};
use reveille::{EventLoop, UdpSocket};

use super::guard::Guard;
use super::replies;
use super::service::Service;
use super::totals::{Totals, add};

/// The replies that wait for the kernel. Further ones are dropped.
const MAX_QUEUED: usize = 64;
const MAX_QUEUED_BYTES: usize = 1 << 20;

/// Serves one service on `address`.
pub(crate) fn serve(
    event_loop: &EventLoop,
    service: Service,
    address: SocketAddr,
    totals: &Rc<Totals>,
    guard: &Rc<RefCell<Guard>>,
) -> io::Result<UdpSocket> {
    let handler = Datagrams { service, totals: Rc::clone(totals), guard: Rc::clone(guard) };
    let socket = UdpSocket::bind(event_loop, address)?;
    let socket = socket.max_unsent(MAX_QUEUED, MAX_QUEUED_BYTES).serve(handler)?;
    guard.borrow_mut().add_own_port(socket.local_addr()?.port());
    Ok(socket)
}

/// Errors are logged and never close the socket.
struct Datagrams {
    service: Service,
    totals: Rc<Totals>,
    guard: Rc<RefCell<Guard>>,
}

impl DatagramHandler for Datagrams {
    fn on_datagram(&mut self, socket: &UdpRef, datagram: &[u8], from: SocketAddr) -> io::Result<()> {
        add(&self.totals.datagrams, 1);
        let reply: Cow<[u8]> = match self.service {
            Service::Discard => {
                add(&self.totals.discarded, datagram.len());
                return Ok(());
            }
            Service::Echo => datagram.into(),
            Service::Daytime => replies::daytime().into(),
            Service::Qotd => replies::quote().into(),
            Service::Chargen => replies::chargen().into(),
            Service::Time => replies::time().into(),
        };
        let now = socket.event_loop().now();
        match self.guard.borrow_mut().admit(now, from.port(), datagram.len(), reply.len()) {
            Ok(()) => _ = socket.send_to(reply, from)?,
            Err(refusal) => {
                add(&self.totals.refused, 1);
                log::debug!("{}: no reply to {from}: {refusal:?}", self.service);
            }
        }
        Ok(())
    }
}
