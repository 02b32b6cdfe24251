//! [`ByteStream`]: a connection as a byte stream for async functions.

pub(in crate::net) mod halves;
pub(in crate::net) mod handler;
#[cfg(feature = "hyper")]
pub(crate) mod hyper;
pub(in crate::net) mod make;
pub(in crate::net) mod stop;
#[cfg(any(feature = "futures-io", feature = "tokio", feature = "hyper"))]
mod traits;
#[cfg(any(feature = "tokio", feature = "hyper"))]
mod uninit;

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::Duration;

use super::address::Address;
use super::connection::demand::{Listener, StreamState, Target};
use super::connection::{ConnectionCore, ConnectionState, TcpConnection};
use super::result::SendError;
use crate::buffer::Buffer;
use crate::event_loop::EventLoop;

/// A connection as a byte stream for async functions: of TCP, a Unix socket, a pipe, a pair in
/// memory, with or without TLS and other filters.
///
/// A [server](crate::net::TcpServerBuilder::serve_async) creates one for each connection,
/// [`connect`](ByteStream::connect) for a client, and [`pair`](ByteStream::pair) and
/// [`adopt`](ByteStream::adopt) for other descriptors. The limits, deadlines, memory budget and
/// filters of the connection apply, as they do to a handler. It is bound to its loop; any executor
/// on that thread can await its methods.
///
/// # Reading and back-pressure
/// Input is received only when a read demands it, directly into the buffer of the caller. While
/// nothing is read, the kernel's buffer fills and the peer is slowed down. With filters, the loop
/// decodes one input ahead.
///
/// A write waits while more than the [high-water mark](crate::net::ConnectionLimits::water_marks)
/// is unsent, or anything while the [memory](crate::net::TcpServerBuilder::max_buffered) of all
/// connections is scarce. Small writes of one poll leave together, in one system call, when a read
/// has to wait or the poll of the spawned future returns; [`flush`](ByteStream::flush) sends them
/// before. In a future of another executor each write is sent at once.
///
/// After 32 operations that did not have to wait, the next one returns to the executor once.
///
/// # Cancellation
/// Each method names what a dropped future has done. No dropped future loses bytes that were
/// received or accepted.
///
/// # Dropping
/// Dropping the stream closes the connection gracefully: accepted bytes are sent, then the FIN, and
/// input is discarded, for at most the
/// [`drain_timeout`](crate::net::ConnectionLimits::drain_timeout). The drop by a panic
/// resets the connection, since the peer must not take what it has received for complete.
///
/// # Errors
/// After an error of the connection, all methods return it: the kind is that of the kernel
/// (`ConnectionReset`), `UnexpectedEof` for a TLS stream that was truncated, `TimedOut` after a
/// timeout. `BrokenPipe` means that this end has closed or shut down the stream.
///
/// ```
/// use reveille::net::ByteStream;
/// use reveille::{Buffer, EventLoop};
///
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// event_loop.spawn_local(async {
///     let (mut one, mut other) = ByteStream::pair()?;
///     one.write_all("hello").await?;
///     let mut input = Buffer::new();
///     other.read_buf(&mut input).await?;
///     assert_eq!(input.readable(), b"hello");
///     std::io::Result::Ok(())
/// });
/// event_loop.run_until_idle()
/// # }
/// ```
#[must_use = "the connection closes when the stream is dropped"]
pub struct ByteStream {
    state: Rc<StreamState>,
}

impl ByteStream {
    pub(in crate::net) fn new(state: Rc<StreamState>) -> ByteStream {
        ByteStream { state }
    }

