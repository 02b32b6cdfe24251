//! The callbacks of a connection.

use std::any::{Any, TypeId};
use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use crate::buffer::Buffer;
use crate::event_loop::containment::Contained;
use crate::net::connection::TcpConnection;
use crate::net::disposal::close_descriptors;
use crate::net::result::{CloseReason, IntoHandlerResult};

/// The per-connection state of a protocol, and its callbacks.
///
/// Each connection has one value of this type, created when the connection opens; what the protocol
/// must remember goes into its fields. Callbacks run on the connection's loop with `&mut self` and
/// are never re-entered, so the type needs neither locks nor `RefCell`, and need not be `Send`.
///
/// Bytes sent from [`on_message`](ConnectionHandler::on_message) and
/// [`on_descriptors`](ConnectionHandler::on_descriptors) are replies. A connection whose unsent
/// replies exceed the high-water mark stops reading until they have fallen to the low-water mark.
/// Bytes sent at any other time are unsolicited, and never stop the connection from reading. See
/// [`water_marks`](crate::net::ConnectionLimits::water_marks).
///
/// A callback that returns an error closes its connection. Output that was accepted before is still
/// sent, within the [drain timeout](crate::net::ConnectionLimits::drain_timeout); the only later
/// callback is [`on_close`](ConnectionHandler::on_close), which receives the error. Calls of
/// [handles](crate::ConnectionHandle::with) still run until then. A panic closes
/// the connection at once. Other connections are not affected.
///
/// ```
/// use reveille::{Buffer, ConnectionHandler, TcpConnection};
/// use std::io;
///
/// /// Replies to each line with its number.
/// #[derive(Default)]
/// struct LineCounter {
///     lines: u64,
/// }
///
/// impl ConnectionHandler for LineCounter {
///     fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
///         while let Some(end) = input.find(b'\n') {
///             input.consume(end + 1);
///             self.lines += 1;
///             conn.send(format!("{}\n", self.lines))?;
///         }
///         Ok(()) // an incomplete line stays in the buffer until its end arrives
///     }
/// }
/// ```
pub trait ConnectionHandler: 'static {
    /// The connection is open. This is the first call, unless the factory has closed the connection
    /// or stopped its server or client; then [`on_close`](ConnectionHandler::on_close) is the only
    /// call.
    ///
    /// # Errors
    /// Returned by the implementation; the connection is closed.
    fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        let _ = conn;
        Ok(())
    }

    /// Bytes have arrived. Bytes left in `input` are delivered again together with later input, and
    /// also on their own when reading resumes: after
    /// [`resume_reading`](TcpConnection::resume_reading), and at the end of an
    /// [automatic pause](crate::net::ConnectionLimits::water_marks). Bytes sent from here count
    /// towards that pause.
    ///
    /// # Errors
    /// Returned by the implementation; the connection is closed.
    fn on_message(&mut self, conn: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()>;

    /// Descriptors have arrived, on a connection that [accepts
    /// them](TcpConnection::accept_descriptors). The next call is
    /// [`on_message`](ConnectionHandler::on_message) with the bytes that they were sent with, after
    /// any earlier bytes.
    ///
    /// The descriptors belong to this process and are close-on-exec; dropping them closes them. The
    /// peer chooses which files they refer to: a read or write may block, fail, or have side
    /// effects.
    ///
    /// By default [`close_descriptors`] closes them. An implementation should close unwanted ones
    /// in the same way, since a peer can make a close block for any length of time.
    ///
    /// # Errors
    /// Returned by the implementation; the connection is closed.
    fn on_descriptors(&mut self, conn: &TcpConnection<'_>, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let _ = conn;
        close_descriptors(descriptors);
        Ok(())
    }

    /// The kernel has taken all queued output. Called each time the queue becomes empty, and once
    /// after each [`notify_drained`](TcpConnection::notify_drained). Neither this nor
    /// [`on_low_water`](ConnectionHandler::on_low_water) is called for a queue that was dropped
    /// because the output has [failed](crate::net::ConnectionState).
    ///
    /// # Errors
    /// Returned by the implementation; the connection is closed.
    fn on_drained(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        let _ = conn;
        Ok(())
    }

    /// The unsent bytes have passed the high-water mark; there are `unsent` of them. Called once,
    /// in a later turn than the send that passed the mark, and again only after
    /// [`on_low_water`](ConnectionHandler::on_low_water).
    ///
    /// Replies need no action here: the connection [pauses
    /// reading](crate::net::ConnectionLimits::water_marks) when they alone exceed the mark. This
    /// callback is for unsolicited output, for example from a timer or another connection, whose
    /// producer should stop. The connection keeps reading, and accepts bytes up to `max_unsent`.
    ///
    /// # Errors
    /// Returned by the implementation; the connection is closed.
    fn on_high_water(&mut self, conn: &TcpConnection<'_>, unsent: usize) -> io::Result<()> {
        let _ = (conn, unsent);
        Ok(())
    }

    /// The unsent bytes have fallen to the low-water mark: a producer that
    /// [`on_high_water`](ConnectionHandler::on_high_water) has stopped can resume. Called once
    /// after each `on_high_water`, and before [`on_drained`](ConnectionHandler::on_drained) if both
    /// are due.
    ///
    /// # Errors
    /// Returned by the implementation; the connection is closed.
    fn on_low_water(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        let _ = conn;
        Ok(())
    }

    /// The peer has shut down its sending side (FIN); it may still read. All its bytes have been
    /// passed to [`on_message`](ConnectionHandler::on_message).
    ///
    /// Default: shuts down this end too, [when no work is
    /// outstanding](TcpConnection::shutdown_after_work). Accepted output is still sent, and then
    /// the connection closes. A handler whose replies are computed elsewhere either declares that
    /// work, by [`reserve_reply`](TcpConnection::reserve_reply) or
    /// [`keep_open`](TcpConnection::keep_open), or overrides this callback.
    ///
    /// # Errors
    /// Returned by the implementation; the connection is closed.
    fn on_peer_shutdown(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        conn.shutdown_after_work();
        Ok(())
    }

    /// No byte was received or sent for the [idle timeout](TcpConnection::set_idle_timeout).
    ///
    /// Default: closes the connection with [`CloseReason::Idle`]. If an implementation keeps it
    /// open, for example after sending a ping, the timeout restarts.
    ///
    /// # Errors
    /// Returned by the implementation; the connection is closed.
    fn on_idle(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        conn.close_for(CloseReason::Idle);
        Ok(())
    }

    /// The [deadline](TcpConnection::set_deadline) of the connection has passed. It is no longer
    /// set.
    ///
    /// Default: closes the connection with [`CloseReason::TimedOut`].
    ///
    /// # Errors
    /// Returned by the implementation; the connection is closed.
    fn on_deadline(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        conn.close_for(CloseReason::TimedOut);
        Ok(())
    }

    /// The deadline of an incomplete frame has passed, see
    /// [`Framed::frame_timeout`](crate::codec::Framed::frame_timeout).
    #[doc(hidden)]
    fn on_frame_timeout(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        let _ = conn;
        Ok(())
    }

    /// The handshake of a filter that was [added](TcpConnection::add_filter) is done. All input
    /// that follows has passed through the filter.
    ///
    /// # Errors
    /// Returned by the implementation; the connection is closed.
    fn on_upgrade(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        let _ = conn;
        Ok(())
    }

    /// The server is [stopping](crate::TcpServer::stop), and the handler can still send. When this
    /// returns, the connection is shut down, further input is discarded, and
    /// [`on_message`](ConnectionHandler::on_message) is not called again. Unread input is lost, so
    /// a partly received request has to be finished here. A connection that is
    /// [linked](TcpConnection::relay_to) continues instead.
    ///
    /// # Errors
    /// Returned by the implementation; the connection is closed.
    fn on_stop(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        let _ = conn;
        Ok(())
    }

    /// The connection is closed. This is the last call, and it is always made. The bytes that
    /// [`unsent`](TcpConnection::unsent) still counts are lost.
    fn on_close(&mut self, conn: &TcpConnection<'_>, reason: &CloseReason) {
        let _ = (conn, reason);
    }

    /// Returns how to get from this handler to the one of type `wanted`: to itself, or to one
    /// inside. `None` if there is none.
    ///
    /// Only a handler that wraps another one overrides this, such as
    /// [`Framed`](crate::codec::Framed). It is a static function, so that a handle knows on any
    /// thread whether a type is right.
    fn locate(wanted: TypeId) -> Option<fn(&mut Self) -> &mut dyn Any>
    where
        Self: Sized,
    {
        (wanted == TypeId::of::<Self>()).then_some(|this: &mut Self| this as &mut dyn Any)
    }
}

/// A closure as a handler.
pub(in crate::net) struct OnMessage<F>(pub(in crate::net) F);

impl<F> ConnectionHandler for OnMessage<F>
where
    F: FnMut(&TcpConnection<'_>, &mut Buffer) -> io::Result<()> + 'static,
{
    fn on_message(&mut self, conn: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()> {
        (self.0)(conn, input)
    }
}

/// A closure as the handler of several connections of one loop.
pub(in crate::net) struct Shared<F>(Rc<RefCell<Contained<F>>>);

impl<F, R> ConnectionHandler for Shared<F>
where
    F: FnMut(&TcpConnection<'_>, &mut Buffer) -> R + 'static,
    R: IntoHandlerResult,
{
    fn on_message(&mut self, conn: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()> {
        // Callbacks never nest, so this borrow always succeeds.
        (self.0.borrow_mut())(conn, input).into_result()
    }
}

/// Returns a factory of handlers that share `on_message`.
pub(in crate::net) fn shared<F>(on_message: F) -> impl FnMut(&TcpConnection<'_>) -> Shared<F> {
    let shared = Rc::new(RefCell::new(Contained::new(on_message)));
    move |_| Shared(Rc::clone(&shared))
}
