//! `Peer`: a test acts as the peer of a handler, without a socket and without waiting.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;

use crate::event_loop::EventLoop;
use crate::net::connection::driver::ConnectionBuilder;
use crate::net::connection::handler::ConnectionHandler;
use crate::net::connection::{ConnectionHandle, TcpConnection};
use crate::net::sys::memory::MemoryEnd;
use crate::net::sys::transport::Transferred;

/// The other end of a connection, with which a test acts as the peer of a handler.
///
/// The connection is one end of a [pair in memory](crate::net::ConnectionBuilder::pair). Each
/// method runs the loop until no work is left ([`run_ready`](EventLoop::run_ready)), before it
/// returns. So the handler has seen what the test has sent, and nothing depends on the time or on
/// the kernel. Timers of the handler fire when the test advances a
/// [`VirtualClock`](crate::time::VirtualClock).
///
/// Bound to the loop's thread. Dropping it closes its end.
///
/// ```
/// use reveille::codec::{FrameHandler, Framed, LineCodec};
/// use reveille::testing::Peer;
/// use reveille::time::VirtualClock;
/// use reveille::{EventLoop, TcpConnection};
/// use std::io;
/// use std::time::Duration;
///
/// struct Greeter;
///
/// impl FrameHandler<LineCodec> for Greeter {
///     fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
///         conn.set_deadline(Duration::from_secs(30));
///         Ok(())
///     }
///     fn on_frame(&mut self, conn: &TcpConnection, name: &[u8]) -> io::Result<()> {
///         Ok(conn.send(format!("hello, {}\n", String::from_utf8_lossy(name)))?)
///     }
/// }
///
/// # fn main() -> io::Result<()> {
/// let clock = VirtualClock::new();
/// let event_loop = EventLoop::builder().virtual_clock(clock.clone()).build()?;
/// let peer = Peer::connect(&event_loop, |_| Framed::new(LineCodec::new(100), Greeter))?;
///
/// peer.send("Ada\nGra")?;
/// assert_eq!(peer.received()?, b"hello, Ada\n");
/// peer.send("ce\n")?;
/// assert_eq!(peer.received()?, b"hello, Grace\n");
///
/// clock.advance(Duration::from_secs(30));
/// assert!(peer.is_closed()?);
/// # Ok(())
/// # }
/// ```
pub struct Peer<'a> {
    event_loop: &'a EventLoop,
    /// `None` once this end is closed.
    end: RefCell<Option<MemoryEnd>>,
    connection: ConnectionHandle,
    /// What the connection has not taken yet.
    unsent: RefCell<Vec<u8>>,
    /// The output is shut down after `unsent`.
    is_shut_down: Cell<bool>,
    has_ended: Cell<bool>,
    /// The error of the last attempt to send.
    error: Cell<Option<io::Error>>,
}

