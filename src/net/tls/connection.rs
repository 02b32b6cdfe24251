//! TLS of single connections: adopted ones, and the upgrade of an open one.

use std::io;

use super::client::ClientTls;
use super::filter::TlsFilter;
use super::info::TlsInfo;
use super::server::ServerTls;
use crate::net::connection::TcpConnection;
use crate::net::connection::driver::ConnectionBuilder;

/// Either side of TLS: [`ServerTls`] or [`ClientTls`]. For calls that do not decide on the side.
pub trait StartTls: sealed::Sealed {}

impl StartTls for ServerTls {}
impl StartTls for ClientTls {}

mod sealed {
    use std::io;

    use super::{ClientTls, ServerTls, TlsFilter};

    pub trait Sealed {
        /// Returns a closure that creates filters.
        ///
        /// # Errors
        /// The name of the server is missing, or not valid.
        fn filters(&self) -> io::Result<MakeFilter>;
    }

    type MakeFilter = Box<dyn Fn() -> TlsFilter + Send + Sync>;

    impl Sealed for ServerTls {
        fn filters(&self) -> io::Result<MakeFilter> {
            let tls = self.clone();
            Ok(Box::new(move || tls.filter()))
        }
    }

    impl Sealed for ClientTls {
        fn filters(&self) -> io::Result<MakeFilter> {
            let (tls, name) = (self.clone(), self.check_name()?);
            Ok(Box::new(move || tls.filter(&name)))
        }
    }
}

impl ConnectionBuilder<'_> {
    /// Makes the connection use TLS, as a server or as a client. A client needs a
    /// [`server_name`](ClientTls::server_name). Same as a
    /// [filter](ConnectionBuilder::filter) at this place.
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if the name of the server is missing, or not
    /// valid.
    pub fn tls(self, tls: &impl StartTls) -> io::Result<Self> {
        Ok(self.filter(tls.filters()?))
    }
}

impl TcpConnection<'_> {
    /// The TLS session of the connection. `None` without TLS, and until its handshake is done.
    #[must_use]
    pub fn tls(&self) -> Option<TlsInfo> {
        self.filter(|filter: &mut TlsFilter| filter.info()).flatten()
    }

    /// Upgrades an open connection to TLS, as a server or as a client: STARTTLS (RFC 3207). A
    /// client needs a [`server_name`](ClientTls::server_name).
    ///
    /// Output sent before this call leaves in plain text, output sent after it waits for the
    /// handshake. Then [`on_upgrade`](crate::ConnectionHandler::on_upgrade) is called. Input that
    /// the handler has not consumed when the callback returns closes the connection: it was not
    /// encrypted. See [`add_filter`](TcpConnection::add_filter).
    ///
    /// ```
    /// use reveille::tls::ServerTls;
    /// use reveille::{Buffer, ConnectionHandler, TcpConnection};
    /// use std::io;
    ///
    /// struct Mail {
    ///     tls: ServerTls,
    /// }
    ///
    /// impl ConnectionHandler for Mail {
    ///     fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
    ///         if input.readable() == b"STARTTLS\r\n" {
    ///             input.clear();
    ///             conn.send("220 go ahead\r\n")?;
    ///             conn.start_tls(&self.tls)?;
    ///         }
    ///         Ok(())
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    /// Those of [`add_filter`](TcpConnection::add_filter), and
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if the name of the server is missing or not
    /// valid.
    pub fn start_tls(&self, tls: &impl StartTls) -> io::Result<()> {
        let make = tls.filters()?;
        self.add_filter(make()).map_err(|refused| refused.into_parts().1)
    }
}
