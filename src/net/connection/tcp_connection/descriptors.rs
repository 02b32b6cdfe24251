//! Passing of descriptors over a Unix socket.

use std::io;
use std::os::fd::OwnedFd;

use super::TcpConnection;
use crate::net::connection::fd_passing::WithFds;

impl TcpConnection<'_> {
    /// Sends open descriptors, together with `bytes`, to the process at the other end of a Unix
    /// socket (`SCM_RIGHTS`, unix(7)), after everything sent before. The peer receives its own
    /// descriptors of the same files. The descriptors passed in are closed once they are sent;
    /// [`try_clone`](OwnedFd::try_clone) makes one that is kept.
    ///
    /// Otherwise the same as [`send`](TcpConnection::send). In the stream, descriptors are attached
    /// to the first of the bytes that they are sent with. One send takes at most 253 descriptors,
    /// and a queue at most 1000.
    ///
    /// ```
    /// use reveille::TcpConnection;
    /// use std::fs::File;
    /// use std::io;
    ///
    /// fn hand_over(conn: &TcpConnection, path: &str) -> io::Result<()> {
    ///     conn.send_with_descriptors("file\n", [File::open(path)?.into()])
    /// }
    /// ```
    ///
    /// # Errors
    /// - Same as [`send`](TcpConnection::send), as an [`io::Error`].
    /// - [`InvalidInput`](io::ErrorKind::InvalidInput) if there are no bytes, no descriptors, or
    ///   too many descriptors.
    /// - [`Unsupported`](io::ErrorKind::Unsupported) for a TCP connection.
    ///
    /// In these cases nothing is sent, and the descriptors are closed.
    /// [`Full`](crate::net::SendError::Full) is also returned while the user has too many
    /// descriptors in flight, counted over all processes (`ETOOMANYREFS`, unix(7)); queued
    /// descriptors wait until that has passed. Any other error of the kernel closes the connection.
    pub fn send_with_descriptors(
        &self,
        bytes: impl Into<Vec<u8>>,
        descriptors: impl IntoIterator<Item = OwnedFd>,
    ) -> io::Result<()> {
        let with_fds = WithFds::new(bytes.into(), descriptors.into_iter().collect())?;
        self.ordered_core().send_with_fds(self.event_loop, with_fds)
    }

    /// From now on accepts descriptors from the process at the other end of a Unix socket, at most
    /// `most` per send of the peer (capped at 253, the kernel's limit), and passes them to
    /// [`on_descriptors`](crate::ConnectionHandler::on_descriptors).
    ///
    /// Default: 0, none are accepted. From Linux 6.16 on the kernel then refuses them to the peer
    /// (EPERM), as soon as [`on_open`](crate::ConnectionHandler::on_open) has returned. Before
    /// that, and on older kernels, they are received and [closed](crate::net::close_descriptors),
    /// and the bytes arrive without them.
    ///
    /// Call it in the handler's factory or in `on_open`, since it does not affect input that has
    /// already been read. A peer that sends more descriptors than allowed has its connection
    /// closed.
    ///
    /// # Errors
    /// [`Unsupported`](io::ErrorKind::Unsupported) for a TCP connection.
    pub fn accept_descriptors(&self, max: usize) -> io::Result<()> {
        self.core.accept_descriptors(max)
    }
}
