//! [`Filter`]: changes the bytes between a connection's transport and its handler.

use std::any::Any;
use std::fmt;
use std::io;
use std::sync::Arc;

use crate::buffer::Buffer;
use crate::event_loop::EventLoop;
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::containment::Contained;

/// Changes the bytes of a connection between its socket and its handler, in both directions: for
/// example compression or encryption.
///
/// A filter belongs to one connection. It is added by the builder of a server, a client or an
/// [adopted](crate::net::ConnectionBuilder) connection, with a closure that creates one for each
/// connection. With several filters, the first that was added is next to the socket:
///
/// ```text
/// socket ──▶ decode ──▶ decode ──▶ handler        (input)
/// socket ◀── encode ◀── encode ◀── handler        (output, in pieces)
///            first      second
/// ```
///
/// The handler does not change and does not see the filter. Everything that it sends, and
/// everything that others send on the connection (handles, groups, reserved replies, files, a
/// relay), passes through the filter. Sizes and limits of the connection count the handler's bytes,
/// except that a piece counts as unsent until all of its encoded bytes are sent. The input of a
/// connection that has paused reading is not decoded.
///
/// A filter may begin with a handshake, as TLS does: until [`is_ready`](Filter::is_ready) returns
/// `true` for all filters, the handler is not created, and output waits.
///
/// All methods are called on the connection's loop. Each has a default that passes the bytes on. A
/// filter that passes on a buffer with [`Buffer::append_buffer`] copies nothing. A method that
/// panics closes the connection with
/// [`CloseReason::Panicked`](crate::net::CloseReason::Panicked).
///
/// Descriptors cannot be passed over a connection with filters.
///
/// # Examples
/// A server whose handler sees plain text, and whose peers see ROT13:
/// ```
/// use reveille::net::{Filter, FilterContext};
/// use reveille::{Buffer, EventLoop, TcpServer};
/// use std::io;
///
/// struct Rot13;
///
/// fn rotate(input: &mut Buffer, output: &mut Buffer) {
///     for byte in input.readable_mut() {
///         *byte = match *byte {
///             b'a'..=b'z' => (*byte - b'a' + 13) % 26 + b'a',
///             b'A'..=b'Z' => (*byte - b'A' + 13) % 26 + b'A',
///             other => other,
///         };
///     }
///     output.append_buffer(input);
/// }
///
/// impl Filter for Rot13 {
///     fn decode(
///         &mut self,
///         _: &mut FilterContext<'_>,
///         input: &mut Buffer,
///         output: &mut Buffer,
///     ) -> io::Result<()> {
///         rotate(input, output);
///         Ok(())
///     }
///
///     fn encode(
///         &mut self,
///         _: &mut FilterContext<'_>,
///         input: &mut Buffer,
///         output: &mut Buffer,
///     ) -> io::Result<()> {
///         rotate(input, output);
///         Ok(())
///     }
/// }
///
/// # fn main() -> io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// let _server = TcpServer::bind(&event_loop, "127.0.0.1:0")?
///     .filter(|| Rot13)
///     .serve_fn(|conn, input| conn.send(input.take_all()))?;
/// # Ok(())
/// # }
/// ```
pub trait Filter: 'static {
    /// The connection is established. Called before its handler is created.
    ///
    /// # Errors
    /// An error closes the connection, and no handler is created.
    fn on_open(&mut self, _context: &mut FilterContext<'_>) -> io::Result<()> {
        Ok(())
    }

    /// Whether the filter can pass on the bytes of the handler. `false` during a handshake.
    /// Default: `true`. Checked after [`on_open`](Filter::on_open) and
    /// [`decode`](Filter::decode), until it has returned `true`.
    ///
    /// When all filters are ready, the handler is created and
    /// [`on_open`](crate::ConnectionHandler::on_open) is called. Before that, neither
    /// [`encode`](Filter::encode) nor [`finish`](Filter::finish) of any filter is called. A
    /// connection that is not ready after
    /// [`handshake_timeout`](crate::net::ConnectionLimits::handshake_timeout) closes with
    /// [`TimedOut`](io::ErrorKind::TimedOut), and one that is not ready after
    /// [`on_peer_shutdown`](Filter::on_peer_shutdown) with
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof).
    fn is_ready(&self) -> bool {
        true
    }

    /// Moves bytes from `input`, which came from the peer, to `output`, toward the handler, after
    /// those that `output` holds already.
    ///
    /// Bytes that it leaves in `input` are offered again, before those that arrive next. More than
    /// [`max_unread`](crate::net::ConnectionLimits::max_unread) of them, and more than
    /// [`PIECE`](FilterContext::PIECE), close the connection, unless the filter calls
    /// [`decode_again`](FilterContext::decode_again).
    ///
    /// A filter whose output may be much longer than its input, such as a decompressor, should stop
    /// after about [`PIECE`](FilterContext::PIECE) bytes and call
    /// [`decode_again`](FilterContext::decode_again). Otherwise a peer can make it fill the memory.
    ///
    /// # Errors
    /// An error closes the connection. Bytes in [`to_peer`](FilterContext::to_peer) are sent before
    /// if the socket takes them, and bytes in `output` are lost.
    fn decode(
        &mut self,
        _context: &mut FilterContext<'_>,
        input: &mut Buffer,
        output: &mut Buffer,
    ) -> io::Result<()> {
        output.append_buffer(input);
        Ok(())
    }

    /// Moves all bytes from `input`, which came from the handler, to `output`, toward the peer.
    /// Called when the output leaves: with what a callback has sent, and then with pieces of the
    /// queue of at most [`PIECE`](FilterContext::PIECE) bytes, as fast as the peer reads them.
    ///
    /// The filter may hold bytes back, until a later call or [`finish`](Filter::finish). The
    /// connection counts them as sent. They are lost if the connection closes without a call of
    /// `finish`.
    ///
    /// # Errors
    /// An error closes the connection, and so do bytes that are left in `input`.
    fn encode(
        &mut self,
        _context: &mut FilterContext<'_>,
        input: &mut Buffer,
        output: &mut Buffer,
    ) -> io::Result<()> {
        output.append_buffer(input);
        Ok(())
    }

    /// The peer has ended its input. `input` holds what [`decode`](Filter::decode) has left; the
    /// last bytes for the handler go to `output`.
    ///
    /// # Errors
    /// An error closes the connection, for example because the input is truncated. By default,
    /// bytes in `input` are such an error.
    fn on_peer_shutdown(
        &mut self,
        _context: &mut FilterContext<'_>,
        input: &mut Buffer,
        _output: &mut Buffer,
    ) -> io::Result<()> {
        if input.is_empty() {
            return Ok(());
        }
        let message = format!("the input ended within an encoded unit, after {} bytes of it", input.len());
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, message))
    }

    /// The connection shuts down: the last bytes toward the peer go to `output`. Called after all
    /// output has been encoded, and before the FIN. Also called by a close without a shutdown that
    /// discards no output; then the last bytes are sent as far as the socket takes them. Not called
    /// before a reset, or if the connection closes with an error of the socket or of a filter.
    ///
    /// # Errors
    /// An error resets the connection, since the peer may miss bytes.
    fn finish(&mut self, _context: &mut FilterContext<'_>, _output: &mut Buffer) -> io::Result<()> {
        Ok(())
    }
}

