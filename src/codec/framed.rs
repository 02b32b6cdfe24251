//! A connection handler whose input is frames.

use std::any::{Any, TypeId};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::{Decoder, FrameError, decode_checked};
use crate::buffer::Buffer;
use crate::event_loop::containment::Contained;
use crate::net::disposal::close_descriptors;
use crate::net::{CloseReason, ConnectionHandler, ConnectionState, IntoHandlerResult, TcpConnection};

/// A [`ConnectionHandler`] for frames instead of bytes: combines a decoder with a handler of its
/// frames.
///
/// A complete frame borrows from the input without a copy. Only the received bytes of an incomplete
/// frame are buffered. Memory is therefore bounded by the decoder's limit; a length prefix never
/// reserves memory. The server's [`max_unread`](crate::net::ConnectionLimits::max_unread) also
/// applies, and must be larger than the decoder's limit.
///
/// Sends within [`on_frame`](FrameHandler::on_frame) are replies. All frames of an input are
/// delivered in one batch, and what the handler sends leaves in one system call after the last of
/// them. No frames are delivered while the handler has [paused](TcpConnection::pause_reading)
/// reading, or while the connection has
/// [paused itself](crate::net::ConnectionLimits::water_marks) because too many replies are unsent,
/// or [as many as allowed](crate::net::ConnectionLimits::max_open_replies) are reserved.
/// This includes frames that have been received already; they are delivered when reading resumes.
///
/// After a [`close`](TcpConnection::close), and after a [`shutdown`](TcpConnection::shutdown) in
/// `on_frame`, no more frames are delivered, and further input is discarded. A handler that shuts
/// down elsewhere, such as a client in `on_open` after its request, still gets frames.
///
/// # Examples
/// ```no_run
/// use reveille::{Buffer, EventLoop, TcpConnection, TcpServer};
/// use reveille::codec::{FrameHandler, Framed, LineCodec};
/// use std::io;
///
/// /// Sends each line back in upper case.
/// struct Shout {
///     codec: LineCodec,
///     output: Buffer,
/// }
///
/// impl FrameHandler<LineCodec> for Shout {
///     fn on_frame(&mut self, conn: &TcpConnection, line: &[u8]) -> io::Result<()> {
///         self.codec.encode(&line.to_ascii_uppercase(), &mut self.output)?;
///         conn.send(self.output.take_all())?;
///         Ok(())
///     }
/// }
///
/// # fn main() -> io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// let codec = LineCodec::new(1000);
/// let _server = TcpServer::bind(&event_loop, "127.0.0.1:2007")?.serve(move |_| {
///     Framed::new(codec.clone(), Shout { codec: codec.clone(), output: Buffer::new() })
/// })?;
/// event_loop.run()
/// # }
/// ```
#[derive(Debug)]
pub struct Framed<D, H> {
    decoder: Contained<D>,
    handler: Contained<H>,
    /// The number of buffered bytes of an incomplete frame.
    buffered: usize,
    /// The time limit of an incomplete frame.
    frame_timeout: Option<Duration>,
    /// The deadline of an incomplete frame is set.
    is_timing: bool,
    /// No more frames are delivered.
    ended: bool,
}

