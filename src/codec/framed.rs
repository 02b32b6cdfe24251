//! A connection handler whose input is frames.

use std::io;
use std::os::fd::OwnedFd;

use super::{Decoder, FrameError, decode_checked};
use crate::buffer::Buffer;
use crate::event_loop::containment::Contained;
use crate::net::disposal::close_descriptors;
use crate::net::{CloseReason, ConnectionHandler, ConnectionState, TcpConnection};

/// A [`ConnectionHandler`] for frames instead of bytes: combines a decoder with a handler of its
/// frames.
///
/// A complete frame borrows from the input without a copy. Only the received bytes of an incomplete
/// frame are buffered. Memory is therefore bounded by the decoder's limit; a length prefix never
/// preallocates. The server's [`max_unread`](crate::net::ConnectionLimits::max_unread) also
/// applies, and belongs above the decoder's limit.
///
/// Sends within [`on_frame`](FrameHandler::on_frame) are replies. No frames are delivered while the
/// handler has [paused](TcpConnection::pause_reading) reading, or while the connection has
/// [paused itself](crate::net::ConnectionLimits::water_marks) because too many replies are unsent.
/// This includes frames that have been received already; they are delivered when reading resumes.
/// After [`close`](TcpConnection::close) no frames are delivered.
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
    /// No more frames are decoded.
    failed: bool,
}

/// Handles the frames of one connection, and its other events like a [`ConnectionHandler`]. Wrapped
/// in a [`Framed`].
pub trait FrameHandler<D: Decoder>: 'static {
    /// Same as [`ConnectionHandler::on_open`].
    ///
    /// # Errors
    /// Those of the implementation; the connection is closed.
    fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        let _ = conn;
        Ok(())
    }

    /// A frame has arrived.
    ///
    /// # Errors
    /// Those of the implementation; the connection is closed.
    fn on_frame(&mut self, conn: &TcpConnection<'_>, frame: D::Frame<'_>) -> io::Result<()>;

    /// No more frames follow. Either the input is malformed, or the peer has finished within a
    /// frame; in the latter case [`on_peer_shutdown`](FrameHandler::on_peer_shutdown) follows.
    /// Called at most once.
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
    ///     conn.shutdown();
    ///     // Closes earlier if the peer finishes.
    ///     conn.close_after(std::time::Duration::from_secs(5));
    ///     Ok(())
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of the implementation; the connection is closed.
    fn on_frame_error(&mut self, conn: &TcpConnection<'_>, error: FrameError<D::Error>) -> io::Result<()> {
        let _ = conn;
        Err(error.into())
    }

    /// Same as [`ConnectionHandler::on_descriptors`]. The descriptors precede the frames that end
    /// in the bytes they were sent with.
    ///
    /// # Errors
    /// Those of the implementation; the connection is closed.
    fn on_descriptors(&mut self, conn: &TcpConnection<'_>, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let _ = conn;
        close_descriptors(descriptors);
        Ok(())
    }

    /// Same as [`ConnectionHandler::on_drained`].
    ///
    /// # Errors
    /// Those of the implementation; the connection is closed.
    fn on_drained(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        let _ = conn;
        Ok(())
    }

    /// Same as [`ConnectionHandler::on_high_water`].
    ///
    /// # Errors
    /// Those of the implementation; the connection is closed.
    fn on_high_water(&mut self, conn: &TcpConnection<'_>, unsent: usize) -> io::Result<()> {
        let _ = (conn, unsent);
        Ok(())
    }

    /// Same as [`ConnectionHandler::on_low_water`].
    ///
    /// # Errors
    /// Those of the implementation; the connection is closed.
    fn on_low_water(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        let _ = conn;
        Ok(())
    }

    /// Same as [`ConnectionHandler::on_peer_shutdown`]. All frames have been delivered.
    ///
    /// # Errors
    /// Those of the implementation; the connection is closed.
    fn on_peer_shutdown(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        conn.shutdown();
        Ok(())
    }

    /// Same as [`ConnectionHandler::on_idle`].
    ///
    /// # Errors
    /// Those of the implementation; the connection is closed.
    fn on_idle(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        conn.close_for(CloseReason::Idle);
        Ok(())
    }

    /// Same as [`ConnectionHandler::on_stop`].
    ///
    /// # Errors
    /// Those of the implementation; the connection is closed.
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
        Framed { decoder, handler, buffered: 0, failed: false }
    }

    fn fail(&mut self, conn: &TcpConnection<'_>, error: FrameError<D::Error>) -> io::Result<()> {
        self.failed = true;
        self.handler.on_frame_error(conn, error)
    }
}

impl<D: Decoder + 'static, H: FrameHandler<D>> ConnectionHandler for Framed<D, H> {
    fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.handler.on_open(conn)
    }

    fn on_message(&mut self, conn: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()> {
        while !self.failed && !input.is_empty() {
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
            input.consume(taken);
            if conn.state() == ConnectionState::Closed || conn.is_held() {
                break;
            }
        }
        if self.failed || conn.state() == ConnectionState::Closed {
            input.clear();
        }
        self.buffered = input.len();
        Ok(())
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

    fn on_stop(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        self.handler.on_stop(conn)
    }

    fn on_peer_shutdown(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        if self.buffered > 0 {
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