/// The connection, as a call of a [`Filter`] sees it.
#[derive(Debug)]
pub struct FilterContext<'a> {
    pub(super) event_loop: &'a EventLoop,
    pub(super) to_peer: &'a mut Buffer,
    pub(super) decode_again: bool,
    pub(super) has_ended: bool,
    pub(super) is_waiting: bool,
    /// `None` in a call for output.
    #[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "only TLS waits"))]
    connection: Option<ChannelId>,
}

/// Ends the wait of a filter.
#[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "only TLS waits"))]
pub(super) struct FilterWaker(Option<ChannelId>);

/// The message to the connection of a filter whose wait has ended.
#[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "only TLS waits"))]
pub(super) struct FilterWoken;

#[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "only TLS waits"))]
impl FilterWaker {
    /// Without effect if the connection has closed. Called while no filter runs.
    pub(super) fn wake(self, event_loop: &EventLoop) {
        if let Some(id) = self.0 {
            event_loop.send_control(id, &mut FilterWoken);
        }
    }
}

impl<'a> FilterContext<'a> {
    pub(super) fn new(
        event_loop: &'a EventLoop,
        to_peer: &'a mut Buffer,
        connection: Option<ChannelId>,
    ) -> FilterContext<'a> {
        FilterContext {
            event_loop,
            to_peer,
            decode_again: false,
            has_ended: false,
            is_waiting: false,
            connection,
        }
    }

    /// Makes the connection receive nothing until the waker is used. Then
    /// [`decode`](Filter::decode) is called again. Without effect in methods other than that.
    #[cfg_attr(not(feature = "tls"), allow(dead_code, reason = "only TLS waits"))]
    pub(super) fn wait(&mut self) -> FilterWaker {
        self.is_waiting = true;
        FilterWaker(self.connection)
    }

    /// The number of bytes, 64 KiB, that a filter should not exceed by much in one call, and that
    /// [`encode`](Filter::encode) gets at most from the queue.
    pub const PIECE: usize = 64 * 1024;

    /// The loop of the connection.
    pub fn event_loop(&self) -> &'a EventLoop {
        self.event_loop
    }

    /// Bytes toward the peer that no handler has sent, such as a reply to a request of the filter's
    /// own protocol. They leave after everything that was encoded before. They pass through the
    /// filters between this one and the socket, and do not count as unsent.
    pub fn to_peer(&mut self) -> &mut Buffer {
        self.to_peer
    }

    /// Makes [`decode`](Filter::decode) be called again with what is left in `input`, in the next
    /// turn of the loop or when the handler resumes reading. Nothing is received before that.
    /// Without effect in other methods.
    pub fn decode_again(&mut self) {
        self.decode_again = true;
    }

    /// Ends the input: the peer has ended it by a message of the filter's protocol, such as the
    /// close_notify of TLS. The handler gets what is in `output`, and then
    /// [`on_peer_shutdown`](crate::ConnectionHandler::on_peer_shutdown). The filter is given no
    /// more input, and what follows from the peer is discarded. Without effect in methods other
    /// than [`decode`](Filter::decode).
    pub fn end_input(&mut self) {
        self.has_ended = true;
    }
}

/// A filter of any type, which [`TcpConnection::filter`](crate::TcpConnection::filter) finds by its
/// type.
pub(super) trait AnyFilter: Filter {
    fn as_any(&mut self) -> &mut dyn Any;
}

impl<F: Filter> AnyFilter for F {
    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

/// The filter of one connection.
pub(super) type BoxedFilter = Contained<Box<dyn AnyFilter>>;

type Make = Contained<Box<dyn Fn() -> Box<dyn AnyFilter> + Send + Sync>>;

/// The closures that create the filters of each connection, in order from the socket to the
/// handler.
#[derive(Clone, Default)]
pub(crate) struct FilterFactories(Vec<Arc<Make>>);

impl FilterFactories {
    pub(super) fn add<F: Filter>(&mut self, make: impl Fn() -> F + Send + Sync + 'static) {
        self.0.push(Arc::new(Contained::new(Box::new(move || Box::new(make()) as Box<dyn AnyFilter>))));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Creates the filters of a connection. Calls user code.
    pub(super) fn create(&self) -> Vec<BoxedFilter> {
        self.0.iter().map(|make| Contained::new(make())).collect()
    }
}

impl fmt::Debug for FilterFactories {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FilterFactories").field(&self.0.len()).finish()
    }
}
