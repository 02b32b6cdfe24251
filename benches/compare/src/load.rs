//! The load generator: closed-loop echo over many connections, with every byte of each reply
//! checked.
//!
//! Each connection has one message in flight and sends the next one when the reply is complete. A
//! message begins with its number and ends with the low byte of the number. Numbers differ between
//! connections, so a reply that is late, early or of another connection is detected.
//!
//! The generator must take less CPU time than the servers. It runs on one thread, with
//! edge-triggered epoll and one registration per connection. A message takes one send and one
//! receive, and no memory of its own, because its bytes follow from its number.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{self, RecvFlags, SendFlags};

use crate::Result;

/// The number of connections opened in one batch. All of them must have received a reply before the
/// next batch is opened. Otherwise a server's accept queue could overflow, and the kernel would
/// retry the SYN only after one second.
const OPENED_AT_ONCE: usize = 100;

/// A server that takes longer for a reply has failed.
const TIMEOUT: Duration = Duration::from_secs(10);

const RECEIVE_BUFFER: usize = 64 * 1024;
const EVENTS: usize = 1024;

/// The connections to one server, and their messages.
pub(crate) struct Load {
    epoll: OwnedFd,
    connections: Vec<Connection>,
    /// Connections whose reply is not complete.
    in_flight: usize,
    message: Message,
    buffer: Vec<u8>,
    events: Vec<epoll::Event>,
}

struct Connection {
    stream: TcpStream,
    /// The number of the current message.
    number: u64,
    /// Bytes of the message sent, and bytes of its reply received. If nothing is in flight, and
    /// only then, both equal the message size.
    sent: usize,
    received: usize,
}

/// The action after a complete reply.
#[derive(Clone, Copy)]
enum AfterReply {
    SendNext,
    StayIdle,
}

impl Load {
    /// Opens connections. Each has echoed one message of `size` bytes and is idle.
    pub(crate) fn open(server: SocketAddr, connections: usize, size: usize) -> Result<Load> {
        let nothing = epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) };
        let mut load = Load {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            connections: Vec::with_capacity(connections),
            in_flight: 0,
            message: Message::new(size),
            buffer: vec![0; RECEIVE_BUFFER],
            events: vec![nothing; EVENTS],
        };
        while load.connections.len() < connections {
            let batch_end = connections.min(load.connections.len() + OPENED_AT_ONCE);
            for index in load.connections.len()..batch_end {
                load.connect(server, index).map_err(|error| format!("connection {index}: {error}"))?;
                load.begin(index)?;
            }
            load.settle()?;
        }
        Ok(load)
    }

    fn connect(&mut self, server: SocketAddr, index: usize) -> Result<()> {
        let stream = TcpStream::connect_timeout(&server, TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let interest = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&self.epoll, &stream, epoll::EventData::new_u64(index as u64), interest)?;
        let size = self.message.size();
        // The connection's index in the upper half makes numbers unique across connections.
        self.connections.push(Connection {
            stream,
            number: (index as u64) << 32,
            sent: size,
            received: size,
        });
        Ok(())
    }

    /// Echoes one more message on every connection.
    pub(crate) fn echo_once(&mut self) -> Result<()> {
        self.begin_all()?;
        self.settle()?;
        Ok(())
    }

    /// Keeps every connection busy for `window`, then waits for the pending replies. Returns the
    /// number of messages.
    pub(crate) fn run_for(&mut self, window: Duration) -> Result<u64> {
        let deadline = Instant::now() + window;
        self.begin_all()?;
        Ok(self.drive(deadline, AfterReply::SendNext)? + self.settle()?)
    }

    /// Same as [`run_for`](Self::run_for), but closes the connections while replies are pending.
    pub(crate) fn abandon_after(mut self, window: Duration) -> Result<()> {
        self.begin_all()?;
        self.drive(Instant::now() + window, AfterReply::SendNext)?;
        Ok(())
    }

    /// Waits for all pending replies. Fails if one is missing after the timeout.
    fn settle(&mut self) -> Result<u64> {
        let completed = self.drive(Instant::now() + TIMEOUT, AfterReply::StayIdle)?;
        match self.in_flight {
            0 => Ok(completed),
            missing => Err(format!("{missing} replies are missing after {TIMEOUT:?}").into()),
        }
    }

    fn begin_all(&mut self) -> Result<()> {
        (0..self.connections.len()).try_for_each(|index| self.begin(index))
    }

    /// Handles events until `deadline`, or until nothing is in flight. Returns the number of
    /// completed replies.
    fn drive(&mut self, deadline: Instant, after_reply: AfterReply) -> Result<u64> {
        let mut completed = 0;
        while self.in_flight > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let timeout = Timespec::try_from(left)?;
            let ready = match epoll::wait(&self.epoll, &mut self.events[..], Some(&timeout)) {
                Ok(ready) => ready,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for event in 0..ready {
                let index = self.events[event].data.u64() as usize;
                if !self.advance(index).map_err(|error| format!("connection {index}: {error}"))? {
                    continue;
                }
                completed += 1;
                self.in_flight -= 1;
                if let AfterReply::SendNext = after_reply {
                    self.begin(index)?;
                }
            }
        }
        Ok(completed)
    }

    /// Starts the next message of an idle connection.
    fn begin(&mut self, index: usize) -> Result<()> {
        let connection = &mut self.connections[index];
        connection.number += 1;
        connection.sent = 0;
        connection.received = 0;
        self.in_flight += 1;
        connection.send(&mut self.message).map_err(|error| format!("connection {index}: {error}").into())
    }

    /// Handles an event of a connection. Returns whether its reply is complete now.
    fn advance(&mut self, index: usize) -> Result<bool> {
        let connection = &mut self.connections[index];
        if connection.sent < self.message.size() {
            connection.send(&mut self.message)?;
        }
        if connection.received == self.message.size() {
            return Ok(false);
        }
        connection.receive(&mut self.message, &mut self.buffer)
    }
}

