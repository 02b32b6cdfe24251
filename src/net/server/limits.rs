//! Builder settings for memory and idle time: limits per connection and for all together.

use super::TcpServerBuilder;
use crate::net::limits::ConnectionLimits;

impl<S> TcpServerBuilder<'_, S> {
    /// The limits of each connection. Default: those of [`ConnectionLimits::new`].
    pub fn limits(mut self, limits: ConnectionLimits) -> Self {
        self.settings.limits = limits;
        self
    }

    /// The maximum memory, in bytes, that all connections of the server together may use for unsent
    /// output and unread input.
    ///
    /// Default: a quarter of the memory available to the process, shared by all servers and clients
    /// without a limit of their own. The available memory is the minimum of the machine's memory,
    /// the limits of the process's control groups (cgroup v2 and v1, including parent groups),
    /// `RLIMIT_AS` and `RLIMIT_DATA`. It is read once, when the first server or client is built.
    /// `usize::MAX` means no limit. With 0 larger sends are refused, and a connection that keeps
    /// unsent output or unread input is reset.
    ///
    /// The limits of single connections multiplied by their number may exceed the machine's memory;
    /// this limit protects the machine:
    ///
    /// - Above three quarters of the limit, connections pause at a sixteenth of their [water
    ///   marks](ConnectionLimits::water_marks). This throttles peers that do not read; others are
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
        self.settings.max_buffered = Some(bytes);
        self
    }
}
