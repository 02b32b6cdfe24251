//! For the tests of linked connections: a server that relays, and peers at either side.

use std::cell::RefCell;
use std::net::{SocketAddr, TcpListener, TcpStream};

use reveille::net::ConnectionLimits;
use reveille::{ConnectionHandle, EventLoop, TcpClient, TcpServer};

use super::MIB;
use super::net::{self, Host, Journal, Script};

pub(crate) const HIGH: usize = MIB;

thread_local! {
    /// The clients of a relay's thread, which must outlive the connections that made them.
    pub(crate) static CLIENTS: RefCell<Vec<TcpClient>> = const { RefCell::new(Vec::new()) };

    /// The handles of the connections that a relay's server has.
    pub(crate) static FRONTS: RefCell<Vec<ConnectionHandle>> = const { RefCell::new(Vec::new()) };
}

/// A server that links each connection with one of its own to `target`. Its journals are those of
/// the two sides.
pub(crate) fn relay(
    target: SocketAddr,
    front: impl Fn(Script) -> Script + Send + 'static,
) -> (Host, Journal, Journal) {
    relay_with(target, front, |script| script)
}

/// The same, of connections to `target` that follow a script as well.
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
                    let back = back.take().expect("one opening");
                    connect(conn.event_loop(), target, conn.handle(), back);
                });
                front(script)
            })
    });
    (host, front_journal, back_journal)
}

pub(crate) fn connect(event_loop: &EventLoop, target: SocketAddr, front: ConnectionHandle, back: Script) {
    let back = RefCell::new(Some(back));
    let client = TcpClient::connect(event_loop, target)
        .limits(ConnectionLimits::new().water_marks(HIGH, HIGH / 4))
        .on_failure(|_, error| panic!("{error}"))
        .serve(move |_| {
            let front = front.clone();
            back.take().expect("one session").on_open(move |conn| conn.relay_to(&front))
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

/// A relay, and a peer at either side of one link.
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
        // That the link is there is seen by bytes that have come through it.
        assert_eq!(net::exchange_between(&mut client, &mut server, b"before"), b"before");
        Linked { host, fronts, backs, client, server }
    }
}
