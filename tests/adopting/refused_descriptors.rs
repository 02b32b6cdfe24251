//! Descriptors that are of the wrong type or in the wrong state: the error returns them, and they
//! are unchanged.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::net::{TcpListener, TcpStream, UdpSocket as PlainUdp};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use crate::support::alone::{alone, alone_with_loop, skipped};
use crate::support::net;
use crate::support::unix::Folder;
use crate::support::{Recorder, turn, with_loop};
use reveille::{EventLoop, Refused, TcpConnection, TcpServer, UdpSocket};
use rustix::fs::OFlags;
use rustix::io::FdFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use socket2::{Domain, Protocol, Socket, Type};

fn flags(fd: impl AsFd) -> (OFlags, FdFlags) {
    (rustix::fs::fcntl_getfl(&fd).unwrap(), rustix::io::fcntl_getfd(&fd).unwrap())
}

type Adopt<'a> = &'a dyn Fn(OwnedFd) -> Result<(), Refused<OwnedFd, io::Error>>;

/// Checks that the descriptor is refused and comes back, with its number and its flags. It is
/// inherited by programs and blocks, unlike one that the crate has prepared.
#[track_caller]
fn assert_refused(adopt: Adopt<'_>, kind: ErrorKind, message: &str, fd: impl Into<OwnedFd>) {
    let fd = fd.into();
    rustix::io::fcntl_setfd(&fd, FdFlags::empty()).unwrap();
    let before = (fd.as_raw_fd(), flags(&fd));
    let (fd, error) = adopt(fd).expect_err(message).into_parts();
    assert_eq!((error.kind(), error.to_string().as_str()), (kind, message));
    assert_eq!((fd.as_raw_fd(), flags(&fd)), before, "{message}");
}

fn pipe() -> (OwnedFd, OwnedFd) {
    pipe_with(PipeFlags::CLOEXEC).expect("a pipe")
}

fn socket(domain: Domain, kind: Type) -> Socket {
    Socket::new(domain, kind, None).expect("a socket")
}

/// A connection that its peer has reset.
fn reset_connection() -> TcpStream {
    let (client, server) = tcp_pair();
    net::reset(client);
    // The error of the reset is taken by the read, so only the state is left.
    net::read_until_reset(&mut { server.try_clone().unwrap() });
    server
}

fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = net::connect(listener.local_addr().unwrap());
    (client, listener.accept().unwrap().0)
}

const NO_SOCKET: &str = "the descriptor is not a socket";
const NO_STREAM: &str = "the socket is not a stream socket";

/// Sockets that are no stream sockets are refused in both roles.
#[track_caller]
fn assert_refuses_other_sockets(adopt: Adopt<'_>) {
    assert_refused(adopt, ErrorKind::InvalidInput, NO_STREAM, PlainUdp::bind("127.0.0.1:0").unwrap());
    assert_refused(adopt, ErrorKind::InvalidInput, NO_STREAM, UnixDatagram::unbound().unwrap());
    assert_refused(adopt, ErrorKind::InvalidInput, NO_STREAM, socket(Domain::UNIX, Type::SEQPACKET));
}

#[test]
fn a_refused_listener_comes_back_unchanged() {
    alone_with_loop(|event_loop| {
        let adopt: Adopt<'_> = &|fd| TcpServer::from_listener(event_loop, fd).map(drop);
        assert_refuses_other_sockets(adopt);
        let (reader, writer) = pipe();
        assert_refused(adopt, ErrorKind::InvalidInput, NO_SOCKET, reader);
        assert_refused(adopt, ErrorKind::InvalidInput, NO_SOCKET, writer);
        assert_refused(adopt, ErrorKind::InvalidInput, NO_SOCKET, File::open("/proc/self/exe").unwrap());
        assert_refused(adopt, ErrorKind::InvalidInput, NO_SOCKET, File::open("/dev/null").unwrap());
        let message = "the socket does not listen";
        let bound = socket(Domain::IPV4, Type::STREAM);
        bound.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        assert_refused(adopt, ErrorKind::InvalidInput, message, bound);
        assert_refused(adopt, ErrorKind::InvalidInput, message, tcp_pair().0);
        assert_refused(adopt, ErrorKind::InvalidInput, message, UnixStream::pair().unwrap().0);
    });
}

