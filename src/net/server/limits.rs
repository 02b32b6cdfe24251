//! Builder settings for buffering and idle time: limits per connection and for all together.

use std::time::Duration;

use super::TcpServerBuilder;

impl<S> TcpServerBuilder<'_, S> {
    /// The high-water mark and low-water mark of each connection's unsent bytes. Default: 4 MiB and
    /// 1 MiB. A low mark above the high mark is reduced to it.
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
    /// deadlock. It is bounded by [`max_unsent`](TcpServerBuilder::max_unsent): a send that would
    /// exceed it fails with [`SendError::Full`](crate::net::SendError::Full).
    ///
    /// A handler whose replies are computed elsewhere and sent through a handle therefore limits
    /// its input itself, with [`pause_reading`](crate::TcpConnection::pause_reading).
    /// [Linked](crate::TcpConnection::relay_to) connections pause each other instead.
    pub fn water_marks(mut self, high: usize, low: usize) -> Self {
        self.settings.limits.high_water = high;
        self.settings.limits.low_water = low.min(high);
        self
    }

    /// Disables the automatic pause that [`water_marks`](TcpServerBuilder::water_marks) describes:
    /// connections keep reading regardless of their unsent output.
    ///
    /// For protocols in which a peer may send any amount before it reads its first reply. Replies
    /// are then bounded like unsolicited output, by [`max_unsent`](TcpServerBuilder::max_unsent)
    /// alone.
    pub fn no_automatic_pause(mut self) -> Self {
        self.settings.limits.pauses_for_replies = false;
        self
    }

    /// The maximum number of unsent bytes of a connection. A send that would exceed it fails with
    /// [`SendError::Full`](crate::net::SendError::Full). Default: 16 MiB.
    ///
    /// Set it well above the sum of the high-water mark and the unsolicited output. Otherwise
    /// replies are refused before the connection pauses.
    pub fn max_unsent(mut self, bytes: usize) -> Self {
        self.settings.limits.max_unsent = bytes;
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
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        assert!(!timeout.is_zero(), "a connection cannot be idle for no time at all");
        self.settings.limits.idle_timeout = Some(timeout);
        self
    }

    /// The maximum number of input bytes that a handler may leave unread. A connection that exceeds
    /// it is closed. Default: 16 MiB.
    pub fn max_unread(mut self, bytes: usize) -> Self {
        self.settings.limits.max_unread = bytes;
        self
    }

    /// The maximum memory, in bytes, that all connections of the server together may use for unsent
    /// output and unread input.
    ///
    /// Default: a quarter of the memory available to the process, shared by all servers and clients
    /// without a limit of their own. The available memory is the minimum of the machine's memory,
    /// the limits of the process's control groups (cgroup v2 and v1, including parent groups),
    /// `RLIMIT_AS` and `RLIMIT_DATA`. It is read once, when the first server or client is built.
    /// `usize::MAX` means no limit.
    ///
    /// The limits of single connections multiplied by their number may exceed the machine's memory;
    /// this limit protects the machine:
    ///
    /// - Above three quarters of the limit, connections pause at a sixteenth of their [water
    ///   marks](TcpServerBuilder::water_marks). This throttles peers that do not read; others are
    ///   served as before.
    /// - Above the limit, the connections that hold most and progress least are reset, down to
    ///   seven eighths of the limit. Their rank is the number of bytes they hold multiplied by the
    ///   time since an eighth of these last left. Their handlers get
    ///   [`CloseReason::MemoryLimit`](crate::net::CloseReason::MemoryLimit),
    ///   [`counters`](crate::TcpServer::counters) counts them, and a warning is logged at most once
    ///   a second.
    /// - A send that would take the total above twice the limit fails with
    ///   [`SendError::Full`](crate::net::SendError::Full). This bounds the output sent before the
    ///   loops have closed those connections.
    ///
    /// A block of memory counts in full until its last byte has been sent. A block that several
    /// connections [share](crate::TcpConnection::send_shared) is divided among them. Output in the
    /// mailboxes of handles counts; parts of files do not. A message that is replied to at once
    /// changes no count.
    pub fn max_buffered(mut self, bytes: usize) -> Self {
        self.settings.limits.max_buffered = Some(bytes);
        self
    }
}