impl<'a> Peer<'a> {
    /// Connects to a handler on `event_loop` that `factory` creates. The handler's `on_open` has
    /// run when this returns.
    ///
    /// # Errors
    /// Those of [`run_ready`](EventLoop::run_ready) and
    /// [`ConnectionBuilder::pair`](crate::net::ConnectionBuilder::pair).
    pub fn connect<F, H>(event_loop: &'a EventLoop, factory: F) -> io::Result<Peer<'a>>
    where
        F: FnOnce(&TcpConnection<'_>) -> H + 'static,
        H: ConnectionHandler,
    {
        Peer::connect_with(TcpConnection::builder(event_loop), factory)
    }

    /// Same as [`connect`](Peer::connect), with the settings of the handler's connection, such as
    /// its limits.
    ///
    /// ```
    /// use reveille::codec::{Framed, LineCodec};
    /// use reveille::net::ConnectionLimits;
    /// use reveille::testing::Peer;
    /// use reveille::{EventLoop, TcpConnection};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let event_loop = EventLoop::new()?;
    /// let limits = ConnectionLimits::new().max_unread(1024);
    /// let builder = TcpConnection::builder(&event_loop).limits(limits);
    /// let echo = Framed::from_fn(LineCodec::new(100), |conn, line: &[u8]| conn.send(line));
    /// let peer = Peer::connect_with(builder, |_| echo)?;
    /// peer.send("hello\n")?;
    /// assert_eq!(peer.received()?, b"hello");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Same as [`connect`](Peer::connect).
    pub fn connect_with<F, H>(builder: ConnectionBuilder<'a>, factory: F) -> io::Result<Peer<'a>>
    where
        F: FnOnce(&TcpConnection<'_>) -> H + 'static,
        H: ConnectionHandler,
    {
        let (end, connected) = MemoryEnd::pair();
        let connection = builder.connect_end(connected, factory)?;
        let event_loop = builder.event_loop();
        let peer = Peer {
            event_loop,
            end: RefCell::new(Some(end)),
            connection,
            unsent: RefCell::default(),
            is_shut_down: Cell::new(false),
            has_ended: Cell::new(false),
            error: Cell::new(None),
        };
        peer.run()?;
        Ok(peer)
    }

    /// Sends bytes to the handler. What the connection does not take, because it does not read, is
    /// [unsent](Peer::unsent), and later calls continue to send it.
    ///
    /// # Errors
    /// [`BrokenPipe`](io::ErrorKind::BrokenPipe) if the connection is closed, or this end is shut
    /// down; [`ConnectionReset`](io::ErrorKind::ConnectionReset) if it was reset. Those of
    /// [`run_ready`](EventLoop::run_ready).
    pub fn send(&self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        if self.is_shut_down.get() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.unsent.borrow_mut().extend_from_slice(bytes.as_ref());
        self.run()?;
        self.error.take().map_or(Ok(()), Err)
    }

    /// The number of bytes that the connection has not taken: its input is paused.
    pub fn unsent(&self) -> usize {
        self.unsent.borrow().len()
    }

    /// Takes all that the handler has sent since the last call.
    ///
    /// # Errors
    /// [`ConnectionReset`](io::ErrorKind::ConnectionReset), once and after the last byte, if the
    /// connection was reset. Those of [`run_ready`](EventLoop::run_ready).
    pub fn received(&self) -> io::Result<Vec<u8>> {
        let mut received = Vec::new();
        loop {
            let before = received.len();
            self.run()?;
            received.extend(self.take(usize::MAX));
            if received.len() == before {
                break;
            }
        }
        if received.is_empty() {
            self.check_end()?;
        }
        Ok(received)
    }

    /// Takes at most `max` bytes of what the handler has sent, as a peer that reads slowly. The
    /// rest stays in the pair, which holds 64 KiB, and in the queue of the connection.
    ///
    /// # Errors
    /// Same as [`received`](Peer::received).
    pub fn receive(&self, max: usize) -> io::Result<Vec<u8>> {
        self.run()?;
        let received = self.take(max);
        if received.is_empty() {
            self.check_end()?;
        }
        self.run()?;
        Ok(received)
    }

    /// Ends the input of the handler, after all bytes that were sent.
    ///
    /// # Errors
    /// Those of [`run_ready`](EventLoop::run_ready).
    pub fn shutdown(&self) -> io::Result<()> {
        self.is_shut_down.set(true);
        self.run()
    }

    /// Closes this end. If output of the handler is unread, the handler's connection is reset.
    ///
    /// # Errors
    /// Those of [`run_ready`](EventLoop::run_ready).
    pub fn close(&self) -> io::Result<()> {
        self.end.take();
        self.run()
    }

    /// Resets the handler's connection.
    ///
    /// # Errors
    /// Those of [`run_ready`](EventLoop::run_ready).
    pub fn reset(&self) -> io::Result<()> {
        if let Some(end) = self.end.take() {
            end.reset_on_close();
        }
        self.run()
    }

    /// Whether the handler's connection has ended its output, and all of that was
    /// [received](Peer::received).
    ///
    /// # Errors
    /// Same as [`received`](Peer::received).
    pub fn is_ended(&self) -> io::Result<bool> {
        self.run()?;
        self.check_end()?;
        Ok(self.has_ended.get())
    }

    /// Whether the handler's connection is closed.
    ///
    /// # Errors
    /// Those of [`run_ready`](EventLoop::run_ready).
    pub fn is_closed(&self) -> io::Result<bool> {
        self.run()?;
        Ok(!self.connection.is_open())
    }

    /// The handler's connection, for example to call the handler
    /// ([`with`](ConnectionHandle::with)).
    pub fn connection(&self) -> &ConnectionHandle {
        &self.connection
    }

    /// Runs the loop and sends until neither has an effect.
    fn run(&self) -> io::Result<()> {
        loop {
            self.event_loop.run_ready()?;
            if !self.offer() {
                return Ok(());
            }
        }
    }

    /// Offers what is unsent. Returns whether that had an effect.
    fn offer(&self) -> bool {
        let end = self.end.borrow();
        let Some(end) = &*end else { return false };
        let mut unsent = self.unsent.borrow_mut();
        if unsent.is_empty() {
            return self.is_shut_down.get() && end.end_output();
        }
        match end.send(&unsent) {
            Ok(Transferred::Bytes(taken)) => {
                unsent.drain(..taken);
                true
            }
            Ok(Transferred::WouldBlock) => false,
            Err(error) => {
                self.error.set(Some(error));
                false
            }
        }
    }

    /// Takes at most `max` bytes.
    fn take(&self, max: usize) -> Vec<u8> {
        let end = self.end.borrow();
        let available = end.as_ref().map_or(0, MemoryEnd::available);
        let mut bytes = vec![0; max.min(available)];
        if let Some(end) = end.as_ref().filter(|_| !bytes.is_empty()) {
            // There are as many bytes, so this reads them.
            let _ = end.receive(&mut bytes);
        }
        bytes
    }

    /// Takes the end of the output of the handler's connection, if nothing is before it.
    fn check_end(&self) -> io::Result<()> {
        let reset = self.error.take().filter(|error| error.kind() == io::ErrorKind::ConnectionReset);
        if let Some(error) = reset {
            return Err(error);
        }
        if let Some(end) = self.end.borrow().as_ref().filter(|end| end.available() == 0) {
            self.has_ended.set(matches!(end.receive(&mut [0; 1])?, Transferred::Bytes(0)));
        }
        Ok(())
    }
}

impl fmt::Debug for Peer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("connection", &self.connection)
            .field("unsent", &self.unsent())
            .field("has_ended", &self.has_ended.get())
            .finish_non_exhaustive()
    }
}
