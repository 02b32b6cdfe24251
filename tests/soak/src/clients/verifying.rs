//! Clients that verify every byte that they receive.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use fastrand::Rng;

use super::Verdict;
use super::pattern::Pattern;
use super::socket::{connect, connect_unix, connect_with_small_buffer, describe};
use crate::server::Services;

/// A stream that one thread reads and another one writes.
trait Duplex: Sync {
    fn read(&self, into: &mut [u8]) -> io::Result<usize>;
    fn write(&self, from: &[u8]) -> io::Result<usize>;
    fn finish(&self) -> io::Result<()>;
}

macro_rules! duplex {
    ($stream:ty) => {
        impl Duplex for $stream {
            fn read(&self, into: &mut [u8]) -> io::Result<usize> {
                Read::read(&mut &*self, into)
            }
            fn write(&self, from: &[u8]) -> io::Result<usize> {
                Write::write(&mut &*self, from)
            }
            fn finish(&self) -> io::Result<()> {
                self.shutdown(Shutdown::Write)
            }
        }
    };
}
duplex!(TcpStream);
duplex!(UnixStream);

/// Sends `total` bytes and half-closes. Verifies that exactly these bytes are received before the
/// end.
fn exchange(
    stream: &impl Duplex,
    random: &mut Rng,
    total: u64,
    pauses_after: impl Fn(u64) -> bool,
) -> Verdict {
    let pattern = Pattern::new(random);
    let mut sizes = random.fork();
    thread::scope(|scope| {
        let sender = scope.spawn(|| send(stream, &pattern, total, &mut sizes));
        let received = receive(stream, &pattern, total, pauses_after);
        let sent = sender.join().expect("a sender without a panic");
        let received = received.map_err(|message| format!("{message} (sender: {sent:?})"))?;
        sent?;
        Ok(received)
    })
}

fn send(stream: &impl Duplex, pattern: &Pattern, total: u64, sizes: &mut Rng) -> Result<(), String> {
    let mut sent = 0;
    while sent < total {
        let max = sizes.u64(1..=32 * 1024).min(total - sent);
        let written = stream.write(pattern.at(sent, max as usize));
        sent += written.map_err(|error| format!("write after {sent} of {total} bytes: {error}"))? as u64;
    }
    stream.finish().map_err(describe("half-close"))
}

/// Receives and verifies `total` bytes and the end. After each read, calls `pauses_after` with the
/// number of bytes received so far, and pauses briefly if it returns true.
fn receive(
    stream: &impl Duplex,
    pattern: &Pattern,
    total: u64,
    pauses_after: impl Fn(u64) -> bool,
) -> Verdict {
    let mut received = 0;
    let mut buffer = [0; 16 * 1024];
    loop {
        let n = stream.read(&mut buffer);
        let n = n.map_err(|error| format!("read after {received} of {total} bytes: {error}"))?;
        if n == 0 {
            break;
        }
        if !pattern.matches(received, &buffer[..n]) {
            return Err(format!("wrong bytes at {received} of {total}"));
        }
        received += n as u64;
        if pauses_after(received) {
            thread::sleep(Duration::from_millis(1));
        }
    }
    if received == total {
        Ok(received)
    } else {
        Err(format!("{received} bytes received instead of {total}"))
    }
}

pub(super) fn echo(random: &mut Rng, services: &Services) -> Verdict {
    let total = 1 << random.u32(0..23);
    exchange(&connect(services.echo)?, random, total, |_| false)
}

pub(super) fn slow_reader(random: &mut Rng, services: &Services) -> Verdict {
    let total = random.u64(1..1 << 20);
    exchange(&connect_with_small_buffer(services.echo)?, random, total, |received| received < 200_000)
}

pub(super) fn byte_by_byte(random: &mut Rng, services: &Services) -> Verdict {
    let (stream, pattern) = (connect(services.echo)?, Pattern::new(random));
    for position in 0..random.u64(1..300) {
        Duplex::write(&stream, pattern.at(position, 1)).map_err(describe("write"))?;
        let mut byte = [0];
        (&stream).read_exact(&mut byte).map_err(describe("read"))?;
        if !pattern.matches(position, &byte) {
            return Err(format!("a wrong byte at {position}"));
        }
    }
    Ok(0)
}

