//! The load generator: closed-loop echo over many connections, every byte of every reply checked.
//!
//! Each connection has one message under way and sends the next when the reply is complete. A
//! message begins with its number and ends with the number's low byte; numbers differ between
//! connections, so a reply that is late, early or somebody else's is a wrong one.
//!
//! It must be cheaper than the servers: one thread, edge-triggered epoll armed once a connection,
//! no memory of its own for a message (its number says what it was), a receive and a send each.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{self, RecvFlags, SendFlags};

use crate::Result;

/// Connections opened together. Each has had a reply before the next are opened, so that no
/// server's accept queue overflows, and the kernel's second of waiting after that never shows.
const OPENED_AT_ONCE: usize = 100;

/// How long a reply may take before the server counts as broken.
const PATIENCE: Duration = Duration::from_secs(10);

const RECEIVE_BUFFER: usize = 64 * 1024;
const EVENTS: usize = 1024;

/// Connections to one server, and the messages on them.
pub(crate) struct Load {
    epoll: OwnedFd,
    connections: Vec<Connection>,
    /// Connections whose reply is not complete.
    under_way: usize,
    message: Message,
    buffer: Vec<u8>,
    events: Vec<epoll::Event>,
}

struct Connection {
    stream: TcpStream,
    /// The number of the last message begun.
    number: u64,
    /// How much of that message has been sent, and of its reply received. Both are the message's
    /// size exactly when nothing is under way.
    sent: usize,
    received: usize,
}

/// What a connection does once its reply is complete.
#[derive(Clone, Copy)]
enum AfterReply {
    SendNext,
    Rest,
}

impl Load {
    /// Opens connections that have echoed one message of `size` bytes each, and rest.
    pub(crate) fn open(server: SocketAddr, connections: usize, size: usize) -> Result<Load> {
        let nothing = epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) };
        let mut load = Load {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            connections: Vec::with_capacity(connections),
            under_way: 0,
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
        let stream = TcpStream::connect_timeout(&server, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let interest = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&self.epoll, &stream, epoll::EventData::new_u64(index as u64), interest)?;
        let size = self.message.size();
        // The connection's index in the upper half keeps numbers apart between connections.
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

    /// Keeps every connection busy for `window`, then waits for the replies still due; answers how
    /// many messages that were.
    pub(crate) fn run_for(&mut self, window: Duration) -> Result<u64> {
        let deadline = Instant::now() + window;
        self.begin_all()?;
        Ok(self.drive(deadline, AfterReply::SendNext)? + self.settle()?)
    }

    /// As [`run_for`](Self::run_for), but leaves in the middle: the replies still due are for
    /// nobody.
    pub(crate) fn abandon_after(mut self, window: Duration) -> Result<()> {
        self.begin_all()?;
        self.drive(Instant::now() + window, AfterReply::SendNext)?;
        Ok(())
    }

    /// Waits for every reply that is due. A server that has forgotten one connection of many shows
    /// here and nowhere else.
    fn settle(&mut self) -> Result<u64> {
        let completed = self.drive(Instant::now() + PATIENCE, AfterReply::Rest)?;
        match self.under_way {
            0 => Ok(completed),
            missing => Err(format!("{missing} replies did not come within {PATIENCE:?}").into()),
        }
    }

    fn begin_all(&mut self) -> Result<()> {
        (0..self.connections.len()).try_for_each(|index| self.begin(index))
    }

    /// Handles events until `deadline`, or until nothing is under way; answers how many replies
    /// were completed.
    fn drive(&mut self, deadline: Instant, after_reply: AfterReply) -> Result<u64> {
        let mut completed = 0;
        while self.under_way > 0 {
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
                self.under_way -= 1;
                if let AfterReply::SendNext = after_reply {
                    self.begin(index)?;
                }
            }
        }
        Ok(completed)
    }

    /// Begins the next message of a connection that rests.
    fn begin(&mut self, index: usize) -> Result<()> {
        let connection = &mut self.connections[index];
        connection.number += 1;
        connection.sent = 0;
        connection.received = 0;
        self.under_way += 1;
        connection.send(&mut self.message).map_err(|error| format!("connection {index}: {error}").into())
    }

    /// Does what a connection's event allows; answers whether that completed its reply.
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
                // Its event will come, since only a full socket refuses.
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(format!("sending: {error}").into()),
            }
        }
        Ok(())
    }

    /// Receives and checks what there is; answers whether the reply is complete now.
    fn receive(&mut self, message: &mut Message, buffer: &mut [u8]) -> Result<bool> {
        let size = message.size();
        while self.received < size {
            let count = match net::recv(&self.stream, &mut *buffer, RecvFlags::empty()) {
                Ok((0, _)) => return Err("the server closed it".into()),
                Ok((count, _)) => count,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Ok(false),
                Err(error) => return Err(format!("receiving: {error}").into()),
            };
            let end = self.received + count;
            if end > self.sent {
                return Err(format!("{end} bytes came back where {} were sent", self.sent).into());
            }
            if buffer[..count] != message.numbered(self.number)[self.received..end] {
                let range = self.received..end;
                return Err(
                    format!("wrong reply to message {:#x}, within bytes {range:?}", self.number).into()
                );
            }
            self.received = end;
            // A receive that leaves room has drained the socket, and the next byte makes an event.
            if count < buffer.len() {
                break;
            }
        }
        Ok(self.received == size)
    }
}

/// The one message of a load; only its number changes.
struct Message {
    bytes: Vec<u8>,
}

impl Message {
    fn new(size: usize) -> Message {
        assert!(size > 8, "a message holds its number and one byte more");
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

    /// Serves one connection and answers every message of 64 bytes with what `spoil` makes of it.
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
    fn a_byte_too_many_is_noticed() {
        let error = open(|reply| reply.push(0)).err().unwrap();
        assert!(error.contains("65 bytes came back"), "{error}");
    }
}
