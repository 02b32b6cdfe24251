//! The settings of what a connection, and all connections together, may hold, and of how long a connection may be idle.

use std::time::Duration;

use super::TcpServerBuilder;

impl<S> TcpServerBuilder<'_, S> {
    /// The high-water mark and the low-water mark of each connection's unsent bytes. Default: 4 MiB and 1 MiB. A low mark above the
    /// high one is taken for the high one.
    ///
    /// They serve two purposes:
    ///
    /// - **Notification.** [`on_high_water`](crate::ConnectionHandler::on_high_water) and
    ///   [`on_low_water`](crate::ConnectionHandler::on_low_water) are about all that is unsent.
    /// - **Automatic pause.** A connection whose unsent *replies* pass the high mark reads no more until they have fallen to the
    ///   low mark, so that a peer which sends requests and does not read is not answered without bound. A reply is what the
    ///   handler sends on this connection while it is given input: in [`on_message`](crate::ConnectionHandler::on_message),
    ///   [`on_descriptors`](crate::ConnectionHandler::on_descriptors) or [`on_frame`](crate::FrameHandler::on_frame). Parts of files
    ///   count.
    ///
    /// All other output is *unsolicited*: what is sent in any other callback such as `on_open` or `on_drained`, or through a
    /// [`ConnectionHandle`](crate::ConnectionHandle), be it from a timer, a task, another connection or another thread. It never stops the connection from
    /// reading, or two peers that both send much before they read would wait for each other for ever. Its bound is
    /// [`max_unsent`](TcpServerBuilder::max_unsent): a send that would pass it is refused with
    /// [`SendError::Full`](crate::SendError::Full).
    ///
    /// So a handler that has its replies computed elsewhere, and sends them through a handle, limits its input itself, by
    /// [`pause_reading`](crate::TcpConnection::pause_reading). Connections that are [linked](crate::TcpConnection::relay_to) pause each other
    /// instead.
    pub fn water_marks(mut self, high: usize, low: usize) -> Self {
        self.settings.limits.high_water = high;
        self.settings.limits.low_water = low.min(high);
        self
    }

    /// Disables the automatic pause that [`water_marks`](TcpServerBuilder::water_marks) describes: the connections read whatever
    /// they have unsent.
    ///
    /// For protocols in which a peer may send any amount before it reads its first reply. Replies are then bounded as unsolicited
    /// output is: by [`max_unsent`](TcpServerBuilder::max_unsent) alone.
    pub fn no_automatic_pause(mut self) -> Self {
        self.settings.limits.pauses_for_replies = false;
        self
    }

    /// How many bytes a connection may have unsent at all; a send that would pass it is refused with
    /// [`SendError::Full`](crate::SendError::Full). Default: 16 MiB.
    ///
    /// It belongs well above the sum of the high-water mark and the unsolicited output, or replies are refused before the
    /// connection pauses.
    pub fn max_unsent(mut self, bytes: usize) -> Self {
        self.settings.limits.max_unsent = bytes;
        self
    }

    /// How long a connection may be idle before its handler's [`on_idle`](crate::ConnectionHandler::on_idle) is called, which closes it
    /// unless the handler overrides it. Default: no limit. See
    /// [`set_idle_timeout`](crate::TcpConnection::set_idle_timeout).
    ///
    /// # Panics
    /// If the timeout is zero.
    #[track_caller]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        assert!(!timeout.is_zero(), "a connection cannot be idle for no time at all");
        self.settings.limits.idle_timeout = Some(timeout);
        self
    }

    /// How many bytes of input a handler may leave unread; a connection that passes it is closed. Default: 16 MiB.
    pub fn max_unread(mut self, bytes: usize) -> Self {
        self.settings.limits.max_unread = bytes;
        self
    }

    /// How much memory all connections of the server may take together for what is unsent and unread, in bytes.
    ///
    /// Default: a quarter of the memory that the process may use, for all servers and clients together that have no limit of their
    /// own. That is the least of the machine's memory, the limits of the process's control groups (cgroup v2 and v1, the groups
    /// above included), `RLIMIT_AS` and `RLIMIT_DATA`; it is read once, when the first server or client is made. `usize::MAX` is no limit.
    ///
    /// The limits of single connections multiplied by their number may be more than the machine has; this one is for the machine:
    ///
    /// - From three quarters of it on, connections pause at a sixteenth of their [water marks](TcpServerBuilder::water_marks). Peers
    ///   that do not read are held back early, and others are served as ever.
    /// - Beyond it, those connections that hold most and progress least are reset, down to seven eighths: by the bytes
    ///   that they hold, multiplied by the time since an eighth of these last left. Their handlers get
    ///   [`CloseReason::MemoryLimit`](crate::CloseReason::MemoryLimit), [`counters`](crate::TcpServer::counters) counts them, and a
    ///   warning is logged, once a second at most.
    /// - A send that would take the total past twice the limit is refused with [`SendError::Full`](crate::SendError::Full). That
    ///   bounds what is sent before the loops have closed those connections.
    ///
    /// A block of memory counts whole until its last byte has been sent; one that several connections
    /// [share](crate::TcpConnection::send_shared) counts in part with each. What waits in the mailboxes of handles counts; parts of
    /// files do not. A message that is answered at once changes no count.
    pub fn max_buffered(mut self, bytes: usize) -> Self {
        self.settings.limits.max_buffered = Some(bytes);
        self
    }
}
