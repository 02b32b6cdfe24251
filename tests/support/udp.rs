//! For the tests of datagram sockets: sockets of the standard library, and a handler that records
//! its calls.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket as Plain};

use reveille::net::{CloseReason, DatagramHandler, UdpRef};
use reveille::{EventLoop, UdpSocket};

use super::{Recorder, net, turn};

/// A socket of the standard library whose receive calls fail after a time limit.
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

/// One call of a handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HandlerCall {
    Datagram(Vec<u8>),
    Error(ErrorKind, Option<SocketAddr>),
    Drained,
    Close(String),
}

pub(crate) fn datagram(text: impl AsRef<[u8]>) -> HandlerCall {
    HandlerCall::Datagram(text.as_ref().to_vec())
}

type OnDatagram = Box<dyn FnMut(&UdpRef<'_>, &[u8], SocketAddr) -> io::Result<()>>;

/// A handler that records its calls and then runs a closure for each datagram.
pub(crate) struct Script {
    calls: Recorder<HandlerCall>,
    on_datagram: OnDatagram,
}

impl Script {
    pub(crate) fn new(calls: &Recorder<HandlerCall>) -> Script {
        Script { calls: calls.clone(), on_datagram: Box::new(|_, _, _| Ok(())) }
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
        self.calls.record(datagram(bytes));
        (self.on_datagram)(socket, bytes, from)
    }

    fn on_error(&mut self, _: &UdpRef<'_>, error: io::Error, peer: Option<SocketAddr>) {
        self.calls.record(HandlerCall::Error(error.kind(), peer));
    }

    fn on_drained(&mut self, _: &UdpRef<'_>) {
        self.calls.record(HandlerCall::Drained);
    }

    fn on_close(&mut self, _: &UdpRef<'_>, reason: &CloseReason) {
        self.calls.record(HandlerCall::Close(reason.to_string()));
    }
}

/// A socket, and the calls of its handler.
pub(crate) fn recording(event_loop: &EventLoop) -> (UdpSocket, Recorder<HandlerCall>) {
    let calls = Recorder::new();
    let builder = UdpSocket::bind(event_loop, "127.0.0.1:0").unwrap();
    (builder.serve(Script::new(&calls)).unwrap(), calls)
}

/// Turns the loop until the handler has had `n` calls, and one more time to detect superfluous
/// calls. Returns all calls.
#[track_caller]
pub(crate) fn wait_for_calls(
    event_loop: &EventLoop,
    calls: &Recorder<HandlerCall>,
    n: usize,
) -> Vec<HandlerCall> {
    net::turn_until(event_loop, || calls.len() >= n);
    turn(event_loop);
    calls.take()
}
