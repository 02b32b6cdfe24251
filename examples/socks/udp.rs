//! A UDP relay: datagrams of one client to any destination that the rules allow, and back.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use reveille::net::{Lookup, Resolver};
use reveille::{EventLoop, UdpSocket};

use super::protocol::{Host, decode_datagram, encode_datagram};
use super::settings::Shared;

/// The maximum number of datagrams that wait for the lookup of a name. Further ones are dropped.
const LOOKUPS: usize = 16;

/// The maximum number of datagrams and of bytes that wait until a socket is writable.
const UNSENT: (usize, usize) = (64, 256 * 1024);

/// The relay of one client. It has a socket for the client, and one of each address family for the
/// destinations, which is opened by the first datagram that needs it.
pub(crate) struct Association {
    shared: Arc<Shared>,
    resolver: Resolver,
    /// Datagrams of other addresses are dropped.
    client_ip: IpAddr,
    /// The port is that of the first datagram, unless the client has stated it.
    client: Cell<Option<SocketAddr>>,
    /// Replies go through the socket for the client, and its handler refers to this.
    near: RefCell<Option<UdpSocket>>,
    far_v4: RefCell<Option<UdpSocket>>,
    far_v6: RefCell<Option<UdpSocket>>,
    lookups: RefCell<HashMap<u64, Lookup>>,
    next_lookup: Cell<u64>,
    datagrams: Cell<u64>,
}

impl Association {
    /// Opens the relay on the address `local`. Returns it with the address that the client sends
    /// to. It ends when it is dropped.
    pub(crate) fn open(
        event_loop: &EventLoop,
        shared: &Arc<Shared>,
        resolver: &Resolver,
        local: IpAddr,
        client_ip: IpAddr,
        client_port: Option<u16>,
    ) -> io::Result<(Rc<Association>, SocketAddr)> {
        let association = Rc::new(Association {
            shared: Arc::clone(shared),
            resolver: resolver.clone(),
            client_ip: client_ip.to_canonical(),
            client: Cell::new(client_port.map(|port| SocketAddr::new(client_ip, port))),
            near: RefCell::new(None),
            far_v4: RefCell::new(None),
            far_v6: RefCell::new(None),
            lookups: RefCell::default(),
            next_lookup: Cell::new(0),
            datagrams: Cell::new(0),
        });
        let weak = Rc::downgrade(&association);
        let near = UdpSocket::bind(event_loop, SocketAddr::new(local, 0))?
            .max_unsent(UNSENT.0, UNSENT.1)
            .serve_fn(move |socket, datagram, from| {
                if let Some(association) = weak.upgrade() {
                    association.forward(socket.event_loop(), datagram, from);
                }
            })?;
        let address = near.local_addr()?;
        association.near.replace(Some(near));
        Ok((association, address))
    }

    /// The number of datagrams so far, in both directions.
    pub(crate) fn datagrams(&self) -> u64 {
        self.datagrams.get()
    }

    fn forward(self: &Rc<Self>, event_loop: &EventLoop, bytes: &[u8], from: SocketAddr) {
        if from.ip().to_canonical() != self.client_ip
            || self.client.get().is_some_and(|client| client != from)
        {
            log::debug!("a datagram of {from} was dropped: it is not the client");
            return;
        }
        let Some(datagram) = decode_datagram(bytes) else {
            log::debug!("a datagram of {from} was dropped: it is a fragment or not valid");
            return;
        };
        self.client.set(Some(from));
        self.datagrams.set(self.datagrams.get() + 1);
        match datagram.host {
            Host::Address(ip) => {
                self.send(event_loop, SocketAddr::new(ip, datagram.port), datagram.payload);
            }
            Host::Name(name) => self.look_up(name, datagram.port, datagram.payload.to_vec()),
        }
    }

    fn look_up(self: &Rc<Self>, name: String, port: u16, payload: Vec<u8>) {
        if self.lookups.borrow().len() >= LOOKUPS {
            log::debug!("a datagram to {name} was dropped: too many wait for a lookup");
            return;
        }
        let id = self.next_lookup.replace(self.next_lookup.get() + 1);
        let weak = Rc::downgrade(self);
        let looked_up = self.resolver.lookup((name, port), move |event_loop, found| {
            let Some(association) = weak.upgrade() else { return };
            association.lookups.borrow_mut().remove(&id);
            match found {
                // At least one address was found.
                Ok(addresses) => association.send(event_loop, addresses[0], &payload),
                Err(error) => log::debug!("a datagram was dropped: {error}"),
            }
        });
        match looked_up {
            Ok(lookup) => _ = self.lookups.borrow_mut().insert(id, lookup),
            Err(refused) => log::debug!("a datagram was dropped: {}", refused.reason()),
        }
    }

    /// Sends a datagram to a destination, if the rules allow that.
    fn send(self: &Rc<Self>, event_loop: &EventLoop, to: SocketAddr, payload: &[u8]) {
        let to = SocketAddr::new(to.ip().to_canonical(), to.port());
        if !self.shared.settings().rules.allow(to) {
            log::info!("a datagram to {to} was dropped: denied by a rule");
            return;
        }
        let far = if to.is_ipv4() { &self.far_v4 } else { &self.far_v6 };
        if far.borrow().is_none() {
            match open_far(event_loop, to, Rc::downgrade(self)) {
                Ok(socket) => _ = far.replace(Some(socket)),
                Err(error) => return log::warn!("a datagram to {to} was dropped: {error}"),
            }
        }
        if let Some(Err(error)) = far.borrow().as_ref().map(|far| far.send_to(payload, to)) {
            log::debug!("a datagram to {to} was dropped: {error}");
        }
    }

    fn return_datagram(&self, payload: &[u8], from: SocketAddr) {
        let Some(client) = self.client.get() else { return };
        if !self.shared.settings().rules.allow(from) {
            return log::debug!("a datagram of {from} was dropped: denied by a rule");
        }
        self.datagrams.set(self.datagrams.get() + 1);
        let near = self.near.borrow();
        let bytes = encode_datagram(from, payload);
        if let Some(Err(error)) = near.as_ref().map(|near| near.send_to(bytes, client)) {
            log::debug!("a datagram of {from} was dropped: {error}");
        }
    }
}

/// Opens a socket for destinations of the family of `to`.
fn open_far(event_loop: &EventLoop, to: SocketAddr, association: Weak<Association>) -> io::Result<UdpSocket> {
    let builder = match to {
        SocketAddr::V4(_) => UdpSocket::bind(event_loop, (Ipv4Addr::UNSPECIFIED, 0))?,
        SocketAddr::V6(_) => UdpSocket::bind(event_loop, (Ipv6Addr::UNSPECIFIED, 0))?.only_v6(),
    };
    builder.max_unsent(UNSENT.0, UNSENT.1).serve_fn(move |_, payload, from| {
        if let Some(association) = association.upgrade() {
            association.return_datagram(payload, from);
        }
    })
}
