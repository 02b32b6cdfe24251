//! For the tests of clients: what they report, and peers that refuse or keep silent.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use reveille::net::{Address, Backoff, ConnectAttempt, ConnectError, TcpClientBuilder};
use reveille::{EventLoop, TcpServer};
use socket2::{Domain, Socket, Type};

use super::Recorder;

/// More than any attempt needs.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// What a client has reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reported {
    Connected(SocketAddr),
    Failed(Option<SocketAddr>, ErrorKind),
    /// After so many rounds, with so many failures in the last.
    GaveUp(ErrorKind, u32, usize),
}

pub(crate) type Reports = Recorder<Reported>;

/// Has a client write down all that it reports.
pub(crate) trait Reporting {
    fn reporting(self, to: &Reports) -> Self;
}

impl Reporting for TcpClientBuilder<'_> {
    fn reporting(self, to: &Reports) -> Self {
        let (attempts, failures) = (to.clone(), to.clone());
        self.on_attempt(move |_, attempt| attempts.record(attempt.into()))
            .on_failure(move |_, error| failures.record((&error).into()))
    }
}

impl From<&ConnectAttempt<'_>> for Reported {
    fn from(attempt: &ConnectAttempt<'_>) -> Reported {
        let address = attempt.address.and_then(Address::as_inet);
        match attempt.result {
            Ok(()) => Reported::Connected(address.expect("what it is connected to")),
            Err(error) => Reported::Failed(address, error.kind()),
        }
    }
}

impl From<&ConnectError> for Reported {
    fn from(error: &ConnectError) -> Reported {
        Reported::GaveUp(error.kind(), error.rounds(), error.failures().len())
    }
}

/// Hardly any time between attempts.
pub(crate) fn backoff() -> Backoff {
    Backoff::new().start(Duration::from_millis(1)).cap(Duration::from_millis(2))
}

pub(crate) fn echo_server(event_loop: &EventLoop, address: SocketAddr) -> TcpServer {
    TcpServer::bind(event_loop, address).unwrap().serve_fn(|conn, input| conn.send(input.take_all())).unwrap()
}

pub(crate) fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn any_port() -> Socket {
    // Another address than that of the other tests' servers, so that none of these is given its
    // port meanwhile.
    let address: SocketAddr = "127.0.0.76:0".parse().unwrap();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket
}

fn address_of(socket: &Socket) -> SocketAddr {
    socket.local_addr().unwrap().as_socket().unwrap()
}

/// An address that belongs to the test while this lives, and refuses connections unless a server of
/// the test listens there. The socket is bound and never listens. The kernel gives its port to no
/// other socket that takes any port, and since it sets SO_REUSEADDR, one that names the port and
/// sets it too can listen.
pub(crate) struct Refusing(Socket);

impl Refusing {
    pub(crate) fn new() -> Refusing {
        Refusing(any_port())
    }

    pub(crate) fn address(&self) -> SocketAddr {
        address_of(&self.0)
    }

    #[track_caller]
    pub(crate) fn assert_refuses(&self) {
        let refused = TcpStream::connect(self.address()).expect_err("a refusal");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    }
}

/// A listener that has no room for another connection, so that whoever calls gets no answer.
pub(crate) struct Silent {
    listener: Socket,
    waiting: Vec<Socket>,
}

impl Silent {
    pub(crate) fn new() -> Silent {
        let listener = any_port();
        listener.listen(0).unwrap();
        let address = address_of(&listener);
        // The first of them takes all the room there is, and some more make sure of it.
        let waiting = (0..5).map(|_| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).unwrap();
            let _ = socket.connect(&address.into());
            socket
        });
        let waiting = waiting.collect();
        Silent { listener, waiting }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        address_of(&self.listener)
    }

    /// How many wait whose connections are made as far as the kernel is concerned.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.iter().filter(|socket| socket.peer_addr().is_ok()).count()
    }
}

/// How many lookups are under way in this process, whosever they are.
pub(crate) fn lookups() -> usize {
    let threads = std::fs::read_dir("/proc/self/task").expect("procfs").filter_map(Result::ok);
    threads
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("comm")).ok())
        .filter(|name| name.trim_end() == "reveille-lookup")
        .count()
}

/// Turns the loop until it has nothing to do: nothing waits, no timer is armed, and no lookup is
/// under way.
#[track_caller]
pub(crate) fn turn_to_rest(event_loop: &EventLoop) {
    while lookups() > 0 {
        super::turn(event_loop);
        thread::yield_now();
    }
    for _ in 0..5 {
        super::turn(event_loop);
    }
    assert_eq!(event_loop.next_deadline(), None, "a timer is left");
}
