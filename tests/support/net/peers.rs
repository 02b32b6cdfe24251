//! The peers of connections: clients that fail instead of hanging, ways to close them, and test
//! data.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use socket2::{Domain, SockRef, Socket, Type};

use super::{LIMIT, Random};

/// Connects a client whose reads and writes fail after a time limit.
#[track_caller]
pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    with_limits(TcpStream::connect_timeout(&address, LIMIT).expect("a server that listens"))
}

fn with_limits(client: TcpStream) -> TcpStream {
    client.set_read_timeout(Some(LIMIT)).unwrap();
    client.set_write_timeout(Some(LIMIT)).unwrap();
    client.set_nodelay(true).unwrap();
    client
}

/// Connects a client with a small receive buffer and packets of the size on a real network.
///
/// The packets of the loopback interface are so large that a small send buffer holds only one. A
/// single packet is acknowledged with a delay.
#[track_caller]
pub(crate) fn connect_with_small_packets(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_tcp_mss(1400).unwrap();
    socket.set_recv_buffer_size(32 * 1024).unwrap();
    socket.connect_timeout(&address.into(), LIMIT).expect("a server that listens");
    with_limits(socket.into())
}

/// Connects a client with a small receive buffer.
#[track_caller]
pub(crate) fn connect_with_small_receive_buffer(address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a smaller buffer");
    socket.connect(&address.into()).expect("a server that listens");
    with_limits(socket.into())
}

/// Sends `bytes` and reads the same number of bytes.
#[track_caller]
pub(crate) fn exchange(client: &mut TcpStream, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    client.write_all(bytes.as_ref()).expect("a server that reads");
    read_exact(client, bytes.as_ref().len())
}

/// Sends `bytes` on one stream and reads the same number of bytes on the other.
#[track_caller]
pub(crate) fn exchange_between(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
    from.write_all(bytes).expect("a connection");
    read_exact(to, bytes.len())
}

/// Same as [`exchange`], but sends and reads concurrently: for more bytes than the socket buffers
/// hold.
#[track_caller]
pub(crate) fn exchange_meanwhile(client: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
    let mut writer = client.try_clone().expect("a descriptor");
    thread::scope(|scope| {
        scope.spawn(|| writer.write_all(bytes).expect("a server that reads"));
        read_exact(client, bytes.len())
    })
}

/// Sends `bytes` and a FIN, and concurrently reads until the FIN of the server.
#[track_caller]
pub(crate) fn finish_meanwhile(client: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
    let mut writer = client.try_clone().expect("a descriptor");
    thread::scope(|scope| {
        scope.spawn(|| {
            writer.write_all(bytes).expect("a server that reads");
            writer.shutdown(Shutdown::Write).expect("a connection");
        });
        read_to_end(client)
    })
}

#[track_caller]
pub(crate) fn assert_echoes(client: &mut TcpStream) {
    assert_eq!(exchange(client, b"are you there?"), b"are you there?");
}

#[track_caller]
pub(crate) fn read_exact(client: &mut TcpStream, n: usize) -> Vec<u8> {
    let mut bytes = vec![0; n];
    client.read_exact(&mut bytes).expect("too few bytes");
    bytes
}

/// Reads until the FIN of the server.
#[track_caller]
pub(crate) fn read_to_end(client: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    client.read_to_end(&mut bytes).expect("no FIN");
    bytes
}

/// Reads until the server has reset the connection. The reset shows that the data is incomplete.
#[track_caller]
pub(crate) fn read_until_reset(client: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let error = client.read_to_end(&mut bytes).expect_err("a FIN instead of a reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
    bytes
}

/// Waits until the server has closed the connection, with a FIN or a reset.
#[track_caller]
pub(crate) fn wait_for_end(client: &mut TcpStream) {
    match io::copy(client, &mut io::sink()) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}"),
    }
}

/// Closes the connection with a reset.
pub(crate) fn reset(client: TcpStream) {
    SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
}

/// A second descriptor of a connection's socket, to examine its state and input.
pub(crate) fn second_descriptor(socket: impl AsFd) -> TcpStream {
    socket.as_fd().try_clone_to_owned().expect("a descriptor").into()
}

/// Returns the current poll flags of a socket: readable, half-closed and hung up.
pub(crate) fn poll_flags(socket: impl AsFd) -> PollFlags {
    let mut fds = [PollFd::new(&socket, PollFlags::IN | PollFlags::RDHUP)];
    rustix::event::poll(&mut fds, Some(&Timespec::default())).expect("a poll");
    fds[0].revents()
}

/// `len` bytes of a pattern in which no section repeats.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    let mut random = Random::new(len as u64);
    let mut bytes: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).collect();
    bytes.truncate(len);
    bytes
}
