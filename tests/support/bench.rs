//! A server on a loop of this thread, and clients of the same thread. While a client waits, the
//! loop turns, so a test controls what happens in which order.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::rc::Rc;

use reveille::net::TcpServerBuilder;
use reveille::time::VirtualClock;
use reveille::{ConnectionHandle, ConnectionHandler, EventLoop, EventLoopBuilder, TcpConnection, TcpServer};

use super::net::{self, End, Journal, Script};
use super::{LIMIT, turn, with_watchdog};

pub(crate) struct Bench {
    pub(crate) event_loop: EventLoop,
    pub(crate) server: TcpServer,
    handles: Rc<RefCell<Vec<ConnectionHandle>>>,
}

/// Runs `test` with a builder of a loop with a virtual clock, under a watchdog.
#[track_caller]
pub(crate) fn with_virtual_time(test: impl FnOnce(EventLoopBuilder, VirtualClock) + Send + 'static) {
    with_watchdog(LIMIT, || {
        let clock = VirtualClock::new();
        test(EventLoop::builder().propagate_panics().virtual_clock(clock.clone()), clock);
    });
}

pub(crate) fn defaults(builder: TcpServerBuilder<'_>) -> TcpServerBuilder<'_> {
    builder
}

impl Bench {
    /// A bench whose connections get handlers from `factory`.
    #[track_caller]
    pub(crate) fn new<H: ConnectionHandler>(
        builder: EventLoopBuilder,
        settings: impl for<'a> FnOnce(TcpServerBuilder<'a>) -> TcpServerBuilder<'a>,
        mut factory: impl FnMut(&TcpConnection<'_>) -> H + 'static,
    ) -> Bench {
        let event_loop = builder.build().expect("a loop");
        let handles = Rc::new(RefCell::new(Vec::new()));
        let created = Rc::clone(&handles);
        let server =
            settings(TcpServer::bind(&event_loop, "127.0.0.1:0").expect("a port")).serve(move |conn| {
                created.borrow_mut().push(conn.handle());
                factory(conn)
            });
        Bench { server: server.expect("a server"), event_loop, handles }
    }

    /// A bench with scripted connections, whose assertions fail the test.
    #[track_caller]
    pub(crate) fn scripted(script: impl Fn(Script) -> Script + 'static) -> (Bench, Journal) {
        Bench::scripted_on(EventLoop::builder().propagate_panics(), defaults, script)
    }

    #[track_caller]
    pub(crate) fn scripted_on(
        builder: EventLoopBuilder,
        settings: impl for<'a> FnOnce(TcpServerBuilder<'a>) -> TcpServerBuilder<'a>,
        script: impl Fn(Script) -> Script + 'static,
    ) -> (Bench, Journal) {
        let journal = Journal::new();
        let written = journal.clone();
        (Bench::new(builder, settings, move |_| script(written.script())), journal)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.local_addr().expect("an address")
    }

    /// Connects a client, and turns until its connection is open.
    #[track_caller]
    pub(crate) fn connect(&self) -> TcpStream {
        self.open(net::connect)
    }

    /// Same as [`connect`](Bench::connect), with a small receive buffer.
    #[track_caller]
    pub(crate) fn connect_slow_reader(&self) -> TcpStream {
        self.open(net::connect_with_small_receive_buffer)
    }

    #[track_caller]
    fn open(&self, connect: fn(SocketAddr) -> TcpStream) -> TcpStream {
        let before = self.handles.borrow().len();
        let client = connect(self.address());
        self.until(|| self.handles.borrow().len() > before);
        client
    }

    /// The handle of the connection that was opened as the number `number`, from 0.
    #[track_caller]
    pub(crate) fn handle(&self, number: usize) -> ConnectionHandle {
        self.handles.borrow()[number].clone()
    }

    /// Turns the loop until `done` returns true.
    #[track_caller]
    pub(crate) fn until(&self, done: impl FnMut() -> bool) {
        net::turn_until(&self.event_loop, done);
    }

    /// Turns the loop often enough for all work that does not wait for a peer or for time.
    pub(crate) fn settle(&self) {
        (0..10).for_each(|_| turn(&self.event_loop));
    }

    /// Turns the loop until the connection is closed, and returns the reason.
    #[track_caller]
    pub(crate) fn end(&self, journal: &Journal, number: usize) -> End {
        self.until(|| super::endings::is_closed(journal, number));
        journal.end_of(number)
    }

    /// Reads `n` bytes while the loop turns.
    #[track_caller]
    pub(crate) fn read_exact(&self, client: &mut TcpStream, n: usize) -> Vec<u8> {
        let mut bytes = vec![0; n];
        let mut filled = 0;
        self.until(|| {
            while filled < n {
                match read_some(client, &mut bytes[filled..]) {
                    None => break,
                    Some(Ok(0)) => panic!("a FIN after {:?}", String::from_utf8_lossy(&bytes[..filled])),
                    Some(Ok(more)) => filled += more,
                    Some(Err(error)) => panic!("{error} after {filled} bytes"),
                }
            }
            filled == n
        });
        bytes
    }

    /// Reads until the end while the loop turns. The second value is how it ended.
    #[track_caller]
    pub(crate) fn read_all(&self, client: &mut TcpStream) -> (Vec<u8>, Ended) {
        let mut bytes = Vec::new();
        let mut piece = vec![0; 64 << 10];
        let mut ended = None;
        self.until(|| {
            while ended.is_none() {
                match read_some(client, &mut piece) {
                    None => break,
                    Some(Ok(0)) => ended = Some(Ended::Fin),
                    Some(Ok(n)) => bytes.extend_from_slice(&piece[..n]),
                    Some(Err(error)) => {
                        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
                        ended = Some(Ended::Reset);
                    }
                }
            }
            ended.is_some()
        });
        (bytes, ended.expect("an end"))
    }

    /// Reads until the FIN while the loop turns.
    #[track_caller]
    pub(crate) fn read_to_fin(&self, client: &mut TcpStream) -> Vec<u8> {
        let (bytes, ended) = self.read_all(client);
        assert_eq!(ended, Ended::Fin);
        bytes
    }

    /// Sends bytes, and turns until the server has taken them from its socket.
    #[track_caller]
    pub(crate) fn send(&self, client: &mut TcpStream, bytes: impl AsRef<[u8]>) {
        client.write_all(bytes.as_ref()).expect("a connection");
        let (from, to) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        self.until(|| net::queues(to, Some(from)).is_none_or(|queues| queues.unread == 0));
        self.settle();
    }

    /// Sends a FIN, and turns until the server has noticed it.
    #[track_caller]
    pub(crate) fn finish(&self, client: &TcpStream) {
        client.shutdown(Shutdown::Write).expect("a connection");
        self.settle();
    }
}

/// How the peer's input has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    Fin,
    Reset,
}

/// Reads without blocking. `None`: nothing has arrived.
fn read_some(client: &mut TcpStream, into: &mut [u8]) -> Option<io::Result<usize>> {
    client.set_nonblocking(true).expect("a socket");
    let read = client.read(into);
    client.set_nonblocking(false).expect("a socket");
    match read {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        read => Some(read),
    }
}