    /// Reads some bytes into `bytes`, and returns their number: 0 at the end of the input, or if
    /// `bytes` is empty.
    ///
    /// A dropped future has read nothing.
    ///
    /// # Errors
    /// See [`ByteStream`](ByteStream#errors).
    pub async fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        poll_fn(|context| self.poll_read_slice(context, bytes)).await
    }

    /// Appends some bytes to `input`, and returns their number: 0 at the end of the input.
    ///
    /// A buffer without storage borrows that of the loop, of the size of the loop's
    /// [input buffer](crate::EventLoopBuilder::input_buffer), and gives it back when the next read
    /// has to wait and the buffer is empty. So idle streams hold no buffer, and a steady stream
    /// allocates none.
    ///
    /// A dropped future has read nothing.
    ///
    /// # Errors
    /// See [`ByteStream`](ByteStream#errors).
    pub async fn read_buf(&mut self, input: &mut Buffer) -> io::Result<usize> {
        poll_fn(|context| self.poll_read(context, &mut Target::Buffer(&mut *input))).await
    }

    /// Fills `bytes`.
    ///
    /// A dropped future may have read a part of the bytes.
    ///
    /// # Errors
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) if the input ends before; otherwise see
    /// [`ByteStream`](ByteStream#errors).
    pub async fn read_exact(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while filled < bytes.len() {
            match self.read(&mut bytes[filled..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => filled += n,
            }
        }
        Ok(())
    }

    /// Sends `bytes`: waits while more than the high-water mark is unsent, and then completes when
    /// all bytes are accepted. What the kernel does not take now is copied to a queue.
    ///
    /// A dropped future has sent nothing, unless the bytes are more than may be queued now:
    /// [`max_unsent`](crate::net::ConnectionLimits::max_unsent), and more than 64 KiB while the
    /// memory of all connections is scarce. These are sent in pieces, and a dropped future has
    /// sent some of them.
    ///
    /// # Errors
    /// See [`ByteStream`](ByteStream#errors). [`OutOfMemory`](io::ErrorKind::OutOfMemory) if
    /// `max_unsent` is 0.
    pub async fn write_all(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.write_bytes(bytes.as_ref()).await
    }

    async fn write_bytes(&self, bytes: &[u8]) -> io::Result<()> {
        let mut sent = 0;
        poll_fn(|context| self.poll_write_all(context, bytes, &mut sent)).await
    }

    /// Same as [`write_all`](ByteStream::write_all), but what the kernel does not take now is
    /// queued without a copy.
    ///
    /// # Errors
    /// Same as [`write_all`](ByteStream::write_all).
    pub async fn write_owned(&mut self, bytes: impl Into<Vec<u8>>) -> io::Result<()> {
        let bytes = bytes.into();
        if poll_fn(|context| self.poll_room(context, bytes.len())).await? < bytes.len() {
            return self.write_all(bytes).await;
        }
        match self.with_open(|event_loop, core| core.send_vec(event_loop, bytes))? {
            Some(refused) => self.write_all(refused).await,
            None => Ok(()),
        }
    }

    /// Same as [`write_all`](ByteStream::write_all), for the bytes of a buffer, which is left
    /// empty. A large part that the kernel does not take now is queued with the buffer's storage,
    /// without a copy. A dropped future leaves the buffer as it was.
    ///
    /// # Errors
    /// Same as [`write_all`](ByteStream::write_all).
    pub async fn write_buf(&mut self, bytes: &mut Buffer) -> io::Result<()> {
        let mut sent = 0;
        poll_fn(|context| self.poll_write_buf(context, bytes, &mut sent)).await
    }

    /// Completes when the kernel has taken all bytes that were accepted.
    ///
    /// A dropped future changes nothing.
    ///
    /// # Errors
    /// See [`ByteStream`](ByteStream#errors).
    pub async fn flush(&mut self) -> io::Result<()> {
        poll_fn(|context| self.poll_flush_output(context)).await
    }

    /// Half-closes the stream: sends all bytes that were accepted, then the FIN, and completes when
    /// the kernel has taken both. Reads continue.
    ///
    /// After a dropped future that was polled, the shutdown continues.
    ///
    /// # Errors
    /// See [`ByteStream`](ByteStream#errors).
    pub async fn shutdown(&mut self) -> io::Result<()> {
        poll_fn(|context| self.poll_shutdown_output(context)).await
    }

    /// Closes the stream gracefully, `within` a deadline, and returns the result. It is `Ok` if the
    /// peer's system has received all bytes, and the peer has ended its output too. Further input
    /// is discarded.
    ///
    /// After a dropped future that was polled, the close continues.
    ///
    /// # Errors
    /// [`TimedOut`](io::ErrorKind::TimedOut) if the deadline has passed and the connection was
    /// reset; otherwise see [`ByteStream`](ByteStream#errors).
    pub async fn close(self, within: Duration) -> io::Result<()> {
        poll_fn(|context| match self.state.with(|_, _, _| ()) {
            Some(()) => Poll::Ready(Ok(())),
            None => self.poll_end(context, &self.state.writer),
        })
        .await?;
        self.state.with(|event_loop, core, _| TcpConnection::new(event_loop, core).close_gracefully(within));
        poll_fn(|context| match self.state.result() {
            Some(result) => Poll::Ready(result),
            None => {
                self.state.writer.listen(context);
                Poll::Pending
            }
        })
        .await
    }

    /// Calls `f` with the connection, for its options, deadlines, addresses and its handle.
    ///
    /// # Errors
    /// [`NotConnected`](io::ErrorKind::NotConnected) if the connection is closed, or not open yet.
    pub fn with_connection<R>(&self, f: impl FnOnce(&TcpConnection<'_>) -> R) -> io::Result<R> {
        let called = self.state.with(|event_loop, core, _| match core.state() {
            ConnectionState::Closed => None,
            _ => Some(f(&TcpConnection::new(event_loop, core))),
        });
        called.flatten().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// The address of the peer.
    ///
    /// # Errors
    /// Same as [`with_connection`](ByteStream::with_connection).
    pub fn peer_address(&self) -> io::Result<Address> {
        self.with_connection(|conn| conn.peer_address().clone())
    }

    /// The address of this end.
    ///
    /// # Errors
    /// Same as [`with_connection`](ByteStream::with_connection), and the error of getsockname(2).
    pub fn local_address(&self) -> io::Result<Address> {
        self.with_connection(|conn| conn.local_address())?
    }

    fn poll_read_slice(&self, context: &Context<'_>, bytes: &mut [u8]) -> Poll<io::Result<usize>> {
        self.poll_read(context, &mut Target::Slice(bytes))
    }

    fn poll_read(&self, context: &Context<'_>, into: &mut Target<'_>) -> Poll<io::Result<usize>> {
        let polled = self
            .state
            .with(|event_loop, core, ready| core.poll_receive(event_loop, &self.state, ready, context, into));
        polled.unwrap_or_else(|| self.poll_left(context, into))
    }

    /// Reads the input that was left when the connection closed, and then returns its end.
    #[cold]
    fn poll_left(&self, context: &Context<'_>, into: &mut Target<'_>) -> Poll<io::Result<usize>> {
        match self.state.take_left(into) {
            0 => self.poll_end(context, &self.state.reader).map(|ended| ended.map(|()| 0)),
            n => Poll::Ready(Ok(n)),
        }
    }

    /// Waits for the connection to open, or returns its end.
    #[cold]
    fn poll_end(&self, context: &Context<'_>, listener: &Listener) -> Poll<io::Result<()>> {
        match self.state.result() {
            Some(result) => Poll::Ready(result),
            None => {
                listener.listen(context);
                Poll::Pending
            }
        }
    }

    /// Same as [`poll_end`](ByteStream::poll_end), for output: any end is an error.
    #[cold]
    fn poll_end_of_output<T>(&self, context: &Context<'_>) -> Poll<io::Result<T>> {
        self.poll_end(context, &self.state.writer)
            .map(|ended| Err(ended.err().unwrap_or_else(|| SendError::Closed.into())))
    }

    fn poll_room(&self, context: &Context<'_>, len: usize) -> Poll<io::Result<usize>> {
        let polled = self.state.with(|_, core, _| core.poll_room(&self.state, context, len));
        polled.unwrap_or_else(|| self.poll_end_of_output(context))
    }

    fn with_open<R>(&self, send: impl FnOnce(&EventLoop, &ConnectionCore) -> io::Result<R>) -> io::Result<R> {
        self.state
            .with(|event_loop, core, _| send(event_loop, core))
            .unwrap_or_else(|| Err(SendError::Closed.into()))
    }

    /// Accepts as many bytes as the limit permits, which is at least one.
    #[inline]
    fn poll_write_slice(&self, context: &Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled =
            self.state.with(|event_loop, core, _| core.poll_write(event_loop, &self.state, context, bytes));
        polled.unwrap_or_else(|| self.poll_end_of_output(context))
    }

    fn poll_write_all(&self, context: &Context<'_>, bytes: &[u8], sent: &mut usize) -> Poll<io::Result<()>> {
        while *sent < bytes.len() {
            *sent += ready!(self.poll_write_slice(context, &bytes[*sent..]))?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_buf(
        &self,
        context: &Context<'_>,
        bytes: &mut Buffer,
        sent: &mut usize,
    ) -> Poll<io::Result<()>> {
        /// Less is cheaper to copy than to replace the storage.
        const LARGE: usize = 64 * 1024;
        let is_whole = bytes.len() >= LARGE && *sent == 0;
        if is_whole && ready!(self.poll_room(context, bytes.len()))? >= bytes.len() {
            let taken = std::mem::take(bytes);
            match self.with_open(|event_loop, core| core.send_buffer(event_loop, taken))? {
                Some(refused) => *bytes = refused,
                None => return Poll::Ready(Ok(())),
            }
        }
        ready!(self.poll_write_all(context, bytes.readable(), sent))?;
        bytes.clear();
        Poll::Ready(Ok(()))
    }

    #[cfg(any(feature = "futures-io", feature = "tokio", feature = "hyper"))]
    fn poll_write_slices(
        &self,
        context: &Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len: usize = slices.iter().map(|slice| slice.len()).sum();
        let polled = self.state.with(|event_loop, core, _| match core.poll_room(&self.state, context, len) {
            Poll::Ready(Ok(room)) if room >= len => match core.send_slices(event_loop, slices) {
                Ok(true) => Some(Poll::Ready(Ok(len))),
                Ok(false) => None,
                Err(error) => Some(Poll::Ready(Err(error))),
            },
            Poll::Ready(Ok(_)) => None,
            waits_or_fails => Some(waits_or_fails),
        });
        match polled {
            Some(Some(polled)) => polled,
            // More than is permitted at once.
            Some(None) => {
                let first = slices.iter().find(|slice| !slice.is_empty());
                self.poll_write_slice(context, first.map_or(&[], |slice| slice))
            }
            None => self.poll_end_of_output(context),
        }
    }

    fn poll_flush_output(&self, context: &Context<'_>) -> Poll<io::Result<()>> {
        let polled = self.state.with(|event_loop, core, _| core.poll_flush(event_loop, &self.state, context));
        polled.unwrap_or_else(|| self.poll_end(context, &self.state.writer))
    }

    fn poll_shutdown_output(&self, context: &Context<'_>) -> Poll<io::Result<()>> {
        let polled =
            self.state.with(|event_loop, core, _| core.poll_shutdown(event_loop, &self.state, context));
        polled.unwrap_or_else(|| self.poll_end(context, &self.state.writer))
    }
}

impl Drop for ByteStream {
    fn drop(&mut self) {
        self.state.with(|event_loop, core, _| match thread::panicking() {
            true => core.reset_after_panic(event_loop),
            false => core.release_stream(event_loop),
        });
    }
}

impl fmt::Debug for ByteStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByteStream").field("peer_address", &self.peer_address().ok()).finish_non_exhaustive()
    }
}
