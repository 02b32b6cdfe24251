//! For the tests of clients: the reports of a client, and addresses that refuse connections or do
//! not reply.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use reveille::net::{Address, Backoff, ConnectAttempt, ConnectError, TcpClientBuilder};
use reveille::{EventLoop, TcpServer};
use socket2::{Domain, Socket, Type};

use super::Recorder;

/// A timeout that no attempt reaches.
pub(crate) const LONG_TIMEOUT: Duration = Duration::from_secs(30);

/// A report of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reported {
    Connected(SocketAddr),
    Failed(Option<SocketAddr>, ErrorKind),
    /// The error kind, the number of rounds, and the number of failures in the last round.
    RetriesExhausted(ErrorKind, u32, usize),
}

pub(crate) type Reports = Recorder<Reported>;

/// Configures a client so that all its reports are recorded.
pub(crate) trait Reporting {
    fn reporting(self, reports: &Reports) -> Self;
}

impl Reporting for TcpClientBuilder<'_> {
    fn reporting(self, reports: &Reports) -> Self {
        let (attempts, failures) = (reports.clone(), reports.clone());
        self.on_attempt(move |_, attempt| attempts.record(attempt.into()))
            .on_failure(move |_, error| failures.record((&error).into()))
    }
}

impl From<&ConnectAttempt<'_>> for Reported {
    fn from(attempt: &ConnectAttempt<'_>) -> Reported {
        let address = attempt.address.and_then(Address::as_inet);
        match attempt.result {
            Ok(()) => Reported::Connected(address.expect("a successful attempt has an address")),
            Err(error) => Reported::Failed(address, error.kind()),
        }
    }
}

impl From<&ConnectError> for Reported {
    fn from(error: &ConnectError) -> Reported {
        Reported::RetriesExhausted(error.kind(), error.rounds(), error.failures().len())
    }
}

/// A back-off with the shortest delays.
pub(crate) fn backoff() -> Backoff {
    Backoff::new().start(Duration::from_millis(1)).cap(Duration::from_millis(2))
}

pub(crate) fn echo_server(event_loop: &EventLoop, address: SocketAddr) -> TcpServer {
    TcpServer::bind(event_loop, address).unwrap().serve_fn(|conn, input| conn.send(input.take_all())).unwrap()
}

pub(crate) fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn bind_any_port() -> Socket {
    // The servers of other tests use another address, so none of them can get the same port.
    let address: SocketAddr = "127.0.0.76:0".parse().unwrap();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket
}

fn address_of(socket: &Socket) -> SocketAddr {
    socket.local_addr().unwrap().as_socket().unwrap()
}

/// An address that refuses connections, unless a server of the test listens on it. It is reserved
/// until this is dropped.
///
/// The socket is bound and never listens. The kernel does not assign its port to a socket that
/// binds port 0. A socket that binds this port can listen if it sets SO_REUSEADDR as well.
pub(crate) struct Refusing(Socket);

impl Refusing {
    pub(crate) fn new() -> Refusing {
        Refusing(bind_any_port())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        address_of(&self.0)
    }

    #[track_caller]
    pub(crate) fn assert_refuses(&self) {
        let error = TcpStream::connect(self.address()).expect_err("the connection was accepted");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
}

/// A listener with a full backlog. Further connection attempts get no reply.
pub(crate) struct FullBacklog {
    listener: Socket,
    clients: Vec<Socket>,
}

impl FullBacklog {
    pub(crate) fn new() -> FullBacklog {
        let listener = bind_any_port();
        listener.listen(0).unwrap();
        let address = address_of(&listener);
        // The backlog holds one connection. The other clients make sure that it is full.
        let clients = (0..5).map(|_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).unwrap();
            let _ = socket.connect(&address.into());
            socket
        });
        let clients = clients.collect();
        FullBacklog { listener, clients }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        address_of(&self.listener)
    }

    /// The listener, which accepts connections from now on. The kernel repeats earlier requests.
    pub(crate) fn into_accepting(self) -> Socket {
        drop(self.clients);
        self.listener.listen(128).unwrap();
        self.listener
    }

    /// The number of clients that the kernel has connected and that wait to be accepted.
    pub(crate) fn waiting(&self) -> usize {
        self.clients.iter().filter(|socket| socket.peer_addr().is_ok()).count()
    }
}

/// The number of channels of a loop, its own included.
pub(crate) fn channels(event_loop: &EventLoop) -> usize {
    let shown = format!("{event_loop:?}");
    let (_, channels) = shown.split_once("channels: ").expect("how many there are");
    channels.split(',').next().and_then(|number| number.parse().ok()).expect("a number")
}

/// The number of lookups in progress in this process, including those of other tests.
pub(crate) fn lookups() -> usize {
    let threads = std::fs::read_dir("/proc/self/task").expect("procfs").filter_map(Result::ok);
    threads
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("comm")).ok())
        .filter(|name| name.trim_end() == "reveille-lookup")
        .count()
}

/// Turns the loop until it is idle: no work is pending and no lookup is in progress. Checks that no
/// timer is armed.
#[track_caller]
pub(crate) fn turn_until_idle(event_loop: &EventLoop) {
    while lookups() > 0 {
        super::turn(event_loop);
        thread::yield_now();
    }
    for _ in 0..5 {
        super::turn(event_loop);
    }
    assert_eq!(event_loop.next_deadline(), None, "a timer is still armed");
}