/// The callbacks of a connection whose input is frames. Wrapped in a [`Framed`], which is a
/// [`ConnectionHandler`].
pub trait FrameHandler<D: Decoder>: 'static {
    /// Same as [`ConnectionHandler::on_open`].
    ///
    /// # Errors
    /// Returned by the implementation; the connection is closed.
    fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        let _ = conn;
        Ok(())
    }

    /// A frame has arrived.
    ///
    /// # Errors
    /// Returned by the implementation; the connection is closed.
    fn on_frame(&mut self, conn: &TcpConnection<'_>, frame: D::Frame<'_>) -> io::Result<()>;

    /// All frames that have arrived are processed; at least one was. What was sent leaves when this
    /// returns.
    ///
    /// # Errors
    /// Returned by the implementation; the connection is closed.
    fn on_batch_end(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        let _ = conn;
        Ok(())
    }

    /// The input cannot be decoded further: it is malformed, the peer has finished within a frame,
    /// or a frame was not complete [in time](Framed::frame_timeout). In the second case
    /// [`on_peer_shutdown`](FrameHandler::on_peer_shutdown) follows. Called at most once.
    ///
    /// Default: returns the error, which closes the connection. An implementation that returns `Ok`
    /// keeps the connection open and discards further input, so that it can report the error to the
    /// peer:
    /// ```
    /// # use reveille::TcpConnection;
    /// # use reveille::codec::{FrameError, FrameHandler, LineCodec, LineError};
    /// # use std::io;
    /// # struct Handler;
    /// # impl FrameHandler<LineCodec> for Handler {
    /// #     fn on_frame(&mut self, _: &TcpConnection, _: &[u8]) -> io::Result<()> { Ok(()) }
    /// fn on_frame_error(
    ///     &mut self,
    ///     conn: &TcpConnection,
    ///     error: FrameError<LineError>,
    /// ) -> io::Result<()> {
    ///     conn.send(format!("500 {error}\r\n"))?;
    ///     conn.close_gracefully(std::time::Duration::from_secs(5));
    ///     Ok(())
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// Returned by the implementation; the connection is closed.
    fn on_frame_error(&mut self, conn: &TcpConnection<'_>, error: FrameError<D::Error>) -> io::Result<()> {
        let _ = conn;
        Err(error.into())
    }

    /// Same as [`ConnectionHandler::on_descriptors`]. Called before `on_frame` for the frames that
    /// end in the bytes sent with the descriptors.
    ///
    /// # Errors
    /// Returned by the implementation; the connection is closed.
    fn on_descriptors(&mut self, conn: &TcpConnection<'_>, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let _ = conn;
        close_descriptors(descriptors);
        Ok(())
    }

    /// Same as [`ConnectionHandler::on_drained`].
    ///
    /// # Errors
    /// Returned by the implementation; the connection is closed.
    fn on_drained(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        let _ = conn;
        Ok(())
    }

    /// Same as [`ConnectionHandler::on_high_water`].
    ///
    /// # Errors
    /// Returned by the implementation; the connection is closed.
    fn on_high_water(&mut self, conn: &TcpConnection<'_>, unsent: usize) -> io::Result<()> {
        let _ = (conn, unsent);
        Ok(())
    }

    /// Same as [`ConnectionHandler::on_low_water`].
    ///
    /// # Errors
    /// Returned by the implementation; the connection is closed.
    fn on_low_water(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        let _ = conn;
        Ok(())
    }

    /// Same as [`ConnectionHandler::on_peer_shutdown`]. All frames have been delivered.
    ///
    /// # Errors
    /// Returned by the implementation; the connection is closed.
    fn on_peer_shutdown(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        conn.shutdown_after_work();
        Ok(())
    }

    /// Same as [`ConnectionHandler::on_idle`].
    ///
    /// # Errors
    /// Returned by the implementation; the connection is closed.
    fn on_idle(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        conn.close_for(CloseReason::Idle);
        Ok(())
    }

    /// Same as [`ConnectionHandler::on_deadline`].
    ///
    /// # Errors
    /// Returned by the implementation; the connection is closed.
    fn on_deadline(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        conn.close_for(CloseReason::TimedOut);
        Ok(())
    }

    /// Same as [`ConnectionHandler::on_upgrade`].
    ///
    /// # Errors
    /// Returned by the implementation; the connection is closed.
    fn on_upgrade(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        let _ = conn;
        Ok(())
    }

    /// Same as [`ConnectionHandler::on_stop`].
    ///
    /// # Errors
    /// Returned by the implementation; the connection is closed.
    fn on_stop(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        let _ = conn;
        Ok(())
    }

    /// Same as [`ConnectionHandler::on_close`].
    fn on_close(&mut self, conn: &TcpConnection<'_>, reason: &CloseReason) {
        let _ = (conn, reason);
    }
}

impl<D: Decoder, H: FrameHandler<D>> Framed<D, H> {
    /// Creates the handler of a new connection.
    pub fn new(decoder: D, handler: H) -> Framed<D, H> {
        let (decoder, handler) = (Contained::new(decoder), Contained::new(handler));
        Framed { decoder, handler, buffered: 0, frame_timeout: None, is_timing: false, ended: false }
    }

    /// Limits the time from the arrival of the first bytes of a frame to its last. Default: no
    /// limit. When it passes, [`on_frame_error`](FrameHandler::on_frame_error) gets
    /// [`FrameError::TimedOut`]. This ends connections whose peers send a byte from time to time,
    /// which an idle timeout does not. A connection does not time out while its reading is paused;
    /// then the time starts again when reading resumes.
    ///
    /// A frame that arrives in one piece costs nothing, and any other a few nanoseconds.
    ///
    /// # Panics
    /// If the limit is zero.
    #[track_caller]
    pub fn frame_timeout(mut self, limit: Duration) -> Framed<D, H> {
        assert!(!limit.is_zero(), "the time limit of a frame must be more than zero");
        self.frame_timeout = Some(limit);
        self
    }

    fn fail(&mut self, conn: &TcpConnection<'_>, error: FrameError<D::Error>) -> io::Result<()> {
        self.ended = true;
        self.handler.on_frame_error(conn, error)
    }

