//! For the tests of linked connections: a relaying server, and a peer on each side.

use std::cell::RefCell;
use std::net::{SocketAddr, TcpListener, TcpStream};

use reveille::net::ConnectionLimits;
use reveille::{ConnectionHandle, EventLoop, TcpClient, TcpServer};

use super::MIB;
use super::net::{self, Host, Journal, Script};

pub(crate) const HIGH: usize = MIB;

thread_local! {
    /// The clients on a relay's thread. They must outlive the connections that created them.
    pub(crate) static CLIENTS: RefCell<Vec<TcpClient>> = const { RefCell::new(Vec::new()) };

    /// The handles of the connections of a relay's server.
    pub(crate) static FRONTS: RefCell<Vec<ConnectionHandle>> = const { RefCell::new(Vec::new()) };
}

/// Starts a server that links each connection with a new connection to `target`. Returns it with
/// the journals of the accepted connections and of the connections to `target`.
pub(crate) fn relay(
    target: SocketAddr,
    front: impl Fn(Script) -> Script + Send + 'static,
) -> (Host, Journal, Journal) {
    relay_with(target, front, |script| script)
}

/// Same as [`relay`], with a script for the connections to `target`.
pub(crate) fn relay_with(
    target: SocketAddr,
    front: impl Fn(Script) -> Script + Send + 'static,
    back: impl Fn(Script) -> Script + Send + 'static,
) -> (Host, Journal, Journal) {
    let (front_journal, back_journal) = (Journal::new(), Journal::new());
    let (fronts, backs) = (front_journal.clone(), back_journal.clone());
    let host = Host::new(move |event_loop| {
        TcpServer::bind(event_loop, "127.0.0.1:0")?
            .limits(ConnectionLimits::new().water_marks(HIGH, HIGH / 4))
            .serve(move |_| {
                let back = RefCell::new(Some(back(backs.script())));
                let script = fronts.script().terse().on_open(move |conn| {
                    conn.pause_reading();
                    FRONTS.with_borrow_mut(|fronts| fronts.push(conn.handle()));
                    let back = back.take().expect("on_open was called twice");
                    connect(conn.event_loop(), target, conn.handle(), back);
                });
                front(script)
            })
    });
    (host, front_journal, back_journal)
}

/// Connects to `target` and relays between that connection and `front`.
pub(crate) fn connect(event_loop: &EventLoop, target: SocketAddr, front: ConnectionHandle, back: Script) {
    let back = RefCell::new(Some(back));
    let client = TcpClient::connect(event_loop, target)
        .limits(ConnectionLimits::new().water_marks(HIGH, HIGH / 4))
        .on_failure(|_, error| panic!("{error}"))
        .serve(move |_| {
            let front = front.clone();
            back.take().expect("the client connected twice").on_open(move |conn| conn.relay_to(&front))
        });
    CLIENTS.with_borrow_mut(|clients| clients.push(client.unwrap()));
}

pub(crate) fn backend() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

pub(crate) fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(net::LIMIT)).unwrap();
    stream.set_write_timeout(Some(net::LIMIT)).unwrap();
    stream
}

/// A relay, and a peer on each side of one link.
pub(crate) struct Linked {
    pub(crate) host: Host,
    pub(crate) fronts: Journal,
    pub(crate) backs: Journal,
    pub(crate) client: TcpStream,
    pub(crate) server: TcpStream,
}

impl Linked {
    pub(crate) fn new() -> Linked {
        let (listener, target) = backend();
        let (host, fronts, backs) = relay(target, |script| script);
        let (mut client, mut server) = (host.connect(), accept(&listener));
        // The link is established when bytes have passed through it.
        assert_eq!(net::exchange_between(&mut client, &mut server, b"before"), b"before");
        Linked { host, fronts, backs, client, server }
    }
}