#[test]
fn a_refused_connection_comes_back_unchanged() {
    alone_with_loop(|event_loop| {
        let adopt: Adopt<'_> = &|fd| {
            let never = |_: &TcpConnection<'_>| -> net::Script { panic!("the factory was called") };
            let refused = TcpConnection::adopt(event_loop, fd, never).map(drop);
            turn(event_loop);
            refused
        };
        assert_refuses_other_sockets(adopt);
        let message = "the socket listens, and is not a connection";
        assert_refused(adopt, ErrorKind::InvalidInput, message, TcpListener::bind("127.0.0.1:0").unwrap());
        let folder = Folder::new();
        let unix = UnixListener::bind(folder.path("listener")).unwrap();
        assert_refused(adopt, ErrorKind::InvalidInput, message, unix);
        let message = "the socket is not connected";
        assert_refused(adopt, ErrorKind::NotConnected, message, socket(Domain::IPV6, Type::STREAM));
        assert_refused(adopt, ErrorKind::NotConnected, message, socket(Domain::UNIX, Type::STREAM));
        assert_refused(adopt, ErrorKind::NotConnected, message, reset_connection());
        // Only its state is wrong, not its family.
        match Socket::new(Domain::VSOCK, Type::STREAM, None) {
            Ok(vsock) => assert_refused(adopt, ErrorKind::NotConnected, message, vsock),
            Err(error) => skipped(format_args!("a vsock: {error}")),
        }
    });
}

#[test]
fn a_refused_udp_socket_comes_back_unchanged() {
    alone_with_loop(|event_loop| {
        let adopt: Adopt<'_> = &|fd| UdpSocket::from_socket(event_loop, fd).map(drop);
        assert_refused(adopt, ErrorKind::InvalidInput, NO_SOCKET, pipe().0);
        let message = "the socket is not a datagram socket";
        assert_refused(adopt, ErrorKind::InvalidInput, message, TcpListener::bind("127.0.0.1:0").unwrap());
        assert_refused(adopt, ErrorKind::InvalidInput, message, UnixStream::pair().unwrap().0);
        let message = "the socket is not a UDP socket";
        assert_refused(adopt, ErrorKind::InvalidInput, message, UnixDatagram::pair().unwrap().0);
        let message = "the socket is not bound";
        assert_refused(adopt, ErrorKind::InvalidInput, message, socket(Domain::IPV4, Type::DGRAM));
    });
}

#[test]
fn a_stream_socket_of_another_protocol_is_refused() {
    with_loop(|event_loop| {
        let Ok(sctp) = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::from(132))) else {
            return; // The kernel has no SCTP.
        };
        let refused = TcpServer::from_listener(event_loop, OwnedFd::from(sctp)).map(drop);
        let message = refused.expect_err("SCTP").to_string();
        assert_eq!(message, "the socket is neither a TCP nor a Unix socket");
    });
}

#[test]
fn a_loop_that_is_dropped_returns_the_socket_unchanged() {
    alone(|| {
        let (_first, first) = UnixStream::pair().unwrap();
        let (_second, second) = UnixStream::pair().unwrap();
        let event_loop = EventLoop::builder().propagate_panics().build().unwrap();
        let before = flags(&second);
        let (mut second, refusals) = (Some(second), Recorder::new());
        let recorder = refusals.clone();
        let closing = net::Journal::new().script().on_close(move |conn, _| {
            let second = second.take().expect("one call");
            let adopted = TcpConnection::adopt(conn.event_loop(), second, |_| net::Journal::new().script());
            let (second, error) = adopted.expect_err("the loop is being dropped").into_parts();
            assert_eq!(error.to_string(), "the event loop is being dropped");
            assert_eq!(flags(&second), before);
            recorder.record("refused");
        });
        TcpConnection::adopt(&event_loop, first, |_| closing).unwrap();
        turn(&event_loop);
        drop(event_loop);
        assert_eq!(refusals.take(), ["refused"]);
    });
}
