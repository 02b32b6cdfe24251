//! What a connection calls back.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use crate::buffer::Buffer;
use crate::event_loop::containment::Contained;
use crate::net::connection::TcpConnection;
use crate::net::disposal::close_descriptors;
use crate::net::result::{CloseReason, IntoHandlerResult};

/// The state of one connection, and what it does when something happens.
///
/// One value per connection, made when the connection is; what the protocol must remember are its fields. It is called on the
/// connection's loop with `&mut self` and never re-entered, so it needs no locks and no `RefCell`; nor need it be `Send`.
///
/// What it sends in [`on_message`](ConnectionHandler::on_message) and [`on_descriptors`](ConnectionHandler::on_descriptors) are
/// replies: a connection whose unsent replies pass the high-water mark reads nothing more until they have fallen to the
/// low-water mark. What it sends at any other time is unsolicited, and never stops the connection from reading. See
/// [`water_marks`](crate::TcpServerBuilder::water_marks).
///
/// A method that returns an error has its connection closed, and [`on_close`](ConnectionHandler::on_close) gets the error.
/// A method that panics likewise. Other connections do not notice.
///
/// ```
/// use reveille::{Buffer, ConnectionHandler, TcpConnection};
/// use std::io;
///
/// /// Answers each line with its number.
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
///         Ok(()) // an incomplete line stays in the buffer, and comes again with what follows it
///     }
/// }
/// ```
pub trait ConnectionHandler: 'static {
    /// The connection is open. The first call, unless the factory has closed the connection or ended its server or client: then
    /// [`on_close`](ConnectionHandler::on_close) is the only one.
    ///
    /// # Errors
    /// Those of the implementation; the connection is closed.
    fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        let _ = conn;
        Ok(())
    }

    /// Bytes have come. What is left in `input` comes again, with the bytes that follow, and also without any when reading
    /// resumes: after [`resume_reading`](TcpConnection::resume_reading), and at the end of an
    /// [automatic pause](crate::TcpServerBuilder::water_marks). What is sent from here counts towards that pause.
    ///
    /// # Errors
    /// Those of the implementation; the connection is closed.
    fn on_message(&mut self, conn: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()>;

    /// Descriptors have come, on a connection that [takes them](TcpConnection::accept_descriptors). The next call is the
    /// [`on_message`](ConnectionHandler::on_message) with the bytes that they were sent with, behind others that came before.
    ///
    /// They are this process's own from now on, closed when they are dropped and when another program is executed. What they are, the
    /// peer has chosen: to read from one or write to one may block or fail, and may have effects.
    ///
    /// By default they are closed by [`close_descriptors`]. An implementation closes those that it does not want in the same way: a close
    /// may block for as long as the peer likes.
    ///
    /// # Errors
    /// Those of the implementation; the connection is closed.
    fn on_descriptors(&mut self, conn: &TcpConnection<'_>, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let _ = conn;
        close_descriptors(descriptors);
        Ok(())
    }

    /// The kernel has taken all that was queued for sending. Called each time a queue has emptied, and once after each
    /// [`notify_drained`](TcpConnection::notify_drained). Not called for a queue that was dropped because the output has
    /// [failed](crate::ConnectionState); nor is [`on_low_water`](ConnectionHandler::on_low_water).
    ///
    /// # Errors
    /// Those of the implementation; the connection is closed.
    fn on_drained(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        let _ = conn;
        Ok(())
    }

    /// More is unsent than the high-water mark allows: `unsent` bytes. Called once, in a later turn than the send that passed the mark,
    /// and again only after [`on_low_water`](ConnectionHandler::on_low_water).
    ///
    /// Replies need no attention here: the connection [pauses by itself](crate::TcpServerBuilder::water_marks) when they alone
    /// pass the mark. This is for unsolicited output, such as that of a timer or of another connection, whose source is to stop:
    /// the connection goes on reading, and accepts bytes up to the limit (`max_unsent`).
    ///
    /// # Errors
    /// Those of the implementation; the connection is closed.
    fn on_high_water(&mut self, conn: &TcpConnection<'_>, unsent: usize) -> io::Result<()> {
        let _ = (conn, unsent);
        Ok(())
    }

    /// The unsent bytes have fallen to the low-water mark: what [`on_high_water`](ConnectionHandler::on_high_water) has stopped can go
    /// on. Called once after each of those, before [`on_drained`](ConnectionHandler::on_drained) if that is due
    /// as well.
    ///
    /// # Errors
    /// Those of the implementation; the connection is closed.
    fn on_low_water(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        let _ = conn;
        Ok(())
    }

    /// The peer will send no more; it may still read. All it has sent has been passed to
    /// [`on_message`](ConnectionHandler::on_message).
    ///
    /// Unless this is written otherwise the connection is [shut down](TcpConnection::shutdown) in turn: what has been accepted for
    /// sending is still sent, and then both ends are done.
    ///
    /// # Errors
    /// Those of the implementation; the connection is closed.
    fn on_peer_shutdown(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        conn.shutdown();
        Ok(())
    }

    /// No byte has come or gone for as long as the connection may be [idle](TcpConnection::set_idle_timeout).
    ///
    /// Unless this is written otherwise the connection is closed, with [`CloseReason::Idle`]. If it is kept (and, say, the peer asked
    /// whether it is still there) the time begins anew.
    ///
    /// # Errors
    /// Those of the implementation; the connection is closed.
    fn on_idle(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        conn.close_for(CloseReason::Idle);
        Ok(())
    }

    /// The server is being [stopped](crate::TcpServer::stop): now is the time for a last word. When this has returned the connection is
    /// shut down, what still comes in is thrown away, and [`on_message`](ConnectionHandler::on_message) is not called any more. What it has
    /// left unread by then is lost, so a request that is half done is finished here, or never. A connection that is
    /// [linked](TcpConnection::relay_to) with another goes on instead.
    ///
    /// # Errors
    /// Those of the implementation; the connection is closed.
    fn on_stop(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        let _ = conn;
        Ok(())
    }

    /// The connection is closed. The last call, and there is always one. What [`unsent`](TcpConnection::unsent) still counts
    /// is lost.
    fn on_close(&mut self, conn: &TcpConnection<'_>, reason: &CloseReason) {
        let _ = (conn, reason);
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
        // Callbacks never nest, so this one is never borrowed twice.
        (self.0.borrow_mut())(conn, input).into_result()
    }
}

/// Makes the handlers of connections that share `on_message`.
pub(in crate::net) fn shared<F>(on_message: F) -> impl FnMut(&TcpConnection<'_>) -> Shared<F> {
    let shared = Rc::new(RefCell::new(Contained::new(on_message)));
    move |_| Shared(Rc::clone(&shared))
}
