//! TLS on servers.

use super::TcpServerBuilder;
use crate::net::tls::ServerTls;

impl<S> TcpServerBuilder<'_, S> {
    /// Makes all connections use TLS. Takes a [`ServerTls`], or an `Arc<rustls::ServerConfig>`.
    /// Same as a [filter](TcpServerBuilder::filter) at this place: handlers do not change.
    ///
    /// A handler is created when the handshake is done; then
    /// [`TcpConnection::tls`](crate::TcpConnection::tls) describes the session. The handshake must
    /// be done within
    /// [`handshake_timeout`](crate::net::ConnectionLimits::handshake_timeout). A handshake that
    /// fails is logged at the level info, at most once a second on each thread.
    pub fn tls(self, tls: impl Into<ServerTls>) -> Self {
        let tls = tls.into();
        self.filter(move || tls.filter())
    }
}