/// Sends all bytes before it reads. They may exceed the kernel's buffers, but not the server's
/// limits.
pub(super) fn late_reader(random: &mut Rng, services: &Services) -> Verdict {
    let total = random.u64(1..2 << 20);
    let (stream, pattern) = (connect_with_small_buffer(services.echo)?, Pattern::new(random));
    send(&stream, &pattern, total, random)?;
    receive(&stream, &pattern, total, |_| false)
}

pub(super) fn lines(random: &mut Rng, services: &Services) -> Verdict {
    let stream = connect(services.lines)?;
    let (mut requests, mut expected) = (Vec::new(), Vec::new());
    for number in 1..=random.usize(1..2000) {
        let line: String = (0..random.usize(6..40)).map(|_| random.lowercase()).collect();
        requests.extend_from_slice(format!("{line}\n").as_bytes());
        expected.extend_from_slice(format!("{number} {line}\n").as_bytes());
    }
    let mut replies = Vec::new();
    thread::scope(|scope| {
        let sender = scope.spawn(|| (&stream).write_all(&requests).and_then(|()| stream.finish()));
        (&stream).read_to_end(&mut replies).map_err(describe("read"))?;
        sender.join().expect("a sender without a panic").map_err(describe("write"))
    })?;
    if replies == expected {
        Ok(replies.len() as u64)
    } else {
        Err(format!("{} bytes of replies where {} were expected", replies.len(), expected.len()))
    }
}

pub(super) fn relay(random: &mut Rng, services: &Services) -> Verdict {
    let total = 1 << random.u32(0..22);
    exchange(&connect(services.relay)?, random, total, |_| false)
}

pub(super) fn unix_socket(random: &mut Rng, services: &Services) -> Verdict {
    let total = 1 << random.u32(0..22);
    exchange(&connect_unix(&services.unix)?, random, total, |_| false)
}

/// The server replies to the first bytes and closes, so the rest of the request may fail. The reply
/// must arrive.
pub(super) fn early_reply(random: &mut Rng, services: &Services) -> Verdict {
    let (stream, pattern) = (connect(services.early)?, Pattern::new(random));
    let total = random.u64(1..4 << 20);
    let mut reply = Vec::new();
    let mut sizes = random.fork();
    thread::scope(|scope| {
        let sender = scope.spawn(|| send(&stream, &pattern, total, &mut sizes));
        let result = (&stream).read_to_end(&mut reply);
        let sent = sender.join().expect("a sender without a panic");
        result.map_err(|error| format!("read: {error} (sender: {sent:?})"))
    })?;
    if reply == b"413" { Ok(3) } else { Err(format!("the reply is {reply:?}")) }
}

/// The kernel drops datagrams under load, so they may be lost or late. Each received datagram must
/// be one that was sent.
pub(super) fn datagrams(random: &mut Rng, services: &Services) -> Verdict {
    let socket = UdpSocket::bind("127.0.0.1:0").map_err(describe("bind"))?;
    socket.connect(services.udp).map_err(describe("connect"))?;
    socket.set_read_timeout(Some(Duration::from_millis(500))).map_err(describe("SO_RCVTIMEO"))?;
    let pattern = Pattern::new(random);
    let mut sent: Vec<&[u8]> = Vec::new();
    let mut verified = 0;
    for number in 0..20 {
        let datagram = pattern.at(number * 2000, random.usize(1..1400));
        socket.send(datagram).map_err(describe("send"))?;
        sent.push(datagram);
        let mut buffer = [0; 2000];
        if let Ok(n) = socket.recv(&mut buffer) {
            if !sent.contains(&&buffer[..n]) {
                return Err(format!("a datagram of {n} bytes that was never sent"));
            }
            verified += n as u64;
        }
    }
    Ok(verified)
}
