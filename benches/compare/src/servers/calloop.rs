//! calloop: a level-triggered `Generic` source per connection, one shared buffer.

use std::cell::RefCell;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::rc::Rc;

use calloop::generic::Generic;
use calloop::{
    EventLoop, EventSource, Interest, LoopHandle, Mode, Poll, PostAction, Readiness, Token, TokenFactory,
};

use super::{SHARED_BUFFER, announce, listener};
use crate::Result;

type Buffer = Rc<RefCell<Box<[u8]>>>;

pub(super) fn serve() -> Result<()> {
    let listener = listener()?;
    let address = listener.local_addr()?;
    let mut event_loop: EventLoop<()> = EventLoop::try_new()?;
    let handle = event_loop.handle();
    let buffer: Buffer = Rc::new(RefCell::new(vec![0; SHARED_BUFFER].into()));
    let source = Generic::new(listener, Interest::READ, Mode::Level);
    event_loop.handle().insert_source(source, move |_, listener, ()| {
        accept_all(listener, &handle, &buffer)?;
        Ok(PostAction::Continue)
    })?;
    announce(address)?;
    event_loop.run(None, &mut (), |()| {})?;
    Ok(())
}

fn accept_all(listener: &TcpListener, handle: &LoopHandle<'static, ()>, buffer: &Buffer) -> io::Result<()> {
    loop {
        let socket = match listener.accept() {
            Ok((socket, _)) => socket,
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock => return Ok(()),
                ErrorKind::Interrupted | ErrorKind::ConnectionAborted => continue,
                _ => return Err(io::Error::new(error.kind(), format!("accept: {error}"))),
            },
        };
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        let connection = Connection {
            socket: Generic::new(socket, Interest::READ, Mode::Level),
            backlog: Vec::new(),
            buffer: Rc::clone(buffer),
        };
        handle.insert_source(connection, |(), (), ()| ()).map_err(|error| io::Error::other(error.error))?;
    }
}

/// An echoing socket. It wraps a `Generic` source, because only a source can change its own
/// interest, and a connection with a backlog waits for writability.
struct Connection {
    socket: Generic<TcpStream>,
    backlog: Vec<u8>,
    buffer: Buffer,
}

impl EventSource for Connection {
    type Event = ();
    type Metadata = ();
    type Ret = ();
    type Error = io::Error;

    fn process_events<F>(&mut self, readiness: Readiness, token: Token, _: F) -> io::Result<PostAction>
    where
        F: FnMut((), &mut ()),
    {
        let Connection { socket, backlog, buffer } = self;
        let action = socket.process_events(readiness, token, |_, stream| {
            let result = if backlog.is_empty() {
                echo(stream, backlog, &mut buffer.borrow_mut())
            } else {
                flush(stream, backlog)
            };
            // An error ends this connection; if it were returned, it would end the loop.
            Ok(result.unwrap_or(PostAction::Remove))
        })?;
        if action == PostAction::Continue && socket.interest.writable == backlog.is_empty() {
            socket.interest = if backlog.is_empty() { Interest::READ } else { Interest::WRITE };
            return Ok(PostAction::Reregister);
        }
        Ok(action)
    }

    fn register(&mut self, poll: &mut Poll, tokens: &mut TokenFactory) -> calloop::Result<()> {
        self.socket.register(poll, tokens)
    }

    fn reregister(&mut self, poll: &mut Poll, tokens: &mut TokenFactory) -> calloop::Result<()> {
        self.socket.reregister(poll, tokens)
    }

    fn unregister(&mut self, poll: &mut Poll) -> calloop::Result<()> {
        self.socket.unregister(poll)
    }
}

fn echo(mut stream: &TcpStream, backlog: &mut Vec<u8>, buffer: &mut [u8]) -> io::Result<PostAction> {
    let received = match stream.read(buffer) {
        Ok(0) => return Ok(PostAction::Remove),
        Ok(received) => received,
        Err(error) if would_wait(&error) => return Ok(PostAction::Continue),
        Err(error) => return Err(error),
    };
    let sent = send(stream, &buffer[..received])?;
    backlog.extend_from_slice(&buffer[sent..received]);
    Ok(PostAction::Continue)
}

fn flush(stream: &TcpStream, backlog: &mut Vec<u8>) -> io::Result<PostAction> {
    let sent = send(stream, backlog)?;
    backlog.drain(..sent);
    Ok(PostAction::Continue)
}

fn send(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    match stream.write(bytes) {
        Err(error) if would_wait(&error) => Ok(0),
        result => result,
    }
}

fn would_wait(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
