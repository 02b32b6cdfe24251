//! The baseline: a hand-written echo loop on the kernel's interface.
//!
//! Level-triggered epoll, one shared buffer, and exactly one receive and one send per message. A
//! connection buffers bytes only after a short send; it then waits for writability, and is not read
//! until they are sent.

use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{self, RecvFlags, SendFlags, SocketFlags};

use super::{SHARED_BUFFER, announce, listener};
use crate::Result;

const EVENTS: usize = 1024;

struct Connection {
    socket: OwnedFd,
    /// The rest of a short send. Not empty exactly while the socket is watched for writability
    /// instead of readability.
    backlog: Vec<u8>,
}

/// The two calls per message. `read` and `write` are what most loops in C use, and the baseline.
/// The kernel's path to a socket is a few hundredths shorter with `recv` and `send`, so that loop
/// is shown too: the gain from the choice of the call must not be attributed to a peer's loop.
#[derive(Clone, Copy, Debug)]
pub(super) enum Calls {
    RecvSend,
    ReadWrite,
}

impl Calls {
    #[inline]
    fn receive(self, socket: &OwnedFd, buffer: &mut [u8]) -> rustix::io::Result<usize> {
        match self {
            Calls::RecvSend => net::recv(socket, buffer, RecvFlags::empty()).map(|(received, _)| received),
            Calls::ReadWrite => rustix::io::read(socket, buffer),
        }
    }

    #[inline]
    fn send(self, socket: &OwnedFd, bytes: &[u8]) -> rustix::io::Result<usize> {
        match self {
            Calls::RecvSend => net::send(socket, bytes, SendFlags::NOSIGNAL),
            // The Rust runtime ignores SIGPIPE from the start.
            Calls::ReadWrite => rustix::io::write(socket, bytes),
        }
    }
}

/// Whether a connection stays open after an event: `Break` closes it.
type Next = ControlFlow<()>;

pub(super) fn serve(calls: Calls) -> Result<()> {
    let listener = listener()?;
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let listener_key = listener.as_raw_fd() as u64;
    epoll::add(&epoll, &listener, epoll::EventData::new_u64(listener_key), epoll::EventFlags::IN)?;
    announce(listener.local_addr()?)?;

    // Indexed by descriptor: the kernel always allocates the lowest free one.
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut buffer = vec![0; SHARED_BUFFER];
    let nothing = epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) };
    let mut events = vec![nothing; EVENTS];
    loop {
        let ready = match epoll::wait(&epoll, &mut events[..], None) {
            Ok(ready) => ready,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        for event in &events[..ready] {
            let key = event.data.u64();
            if key == listener_key {
                accept_all(&epoll, &listener, &mut connections)?;
                continue;
            }
            let slot = &mut connections[key as usize];
            let Some(connection) = slot else { continue };
            let next = if connection.backlog.is_empty() {
                echo(calls, &epoll, key, connection, &mut buffer)
            } else {
                flush(&epoll, key, connection)
            };
            if next.is_break() {
                // Closing the descriptor also removes it from the epoll set.
                *slot = None;
            }
        }
    }
}

#[inline]
fn echo(calls: Calls, epoll: &OwnedFd, key: u64, connection: &mut Connection, buffer: &mut [u8]) -> Next {
    let received = match calls.receive(&connection.socket, buffer) {
        Ok(0) => return Next::Break(()),
        Ok(received) => received,
        Err(Errno::AGAIN | Errno::INTR) => return Next::Continue(()),
        Err(_) => return Next::Break(()),
    };
    let sent = match calls.send(&connection.socket, &buffer[..received]) {
        Ok(sent) => sent,
        Err(Errno::AGAIN | Errno::INTR) => 0,
        Err(_) => return Next::Break(()),
    };
    if sent == received {
        return Next::Continue(());
    }
    connection.backlog.extend_from_slice(&buffer[sent..received]);
    watch(epoll, key, connection, epoll::EventFlags::OUT)
}

#[cold]
fn flush(epoll: &OwnedFd, key: u64, connection: &mut Connection) -> Next {
    match net::send(&connection.socket, &connection.backlog, SendFlags::NOSIGNAL) {
        Ok(sent) => drop(connection.backlog.drain(..sent)),
        Err(Errno::AGAIN | Errno::INTR) => return Next::Continue(()),
        Err(_) => return Next::Break(()),
    }
    if !connection.backlog.is_empty() {
        return Next::Continue(());
    }
    connection.backlog = Vec::new();
    watch(epoll, key, connection, epoll::EventFlags::IN)
}

fn watch(epoll: &OwnedFd, key: u64, connection: &Connection, interest: epoll::EventFlags) -> Next {
    match epoll::modify(epoll, &connection.socket, epoll::EventData::new_u64(key), interest) {
        Ok(()) => Next::Continue(()),
        Err(_) => Next::Break(()),
    }
}

fn accept_all(epoll: &OwnedFd, listener: impl AsFd, connections: &mut Vec<Option<Connection>>) -> Result<()> {
    loop {
        let socket = match net::accept_with(&listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok(socket) => socket,
            Err(Errno::AGAIN) => return Ok(()),
            Err(Errno::INTR | Errno::CONNABORTED) => continue,
            Err(error) => return Err(format!("accept: {error}").into()),
        };
        let descriptor = socket.as_raw_fd() as usize;
        epoll::add(epoll, &socket, epoll::EventData::new_u64(descriptor as u64), epoll::EventFlags::IN)?;
        if descriptor >= connections.len() {
            connections.resize_with(descriptor + 1, || None);
        }
        connections[descriptor] = Some(Connection { socket, backlog: Vec::new() });
    }
}
