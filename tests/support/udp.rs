//! For the tests of datagram sockets: sockets of the test's own, and a handler that writes down
//! what it is told.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket as Plain};

use reveille::net::{CloseReason, DatagramHandler, UdpRef};
use reveille::{EventLoop, UdpSocket};

use super::{Recorder, net, turn};

/// A socket of the test's own, which never hangs.
pub(crate) fn plain() -> Plain {
    plain_at("127.0.0.1:0")
}

pub(crate) fn plain_at(address: &str) -> Plain {
    let socket = Plain::bind(address).expect("a socket");
    socket.set_read_timeout(Some(net::LIMIT)).expect("a timeout");
    socket
}

pub(crate) fn address(socket: &Plain) -> SocketAddr {
    socket.local_addr().expect("an address")
}

pub(crate) fn receive(socket: &Plain) -> Vec<u8> {
    let mut bytes = vec![0; 70_000];
    let n = socket.recv(&mut bytes).expect("a datagram");
    bytes.truncate(n);
    bytes
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Datagram(Vec<u8>),
    Error(ErrorKind, Option<SocketAddr>),
    Drained,
    Close(String),
}

pub(crate) fn datagram(text: impl AsRef<[u8]>) -> Told {
    Told::Datagram(text.as_ref().to_vec())
}

type OnDatagram = Box<dyn FnMut(&UdpRef<'_>, &[u8], SocketAddr) -> io::Result<()>>;

/// A handler that writes down what it is told.
pub(crate) struct Script {
    told: Recorder<Told>,
    on_datagram: OnDatagram,
}

impl Script {
    pub(crate) fn new(told: &Recorder<Told>) -> Script {
        Script { told: told.clone(), on_datagram: Box::new(|_, _, _| Ok(())) }
    }

    pub(crate) fn on_datagram(
        mut self,
        call: impl FnMut(&UdpRef<'_>, &[u8], SocketAddr) -> io::Result<()> + 'static,
    ) -> Script {
        self.on_datagram = Box::new(call);
        self
    }
}

impl DatagramHandler for Script {
    fn on_datagram(&mut self, socket: &UdpRef<'_>, bytes: &[u8], from: SocketAddr) -> io::Result<()> {
        self.told.record(datagram(bytes));
        (self.on_datagram)(socket, bytes, from)
    }

    fn on_error(&mut self, _: &UdpRef<'_>, error: io::Error, peer: Option<SocketAddr>) {
        self.told.record(Told::Error(error.kind(), peer));
    }

    fn on_drained(&mut self, _: &UdpRef<'_>) {
        self.told.record(Told::Drained);
    }

    fn on_close(&mut self, _: &UdpRef<'_>, reason: &CloseReason) {
        self.told.record(Told::Close(reason.to_string()));
    }
}

/// A socket, and what its handler is told.
pub(crate) fn recording(event_loop: &EventLoop) -> (UdpSocket, Recorder<Told>) {
    let told = Recorder::new();
    let builder = UdpSocket::bind(event_loop, "127.0.0.1:0").unwrap();
    (builder.serve(Script::new(&told)).unwrap(), told)
}

/// Turns the loop until so much has been told, and answers it.
#[track_caller]
pub(crate) fn told_in_time(event_loop: &EventLoop, told: &Recorder<Told>, n: usize) -> Vec<Told> {
    net::turn_until(event_loop, || told.len() >= n);
    turn(event_loop);
    told.take()
}
