//! Clients that misbehave. Bytes that such a client loses are not a failure. Some clients verify
//! that the server closes the connection.

use std::io::{ErrorKind, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use socket2::SockRef;

use super::Verdict;
use super::socket::{connect, connect_unix, connect_with_small_buffer, describe, reset};
use crate::server::{LONGEST_LINE, Services};

/// How long a client that never reads keeps sending.
const FLOOD: Duration = Duration::from_secs(2);

/// Sends without reading until `end`, or until the server closes the connection.
fn flood(mut stream: &TcpStream, end: Instant) -> Result<(), String> {
    let bytes = [b'z'; 64 * 1024];
    stream.set_write_timeout(Some(Duration::from_millis(100))).map_err(describe("SO_SNDTIMEO"))?;
    while Instant::now() < end {
        match stream.write(&bytes) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return Ok(()), // the server has closed the connection
        }
    }
    Ok(())
}

pub(super) fn resets(random: &mut Rng, services: &Services) -> Verdict {
    reset_during_transfer(random, connect(services.echo)?)
}

pub(super) fn resets_a_relay(random: &mut Rng, services: &Services) -> Verdict {
    reset_during_transfer(random, connect(services.relay)?)
}

fn reset_during_transfer(random: &mut Rng, stream: TcpStream) -> Verdict {
    flood(&stream, Instant::now() + Duration::from_millis(random.u64(0..30)))?;
    reset(stream)?;
    Ok(0)
}

pub(super) fn never_reads(random: &mut Rng, services: &Services) -> Verdict {
    let to = if random.bool() { services.echo } else { services.relay };
    let stream = connect_with_small_buffer(to)?;
    flood(&stream, Instant::now() + FLOOD)?;
    Ok(0)
}

pub(super) fn half_closes_and_never_reads(random: &mut Rng, services: &Services) -> Verdict {
    let stream = connect_with_small_buffer(services.echo)?;
    flood(&stream, Instant::now() + Duration::from_millis(random.u64(0..100)))?;
    let _ = stream.shutdown(Shutdown::Write);
    thread::sleep(Duration::from_millis(random.u64(0..200)));
    Ok(0)
}

pub(super) fn connects_and_closes(random: &mut Rng, services: &Services) -> Verdict {
    let services = [services.echo, services.lines, services.early, services.relay, services.idle];
    let stream = connect(services[random.usize(..services.len())])?;
    if random.bool() {
        reset(stream)?;
    }
    Ok(0)
}

pub(super) fn opens_many_connections(random: &mut Rng, services: &Services) -> Verdict {
    let streams: Result<Vec<TcpStream>, String> = (0..50).map(|_| connect(services.echo)).collect();
    for stream in streams? {
        if random.bool() {
            reset(stream)?;
        }
    }
    Ok(0)
}

/// The idle service must close the connection.
pub(super) fn sends_nothing(_: &mut Rng, services: &Services) -> Verdict {
    expect_end(connect(services.idle)?)
}

pub(super) fn sends_urgent_data(random: &mut Rng, services: &Services) -> Verdict {
    let stream = connect(services.echo)?;
    for _ in 0..random.usize(1..20) {
        rustix::net::send(&stream, b"!", SendFlags::OOB).map_err(|error| describe("send")(error.into()))?;
        (&stream).write_all(b"data").map_err(describe("write"))?;
    }
    // The service may or may not echo the urgent bytes, but the connection must end.
    let _ = stream.shutdown(Shutdown::Write);
    expect_end(stream)
}

/// The panic must close this connection.
pub(super) fn panics_the_handler(_: &mut Rng, services: &Services) -> Verdict {
    let mut stream = connect(services.lines)?;
    stream.write_all(b"panic\n").map_err(describe("write"))?;
    expect_end(stream)
}

/// The service must close a connection that exceeds its limit of the line length.
pub(super) fn sends_a_line_that_is_too_long(_: &mut Rng, services: &Services) -> Verdict {
    let mut stream = connect(services.lines)?;
    let _ = stream.write_all(&vec![b'x'; LONGEST_LINE * 3]);
    expect_end(stream)
}

/// Reads until the end of input or a reset.
fn expect_end(mut stream: TcpStream) -> Verdict {
    let mut buffer = [0; 16 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(0),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(0),
            Err(error) => return Err(format!("the server does not end the connection: {error}")),
        }
    }
}

/// Passes descriptors to the service that accepts them, or to one that does not.
pub(super) fn passes_descriptors(random: &mut Rng, services: &Services) -> Verdict {
    let to = if random.bool() { &services.unix } else { &services.descriptors };
    let stream = connect_unix(to)?;
    for _ in 0..random.usize(1..10) {
        let (ours, theirs) = UnixStream::pair().map_err(describe("socketpair"))?;
        let descriptors: Vec<BorrowedFd<'_>> = [ours.as_fd(), theirs.as_fd()].repeat(random.usize(1..5));
        // Fails if the service has made the kernel reject descriptors.
        let _ = pass(&stream, &descriptors);
    }
    Ok(0)
}

/// Passes a TCP socket with SO_LINGER and unsent bytes that its peer does not read. The close of
/// the last descriptor of such a socket blocks, and the server may hold that descriptor. The server
/// must not block: it must reply to the next request.
pub(super) fn passes_a_lingering_socket(_: &mut Rng, services: &Services) -> Verdict {
    let stream = connect_unix(&services.unix)?;
    let (lingering, peer) = lingering_socket().map_err(describe("a lingering socket"))?;
    let _ = pass(&stream, &[lingering.as_fd()]);
    let own = OwnedFd::from(lingering);
    // On another thread, since this close blocks if the server holds no descriptor.
    thread::spawn(move || drop(own));
    let mut other = connect_unix(&services.unix)?;
    other.write_all(b"x").map_err(describe("write"))?;
    other.read_exact(&mut [0]).map_err(describe("read"))?;
    drop(peer);
    Ok(1)
}

/// A TCP socket with unsent bytes and SO_LINGER, and its peer, which does not read.
fn lingering_socket() -> std::io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    SockRef::from(&listener).set_recv_buffer_size(2048)?;
    let stream = TcpStream::connect(listener.local_addr()?)?;
    let (peer, _) = listener.accept()?;
    stream.set_nonblocking(true)?;
    while (&stream).write(&[0; 64 * 1024]).is_ok() {}
    SockRef::from(&stream).set_linger(Some(Duration::from_secs(5)))?;
    Ok((stream, peer))
}

fn pass(stream: &UnixStream, descriptors: &[BorrowedFd<'_>]) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)), "more than 8 descriptors");
    rustix::net::sendmsg(stream, &[IoSlice::new(b"fd")], &mut ancillary, SendFlags::NOSIGNAL)
}

/// The kernel resets a connection that is closed with unread bytes.
pub(super) fn closes_with_unread_replies(random: &mut Rng, services: &Services) -> Verdict {
    let mut stream = connect(services.echo)?;
    let _ = stream.write_all(&vec![b'u'; random.usize(1..200_000)]);
    let _ = stream.read(&mut [0; 10]);
    Ok(0)
}

pub(super) fn sends_odd_datagrams(random: &mut Rng, services: &Services) -> Verdict {
    let socket = UdpSocket::bind("127.0.0.1:0").map_err(describe("bind"))?;
    for size in [0, 1, random.usize(1..60_000), 65_507] {
        let _ = socket.send_to(&vec![b'd'; size], services.udp);
    }
    Ok(0)
}
