//! The sockets of the clients.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

/// The timeout of each read and write. A server that takes longer has stalled.
const LIMIT: Duration = Duration::from_secs(60);

pub(super) fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    connect_with(address, |_| Ok(()))
}

/// Connects a socket with a small receive buffer, so that back-pressure reaches the server early.
pub(super) fn connect_with_small_buffer(address: SocketAddr) -> Result<TcpStream, String> {
    connect_with(address, |socket| socket.set_recv_buffer_size(4096))
}

fn connect_with(
    address: SocketAddr,
    prepare: impl FnOnce(&Socket) -> io::Result<()>,
) -> Result<TcpStream, String> {
    let connect = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        prepare(&socket)?;
        socket.set_read_timeout(Some(LIMIT))?;
        socket.set_write_timeout(Some(LIMIT))?;
        socket.connect(&address.into())?;
        io::Result::Ok(TcpStream::from(socket))
    };
    connect().map_err(describe("connect"))
}

pub(super) fn connect_unix(abstract_name: &str) -> Result<UnixStream, String> {
    let connect = || {
        let stream = UnixStream::connect_addr(&UnixAddress::from_abstract_name(abstract_name)?)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        io::Result::Ok(stream)
    };
    connect().map_err(describe("connect"))
}

/// Closes the connection with a reset.
pub(super) fn reset(stream: TcpStream) -> Result<(), String> {
    Socket::from(stream).set_linger(Some(Duration::ZERO)).map_err(describe("SO_LINGER"))
}

/// Converts an error to a message that names the failed operation.
pub(super) fn describe(operation: &'static str) -> impl Fn(io::Error) -> String {
    move |error| format!("{operation}: {error}")
}
