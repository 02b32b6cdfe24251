//! The load: connections with a batch of requests in flight each, and every byte of the replies
//! checked.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use crate::Result;

/// A server that takes longer for a reply has failed.
const TIMEOUT: Duration = Duration::from_secs(10);

const KEYS: u64 = 10_000;

/// One request of this number is a set, the others are gets.
const MIX: u64 = 10;

/// The connections to one server.
pub(super) struct Load {
    epoll: OwnedFd,
    connections: Vec<Connection>,
    depth: usize,
    value: Vec<u8>,
    in_flight: usize,
    buffer: Vec<u8>,
    random: u64,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    requests: Vec<u8>,
    sent: usize,
    expected: Vec<u8>,
    received: usize,
}

impl Load {
    /// Stores all keys and opens connections, each of which sends `depth` requests at a time.
    pub(super) fn open(server: SocketAddr, connections: usize, depth: usize, value: usize) -> Result<Load> {
        let mut load = Load {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            connections: Vec::with_capacity(connections),
            depth,
            value: (0..value).map(|at| b'a' + (at % 26) as u8).collect(),
            in_flight: 0,
            buffer: vec![0; 256 * 1024],
            random: 0x9e37_79b9_7f4a_7c15,
        };
        let mut stream = TcpStream::connect(server)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        for key in 0..KEYS {
            let mut requests = Vec::new();
            push_set(&mut requests, key, &load.value);
            stream.write_all(&requests)?;
            let mut reply = [0; 8];
            stream.read_exact(&mut reply)?;
            if reply != *b"STORED\r\n" {
                return Err("a key was not stored".into());
            }
        }
        for index in 0..connections {
            let stream = TcpStream::connect(server)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let interest = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
            epoll::add(&load.epoll, &stream, epoll::EventData::new_u64(index as u64), interest)?;
            let (requests, expected) = (Vec::new(), Vec::new());
            load.connections.push(Connection { stream, requests, sent: 0, expected, received: 0 });
        }
        Ok(load)
    }

    /// Keeps every connection busy for `window`, then waits for the pending replies. Returns the
    /// number of requests.
    pub(super) fn run_for(&mut self, window: Duration) -> Result<u64> {
        let end = Instant::now() + window;
        for index in 0..self.connections.len() {
            self.begin(index)?;
        }
        let nothing = epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) };
        let mut events = [nothing; 1024];
        let timeout = Timespec::try_from(TIMEOUT)?;
        let mut done = 0;
        while self.in_flight > 0 {
            let ready = match epoll::wait(&self.epoll, &mut events[..], Some(&timeout)) {
                Ok(0) => return Err(format!("a reply is missing after {TIMEOUT:?}").into()),
                Ok(ready) => ready,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let is_over = Instant::now() >= end;
            for event in &events[..ready] {
                let index = event.data.u64() as usize;
                if self.connections[index].advance(&mut self.buffer)? {
                    done += self.depth as u64;
                    self.in_flight -= 1;
                    if !is_over {
                        self.begin(index)?;
                    }
                }
            }
        }
        Ok(done)
    }

    fn begin(&mut self, index: usize) -> Result<()> {
        let connection = &mut self.connections[index];
        connection.requests.clear();
        connection.expected.clear();
        (connection.sent, connection.received) = (0, 0);
        for _ in 0..self.depth {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            let (key, choice) = (self.random % KEYS, (self.random >> 32) % MIX);
            if choice == 0 {
                push_set(&mut connection.requests, key, &self.value);
                connection.expected.extend_from_slice(b"STORED\r\n");
            } else {
                write!(connection.requests, "get benchmark-key-{key:06}\r\n")?;
                write!(connection.expected, "VALUE benchmark-key-{key:06} 0 {}\r\n", self.value.len())?;
                connection.expected.extend_from_slice(&self.value);
                connection.expected.extend_from_slice(b"\r\nEND\r\n");
            }
        }
        self.in_flight += 1;
        connection.send()
    }
}

fn push_set(requests: &mut Vec<u8>, key: u64, value: &[u8]) {
    requests.extend_from_slice(format!("set benchmark-key-{key:06} 0 0 {}\r\n", value.len()).as_bytes());
    requests.extend_from_slice(value);
    requests.extend_from_slice(b"\r\n");
}

impl Connection {
    fn send(&mut self) -> Result<()> {
        while self.sent < self.requests.len() {
            match self.stream.write(&self.requests[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Handles an event. Returns whether all replies are complete now.
    fn advance(&mut self, buffer: &mut [u8]) -> Result<bool> {
        self.send()?;
        if self.received == self.expected.len() {
            return Ok(false);
        }
        loop {
            let count = match self.stream.read(buffer) {
                Ok(0) => return Err("the server closed the connection".into()),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.into()),
            };
            let expected = self.expected.get(self.received..self.received + count);
            if expected != Some(&buffer[..count]) {
                return Err(format!("a wrong reply: {}", buffer[..count.min(100)].escape_ascii()).into());
            }
            self.received += count;
            if self.received == self.expected.len() {
                return Ok(true);
            }
            // A short receive has drained the socket. The next byte causes a new event.
            if count < buffer.len() {
                return Ok(false);
            }
        }
    }
}
