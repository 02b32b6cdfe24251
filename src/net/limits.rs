//! The limits of a connection.

use std::time::Duration;

/// The limits of each connection of a server, of a client, or of one that is
/// [adopted](crate::net::ConnectionBuilder). Sizes are in bytes.
///
/// ```
/// use reveille::net::ConnectionLimits;
/// use reveille::{EventLoop, TcpServer};
/// use std::time::Duration;
///
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// let limits = ConnectionLimits::new()
///     .water_marks(256 * 1024, 64 * 1024)
///     .idle_timeout(Duration::from_secs(60));
/// let _server = TcpServer::bind(&event_loop, "127.0.0.1:0")?
///     .limits(limits)
///     .serve_fn(|conn, input| conn.send(input.take_all()))?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "limits take effect when they are given to a server or a client"]
pub struct ConnectionLimits {
    pub(super) high_water: usize,
    pub(super) low_water: usize,
    /// Whether a connection stops reading when its replies exceed the high-water mark.
    pub(super) pauses_for_replies: bool,
    pub(super) max_unsent: usize,
    pub(super) max_unread: usize,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) handshake_timeout: Duration,
    pub(super) drain_timeout: Duration,
    pub(super) max_open_replies: usize,
}

impl Default for ConnectionLimits {
    fn default() -> ConnectionLimits {
        const MIB: usize = 1024 * 1024;
        ConnectionLimits {
            high_water: 4 * MIB,
            low_water: MIB,
            pauses_for_replies: true,
            max_unsent: 16 * MIB,
            max_unread: 16 * MIB,
            idle_timeout: None,
            handshake_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(10),
            max_open_replies: 1024,
        }
    }
}

impl ConnectionLimits {
    /// The defaults, which each method names.
    pub fn new() -> ConnectionLimits {
        ConnectionLimits::default()
    }

    /// The high-water mark and low-water mark of a connection's unsent bytes. Default: 4 MiB and
    /// 1 MiB. A low mark above the high mark is reduced to it. A high mark of 0 is passed by every
    /// unsent byte, and a low mark of 0 is reached when all bytes are sent.
    ///
    /// The marks serve two purposes:
    ///
    /// - **Notification.** [`on_high_water`](crate::ConnectionHandler::on_high_water) and
    ///   [`on_low_water`](crate::ConnectionHandler::on_low_water) refer to all unsent output.
    /// - **Automatic pause.** A connection whose unsent *replies* exceed the high mark stops
    ///   reading until they have fallen to the low mark. This bounds the replies to a peer that
    ///   sends requests and does not read. A reply is output that the handler sends on its own
    ///   connection while it is given input: in
    ///   [`on_message`](crate::ConnectionHandler::on_message),
    ///   [`on_descriptors`](crate::ConnectionHandler::on_descriptors) or
    ///   [`on_frame`](crate::codec::FrameHandler::on_frame). Parts of files count.
    ///
    /// All other output is *unsolicited*: output that is sent in any other callback, such as
    /// `on_open` or `on_drained`, or through a [`ConnectionHandle`](crate::ConnectionHandle),
    /// whether from a timer, a task, another connection or another thread. It never stops the
    /// connection from reading. Otherwise two peers that both send much before they read would
    /// deadlock. It is bounded by [`max_unsent`](ConnectionLimits::max_unsent): a send that would
    /// exceed it fails with [`SendError::Full`](crate::net::SendError::Full).
    ///
    /// A handler whose replies are computed elsewhere and sent through a handle therefore limits
    /// its input itself, with [`pause_reading`](crate::TcpConnection::pause_reading).
    /// [Linked](crate::TcpConnection::relay_to) connections pause each other instead.
    pub fn water_marks(mut self, high: usize, low: usize) -> ConnectionLimits {
        self.high_water = high;
        self.low_water = low.min(high);
        self
    }

    /// Disables the automatic pause that [`water_marks`](ConnectionLimits::water_marks) describes:
    /// the connection keeps reading regardless of its unsent output.
    ///
    /// For protocols in which a peer may send any amount before it reads its first reply. Replies
    /// are then bounded like unsolicited output, by [`max_unsent`](ConnectionLimits::max_unsent)
    /// alone.
    pub fn no_automatic_pause(mut self) -> ConnectionLimits {
        self.pauses_for_replies = false;
        self
    }

    /// The maximum number of unsent bytes. A send that would exceed it fails with
    /// [`SendError::Full`](crate::net::SendError::Full). Default: 16 MiB.
    ///
    /// Set it well above the sum of the high-water mark and the unsolicited output. Otherwise
    /// replies are refused before the connection pauses. With 0 every send of at least one byte is
    /// refused.
    pub fn max_unsent(mut self, bytes: usize) -> ConnectionLimits {
        self.max_unsent = bytes;
        self
    }

    /// The maximum number of input bytes that a handler may leave unread. A connection that exceeds
    /// it is closed. Default: 16 MiB. With 0 a handler must take all input in each call. Input that
    /// the handler was not offered yet, such as an incomplete record of TLS, does not count.
    pub fn max_unread(mut self, bytes: usize) -> ConnectionLimits {
        self.max_unread = bytes;
        self
    }

    /// The time after which an idle connection's handler gets
    /// [`on_idle`](crate::ConnectionHandler::on_idle), which closes the connection unless the
    /// handler overrides it. Default: no limit. See
    /// [`set_idle_timeout`](crate::TcpConnection::set_idle_timeout).
    ///
    /// # Panics
    /// If the timeout is zero.
    #[track_caller]
    pub fn idle_timeout(mut self, timeout: Duration) -> ConnectionLimits {
        assert!(!timeout.is_zero(), "an idle timeout must be more than zero");
        self.idle_timeout = Some(timeout);
        self
    }

    /// How long the handshakes of a connection's [filters](crate::net::Filter) may take together,
    /// for example that of TLS. Default: 10 s. Then the connection closes with
    /// [`TimedOut`](std::io::ErrorKind::TimedOut). Without effect on a connection without filters,
    /// or whose filters have no handshake.
    ///
    /// # Panics
    /// If the timeout is zero.
    #[track_caller]
    pub fn handshake_timeout(mut self, timeout: Duration) -> ConnectionLimits {
        assert!(!timeout.is_zero(), "a handshake timeout must be more than zero");
        self.handshake_timeout = timeout;
        self
    }

    /// How long a connection whose handler has returned an error may take to send the output that
    /// was accepted before, and to receive the peer's FIN. [Reserved
    /// replies](crate::TcpConnection::reserve_reply) are waited for. Default: 10 s. Then it is
    /// reset, as by
    /// [`close_gracefully`](crate::TcpConnection::close_gracefully). With zero, it is reset at once
    /// if output is queued.
    pub fn drain_timeout(mut self, timeout: Duration) -> ConnectionLimits {
        self.drain_timeout = timeout;
        self
    }

    /// The maximum number of [reserved replies](crate::TcpConnection::reserve_reply) that are not
    /// filled, or wait for an earlier one. At the limit the connection stops reading, until there
    /// is one less. Default: 1024. 0 counts as 1.
    pub fn max_open_replies(mut self, replies: usize) -> ConnectionLimits {
        self.max_open_replies = replies.max(1);
        self
    }
}
