//! Bare mio: edge-triggered, registered once for both directions, one shared buffer.
//!
//! A receive that does not fill the buffer has drained the socket, which saves the call that would
//! return `WouldBlock`. After the peer's end of stream has been reported, reading must continue
//! until the end: that edge comes only once.

use std::io::{ErrorKind, Read, Write};
use std::ops::ControlFlow;

use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Registry, Token};
use slab::Slab;

use super::{SHARED_BUFFER, announce, listener};
use crate::Result;

const LISTENER: Token = Token(usize::MAX);
const EVENTS: usize = 1024;

struct Connection {
    stream: TcpStream,
    /// The rest of a short send; while it is not empty, nothing is read.
    backlog: Vec<u8>,
    read_closed: bool,
}

/// Whether a connection stays open after an event: `Break` closes it.
type Next = ControlFlow<()>;

pub(super) fn serve() -> Result<()> {
    let listener = listener()?;
    let address = listener.local_addr()?;
    let mut listener = TcpListener::from_std(listener);
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    announce(address)?;

    let mut connections = Slab::new();
    let mut buffer = vec![0; SHARED_BUFFER];
    let mut events = Events::with_capacity(EVENTS);
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            result => result?,
        }
        for event in &events {
            if event.token() == LISTENER {
                accept_all(poll.registry(), &listener, &mut connections)?;
                continue;
            }
            let Some(connection) = connections.get_mut(event.token().0) else { continue };
            if connection.on_event(event, &mut buffer).is_break() {
                connections.remove(event.token().0);
            }
        }
    }
}

impl Connection {
    fn on_event(&mut self, event: &Event, buffer: &mut [u8]) -> Next {
        self.read_closed |= event.is_read_closed() || event.is_error();
        if !self.backlog.is_empty() {
            self.flush()?;
        }
        // Also after a flush: the edge of data that arrived meanwhile has been consumed.
        self.echo(buffer)
    }

    fn echo(&mut self, buffer: &mut [u8]) -> Next {
        while self.backlog.is_empty() {
            let received = match self.stream.read(buffer) {
                Ok(0) => return Next::Break(()),
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Next::Continue(()),
                Err(_) => return Next::Break(()),
            };
            let sent = self.send(&buffer[..received])?;
            self.backlog.extend_from_slice(&buffer[sent..received]);
            if received < buffer.len() && !self.read_closed {
                break;
            }
        }
        Next::Continue(())
    }

    fn flush(&mut self) -> Next {
        let backlog = std::mem::take(&mut self.backlog);
        let sent = self.send(&backlog)?;
        if sent < backlog.len() {
            self.backlog = backlog;
            self.backlog.drain(..sent);
        }
        Next::Continue(())
    }

    /// Sends until the socket refuses: only then does mio report when it is writable again.
    fn send(&self, bytes: &[u8]) -> ControlFlow<(), usize> {
        let mut sent = 0;
        while sent < bytes.len() {
            match (&self.stream).write(&bytes[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return ControlFlow::Break(()),
            }
        }
        ControlFlow::Continue(sent)
    }
}

fn accept_all(registry: &Registry, listener: &TcpListener, connections: &mut Slab<Connection>) -> Result<()> {
    loop {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => return Ok(()),
                ErrorKind::Interrupted | ErrorKind::ConnectionAborted => continue,
                _ => return Err(format!("accept: {error}").into()),
            },
        };
        stream.set_nodelay(true)?;
        let entry = connections.vacant_entry();
        let both = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut stream, Token(entry.key()), both)?;
        entry.insert(Connection { stream, backlog: Vec::new(), read_closed: false });
    }
}
