//! The generator: connections that each keep a number of requests in flight, on one thread with
//! edge-triggered epoll, as for the echo.

use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{self, RecvFlags, SendFlags};

use crate::Result;
use crate::memory::Idle;
use crate::turns::Work;

/// The number of connections opened in one batch.
const OPENED_AT_ONCE: usize = 100;

/// A server that takes longer for a response has failed.
const TIMEOUT: Duration = Duration::from_secs(10);

const RECEIVE_BUFFER: usize = 64 * 1024;
const EVENTS: usize = 1024;

/// The client's end of a connection, as bytes.
pub(super) trait Client: Default {
    /// The protocol, for titles.
    const NAME: &'static str;

    /// Appends what a client sends first.
    fn begin(&mut self, _output: &mut Vec<u8>) {}

    /// Appends a request.
    fn request(&mut self, output: &mut Vec<u8>);

    /// Takes whole responses from the front of `input`, and appends what must be sent for them.
    /// Returns the number of bytes taken, and that of responses.
    fn receive(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<(usize, usize)>;
}

/// The connections to one server.
pub(super) struct Load<C> {
    epoll: OwnedFd,
    connections: Vec<Connection<C>>,
    /// Requests in flight on each connection that is busy.
    depth: usize,
    /// Requests without a response.
    in_flight: usize,
    buffer: Vec<u8>,
    events: Vec<epoll::Event>,
}

struct Connection<C> {
    stream: TcpStream,
    client: C,
    /// Not sent yet.
    output: Vec<u8>,
    /// The beginning of a response.
    partial: Vec<u8>,
}

impl<C: Client> Load<C> {
    /// Opens connections. Each has got one response and is idle.
    pub(super) fn open(server: SocketAddr, connections: usize, depth: usize) -> Result<Load<C>> {
        let nothing = epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) };
        let mut load = Load {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            connections: Vec::with_capacity(connections),
            depth,
            in_flight: 0,
            buffer: vec![0; RECEIVE_BUFFER],
            events: vec![nothing; EVENTS],
        };
        while load.connections.len() < connections {
            let first = load.connections.len();
            let end = connections.min(first + OPENED_AT_ONCE);
            for index in first..end {
                load.connect(server, index).map_err(|error| format!("connection {index}: {error}"))?;
            }
            load.in_flight += end - first;
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
        let (client, output, partial) = (C::default(), Vec::new(), Vec::new());
        let mut connection = Connection { stream, client, output, partial };
        connection.client.begin(&mut connection.output);
        connection.client.request(&mut connection.output);
        connection.send()?;
        self.connections.push(connection);
        Ok(())
    }

    fn request_on_all(&mut self, requests: usize) -> Result<()> {
        for connection in &mut self.connections {
            (0..requests).for_each(|_| connection.client.request(&mut connection.output));
            self.in_flight += requests;
            connection.send()?;
        }
        Ok(())
    }

    /// Waits for all pending responses. Fails if one is missing after the timeout.
    fn settle(&mut self) -> Result<u64> {
        let completed = self.drive(Instant::now() + TIMEOUT, false)?;
        match self.in_flight {
            0 => Ok(completed),
            missing => Err(format!("{missing} responses are missing after {TIMEOUT:?}").into()),
        }
    }

    /// Handles events until `deadline`, or until nothing is in flight. Returns the number of
    /// responses. With `continues`, each is followed by a request.
    fn drive(&mut self, deadline: Instant, continues: bool) -> Result<u64> {
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
            for event in &self.events[..ready] {
                let index = event.data.u64() as usize;
                let connection = &mut self.connections[index];
                let responses = connection.advance(&mut self.buffer, continues);
                let responses = responses.map_err(|error| format!("connection {index}: {error}"))?;
                completed += responses as u64;
                if !continues {
                    self.in_flight = self.in_flight.checked_sub(responses).ok_or("too many responses")?;
                }
            }
        }
        Ok(completed)
    }
}

impl<C: Client> Connection<C> {
    /// Handles an event. Returns the number of responses.
    fn advance(&mut self, buffer: &mut [u8], continues: bool) -> Result<usize> {
        let mut responses = 0;
        loop {
            let count = match net::recv(&self.stream, &mut *buffer, RecvFlags::empty()) {
                Ok((0, _)) => return Err("the server closed the connection".into()),
                Ok((count, _)) => count,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(format!("receiving: {error}").into()),
            };
            responses += self.take(&buffer[..count])?;
            // A short receive has drained the socket. The next byte causes a new event.
            if count < buffer.len() {
                break;
            }
        }
        if continues {
            (0..responses).for_each(|_| self.client.request(&mut self.output));
        }
        self.send()?;
        Ok(responses)
    }

    fn take(&mut self, received: &[u8]) -> Result<usize> {
        if self.partial.is_empty() {
            let (taken, responses) = self.client.receive(received, &mut self.output)?;
            self.partial.extend_from_slice(&received[taken..]);
            return Ok(responses);
        }
        self.partial.extend_from_slice(received);
        let (taken, responses) = self.client.receive(&self.partial, &mut self.output)?;
        self.partial.drain(..taken);
        Ok(responses)
    }

    fn send(&mut self) -> Result<()> {
        let mut sent = 0;
        while sent < self.output.len() {
            match net::send(&self.stream, &self.output[sent..], SendFlags::NOSIGNAL) {
                Ok(count) => sent += count,
                Err(Errno::INTR) => {}
                // Only a full send buffer causes this error, so an event will follow.
                Err(Errno::AGAIN) => break,
                Err(error) => return Err(format!("sending: {error}").into()),
            }
        }
        self.output.drain(..sent);
        Ok(())
    }
}

impl<C: Client> Work for Load<C> {
    fn run_for(&mut self, window: Duration) -> Result<u64> {
        self.request_on_all(self.depth)?;
        Ok(self.drive(Instant::now() + window, true)? + self.settle()?)
    }
}

impl<C: Client> Idle for Load<C> {
    fn open(server: SocketAddr, connections: usize) -> Result<Load<C>> {
        Load::open(server, connections, 1)
    }

    fn echo_once(&mut self) -> Result<()> {
        self.request_on_all(1)?;
        self.settle().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::super::{Http1, Http2};
    use super::*;

    /// The error of a client whose server sends `reply`.
    fn error<C: Client>(reply: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(reply).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let error = Load::<C>::open(address, 1, 1).err().unwrap().to_string();
        server.join().unwrap();
        error
    }

    #[test]
    fn a_wrong_body_is_detected() {
        let wrong = error::<Http1>(b"HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\nHello, Wurld!");
        assert!(wrong.contains("wrong response"), "{wrong}");
        let wrong = error::<Http2>(b"\0\0\x01\x01\x04\0\0\0\x01\x88\0\0\x0d\0\x01\0\0\0\x01Hello, Wurld!");
        assert!(wrong.contains("wrong body"), "{wrong}");
    }

    #[test]
    fn another_status_is_detected() {
        let wrong = error::<Http1>(b"HTTP/1.1 404 Not Found\r\ncontent-length: 13\r\n\r\nHello, World!");
        assert!(wrong.contains("wrong response"), "{wrong}");
        let wrong = error::<Http2>(b"\0\0\x01\x01\x04\0\0\0\x01\x8d");
        assert!(wrong.contains("not 200"), "{wrong}");
    }
}
