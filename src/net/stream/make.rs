//! Streams that the program makes: of descriptors, in memory, and by connecting.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use super::ByteStream;
use super::handler::{Start, StreamHandler};
use crate::event_loop::tasks::completion::{Completer, Completion, completion};
use crate::event_loop::tasks::executor::with_loop;
use crate::event_loop::tasks::join_handle::JoinHandle;
use crate::event_loop::{EventLoop, Refused};
use crate::net::connection::TcpConnection;
use crate::net::connection::demand::StreamState;
use crate::net::connection::driver::ConnectionBuilder;

/// A stream on the loop, and the handler of its connection.
fn stream(event_loop: &EventLoop) -> (ByteStream, StreamHandler<()>) {
    let state = Rc::new(StreamState::new(event_loop));
    (ByteStream::new(Rc::clone(&state)), StreamHandler::new(state, ()))
}

impl ByteStream {
    /// Makes two streams on this thread's loop that are each other's peers, in memory. Same as
    /// [`ConnectionBuilder::pair_async`](crate::net::ConnectionBuilder::pair_async) with the
    /// default limits.
    ///
    /// # Errors
    /// Same as [`ConnectionBuilder::pair`](crate::net::ConnectionBuilder::pair).
    ///
    /// # Panics
    /// If this thread has no loop.
    pub fn pair() -> io::Result<(ByteStream, ByteStream)> {
        with_loop(|event_loop| TcpConnection::builder(event_loop).pair_async())
    }

    /// Makes a stream on this thread's loop of a connected socket, a pipe, a terminal or a file.
    /// Same as [`ConnectionBuilder::adopt_async`](crate::net::ConnectionBuilder::adopt_async) with
    /// the default limits.
    ///
    /// # Errors
    /// Same as [`ConnectionBuilder::adopt`](crate::net::ConnectionBuilder::adopt).
    ///
    /// # Panics
    /// If this thread has no loop.
    pub fn adopt<D>(descriptor: D) -> Result<ByteStream, Refused<D, io::Error>>
    where
        D: Into<OwnedFd> + From<OwnedFd>,
    {
        with_loop(|event_loop| TcpConnection::builder(event_loop).adopt_async(descriptor))
    }
}

impl ConnectionBuilder<'_> {
    /// Same as [`adopt`](ConnectionBuilder::adopt), as a byte stream for async functions. If the
    /// connection has filters, its operations wait for their handshakes.
    ///
    /// # Errors
    /// Same as [`adopt`](ConnectionBuilder::adopt).
    pub fn adopt_async<D>(self, descriptor: D) -> Result<ByteStream, Refused<D, io::Error>>
    where
        D: Into<OwnedFd> + From<OwnedFd>,
    {
        let (stream, handler) = stream(self.event_loop());
        self.dialer(handler.dialer()).adopt(descriptor, |_| handler).map(|_| stream)
    }

    /// Same as [`adopt_pipes`](ConnectionBuilder::adopt_pipes), as a byte stream for async
    /// functions.
    ///
    /// # Errors
    /// Same as [`adopt_pipes`](ConnectionBuilder::adopt_pipes).
    pub fn adopt_pipes_async<D, E>(
        self,
        input: D,
        output: E,
    ) -> Result<ByteStream, Refused<(D, E), io::Error>>
    where
        D: Into<OwnedFd> + From<OwnedFd>,
        E: Into<OwnedFd> + From<OwnedFd>,
    {
        let (stream, handler) = stream(self.event_loop());
        self.dialer(handler.dialer()).adopt_pipes(input, output, |_| handler).map(|_| stream)
    }

    /// Same as [`pair`](ConnectionBuilder::pair), as byte streams for async functions.
    ///
    /// # Errors
    /// Same as [`pair`](ConnectionBuilder::pair).
    pub fn pair_async(self) -> io::Result<(ByteStream, ByteStream)> {
        let (one, one_handler) = stream(self.event_loop());
        let (other, other_handler) = stream(self.event_loop());
        self.dialer(one_handler.dialer()).pair(|_| one_handler, |_| other_handler)?;
        Ok((one, other))
    }
}

/// Where the result of an attempt to connect goes. The client has it until it ends.
pub(in crate::net) struct Attempt(Cell<Option<Completer<io::Result<ByteStream>>>>);

impl Attempt {
    pub(in crate::net) fn new() -> (Attempt, Completion<io::Result<ByteStream>>) {
        let (completer, completion) = completion();
        (Attempt(Cell::new(Some(completer))), completion)
    }

    pub(in crate::net) fn finish(&self, result: io::Result<ByteStream>) {
        if let Some(completer) = self.0.take() {
            completer.complete(result);
        }
    }
}

/// Gives the stream of an attempt to the future that waits for it.
impl Start for Rc<Attempt> {
    fn start(self, _event_loop: &EventLoop, state: Rc<StreamState>) -> Option<JoinHandle<()>> {
        self.finish(Ok(ByteStream::new(state)));
        None
    }
}

/// The future of a client's connection, see
/// [`TcpClientBuilder::connect_async`](crate::net::TcpClientBuilder::connect_async). Its drop
/// cancels the attempts.
#[must_use = "the attempts are cancelled when this is dropped"]
pub struct Connecting {
    result: Completion<io::Result<ByteStream>>,
    /// Runs while the future waits, and is left to the loop with the connection. `release` does
    /// that, and a drop stops it.
    client: Option<Box<dyn ClientOwner>>,
}

/// The client of an attempt, which is of a higher module.
pub(in crate::net) trait ClientOwner {
    fn leave_to_loop(self: Box<Self>);
}

impl Connecting {
    pub(in crate::net) fn new(
        result: Completion<io::Result<ByteStream>>,
        client: Option<Box<dyn ClientOwner>>,
    ) -> Connecting {
        Connecting { result, client }
    }
}

impl Future for Connecting {
    type Output = io::Result<ByteStream>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<ByteStream>> {
        let result = ready!(Pin::new(&mut self.result).poll(context));
        if let Some(client) = self.client.take().filter(|_| matches!(result, Some(Ok(_)))) {
            client.leave_to_loop();
        }
        Poll::Ready(
            result.unwrap_or_else(|| {
                Err(io::Error::new(io::ErrorKind::BrokenPipe, "the event loop has ended"))
            }),
        )
    }
}

impl fmt::Debug for Connecting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connecting").finish_non_exhaustive()
    }
}