    /// Delivers the complete frames at the front of `input`. Returns whether there were any.
    fn deliver(&mut self, conn: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<bool> {
        let could_send = !conn.is_shut_down();
        let mut delivered = false;
        while !self.ended && !input.is_empty() {
            let taken = match decode_checked(&mut *self.decoder, input.readable()) {
                Ok(Some((frame, taken))) => {
                    self.handler.on_frame(conn, frame)?;
                    taken
                }
                Ok(None) => break,
                Err(error) => {
                    self.fail(conn, FrameError::Malformed(error))?;
                    break;
                }
            };
            delivered = true;
            input.consume(taken);
            // Replies to further frames could not be sent.
            self.ended = could_send && conn.is_shut_down();
            if conn.state() == ConnectionState::Closed || conn.is_held() {
                break;
            }
        }
        Ok(delivered)
    }

    /// Sets the deadline of an incomplete frame when its first bytes have arrived, and removes it
    /// when the frame is complete.
    fn update_deadline(&mut self, conn: &TcpConnection<'_>, is_new: bool) {
        if self.frame_timeout.is_none() {
            return;
        }
        let is_incomplete = self.buffered > 0 && !self.ended && !conn.is_held();
        if is_incomplete != self.is_timing || (is_incomplete && is_new) {
            self.is_timing = is_incomplete;
            conn.set_frame_deadline(self.frame_timeout.filter(|_| is_incomplete));
        }
    }
}

impl<D: Decoder, F> Framed<D, OnFrame<F>> {
    /// Creates a handler that calls `on_frame` for each frame.
    ///
    /// ```no_run
    /// use reveille::codec::{Framed, LineCodec};
    /// use reveille::{EventLoop, TcpServer};
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let event_loop = EventLoop::new()?;
    /// let _server = TcpServer::bind(&event_loop, "127.0.0.1:2007")?.serve(|_| {
    ///     Framed::from_fn(LineCodec::new(1000), |conn, line| {
    ///         conn.send(format!("{} bytes\n", line.len()))
    ///     })
    /// })?;
    /// event_loop.run()
    /// # }
    /// ```
    pub fn from_fn<R>(decoder: D, on_frame: F) -> Framed<D, OnFrame<F>>
    where
        F: for<'a> FnMut(&TcpConnection<'_>, D::Frame<'a>) -> R + 'static,
        R: IntoHandlerResult,
    {
        Framed::new(decoder, OnFrame(on_frame))
    }
}

/// A closure as a [`FrameHandler`]. Created by [`Framed::from_fn`].
#[derive(Debug)]
pub struct OnFrame<F>(F);

impl<D: Decoder, F, R> FrameHandler<D> for OnFrame<F>
where
    F: for<'a> FnMut(&TcpConnection<'_>, D::Frame<'a>) -> R + 'static,
    R: IntoHandlerResult,
{
    fn on_frame(&mut self, conn: &TcpConnection<'_>, frame: D::Frame<'_>) -> io::Result<()> {
        (self.0)(conn, frame).into_result()
    }
}

impl<D: Decoder + 'static, H: FrameHandler<D>> ConnectionHandler for Framed<D, H> {
    fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.handler.on_open(conn)
    }

    fn on_message(&mut self, conn: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()> {
        let mut any_delivered = false;
        loop {
            let delivered = self.deliver(conn, input)?;
            any_delivered |= delivered;
            let was_held = conn.is_held();
            if delivered && conn.state() != ConnectionState::Closed {
                self.handler.on_batch_end(conn)?;
            }
            // Reading that is paused and resumed within one callback redelivers nothing.
            let has_resumed = was_held && !conn.is_held() && conn.state() != ConnectionState::Closed;
            if !has_resumed {
                break;
            }
        }
        if self.ended || conn.state() == ConnectionState::Closed {
            input.clear();
        }
        self.buffered = input.len();
        self.update_deadline(conn, any_delivered);
        Ok(())
    }

    fn on_frame_timeout(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.is_timing = false;
        match self.buffered {
            0 => Ok(()),
            // The limit starts again when reading resumes, which delivers the buffered bytes again.
            _ if conn.is_held() => Ok(()),
            bytes => self.fail(conn, FrameError::TimedOut { bytes }),
        }
    }

    fn on_deadline(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.handler.on_deadline(conn)
    }

    fn locate(wanted: TypeId) -> Option<fn(&mut Self) -> &mut dyn Any> {
        if wanted == TypeId::of::<H>() {
            Some(|this| &mut *this.handler)
        } else {
            (wanted == TypeId::of::<Self>()).then_some(|this: &mut Self| this as &mut dyn Any)
        }
    }

    fn on_descriptors(&mut self, conn: &TcpConnection<'_>, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        self.handler.on_descriptors(conn, descriptors)
    }

    fn on_drained(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.handler.on_drained(conn)
    }

    fn on_high_water(&mut self, conn: &TcpConnection<'_>, unsent: usize) -> io::Result<()> {
        self.handler.on_high_water(conn, unsent)
    }

    fn on_low_water(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.handler.on_low_water(conn)
    }

    fn on_idle(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.handler.on_idle(conn)
    }

    fn on_upgrade(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.handler.on_upgrade(conn)
    }

    fn on_stop(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.handler.on_stop(conn)
    }

    fn on_peer_shutdown(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        if self.buffered > 0 && !self.ended && !conn.discards_input() {
            self.fail(conn, FrameError::Incomplete { bytes: self.buffered })?;
            if conn.state() == ConnectionState::Closed {
                return Ok(());
            }
        }
        self.handler.on_peer_shutdown(conn)
    }

    fn on_close(&mut self, conn: &TcpConnection<'_>, reason: &CloseReason) {
        self.handler.on_close(conn, reason);
    }
}