impl Connection {
    fn send(&mut self, message: &mut Message) -> Result<()> {
        let bytes = message.numbered(self.number);
        while self.sent < bytes.len() {
            match net::send(&self.stream, &bytes[self.sent..], SendFlags::NOSIGNAL) {
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                // Only a full send buffer causes this error, so an event will follow.
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(format!("sending: {error}").into()),
            }
        }
        Ok(())
    }

    /// Receives and checks available data. Returns whether the reply is complete now.
    fn receive(&mut self, message: &mut Message, buffer: &mut [u8]) -> Result<bool> {
        let size = message.size();
        while self.received < size {
            let count = match net::recv(&self.stream, &mut *buffer, RecvFlags::empty()) {
                Ok((0, _)) => return Err("the server closed the connection".into()),
                Ok((count, _)) => count,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(format!("receiving: {error}").into()),
            };
            let end = self.received + count;
            if end > self.sent {
                return Err(format!("{end} bytes were received, but only {} were sent", self.sent).into());
            }
            if buffer[..count] != message.numbered(self.number)[self.received..end] {
                let range = self.received..end;
                return Err(
                    format!("wrong reply to message {:#x}, within bytes {range:?}", self.number).into()
                );
            }
            self.received = end;
            // A short receive has drained the socket. The next byte causes a new event.
            if count < buffer.len() {
                break;
            }
        }
        Ok(self.received == size)
    }
}

/// The message that all connections send. Only its number changes.
struct Message {
    bytes: Vec<u8>,
}

impl Message {
    fn new(size: usize) -> Message {
        assert!(size > 8, "a message must be longer than its number");
        Message { bytes: (0..size).map(|position| (position % 251) as u8).collect() }
    }

    fn size(&self) -> usize {
        self.bytes.len()
    }

    #[inline]
    fn numbered(&mut self, number: u64) -> &[u8] {
        let number = number.to_le_bytes();
        self.bytes[..8].copy_from_slice(&number);
        if let Some(last) = self.bytes.last_mut() {
            *last = number[0];
        }
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    /// Opens a load of one connection. The server replies to every message of 64 bytes with a copy
    /// that `spoil` has modified.
    fn open(spoil: impl Fn(&mut Vec<u8>) + Send + 'static) -> std::result::Result<Load, String> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut message = [0; 64];
            while stream.read_exact(&mut message).is_ok() {
                let mut reply = message.to_vec();
                spoil(&mut reply);
                if stream.write_all(&reply).is_err() {
                    break;
                }
            }
        });
        Load::open(address, 1, 64).map_err(|error| error.to_string())
    }

    #[test]
    fn an_echo_is_counted() {
        let mut load = open(|_| {}).unwrap();
        assert!(load.run_for(Duration::from_millis(20)).unwrap() > 0);
    }

    #[test]
    fn a_changed_byte_is_a_wrong_reply() {
        for position in [0, 30, 63] {
            let error = open(move |reply| reply[position] ^= 1).err().unwrap();
            assert!(error.contains("wrong reply"), "{error}");
        }
    }

    #[test]
    fn an_extra_byte_is_detected() {
        let error = open(|reply| reply.push(0)).err().unwrap();
        assert!(error.contains("65 bytes were received"), "{error}");
    }
}
