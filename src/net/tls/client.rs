//! [`ClientTls`]: the client's side of TLS.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::{io, mem};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::client_builder::ClientTlsBuilder;
use super::error::TlsError;
use super::filter::{FilterSettings, Start, TlsFilter};

/// The client's side of TLS: a configuration of rustls, and the name of the server.
///
/// A clone shares the configuration, and so the sessions that can be resumed. `Send` and `Sync`.
///
/// ```no_run
/// use reveille::tls::ClientTls;
/// use reveille::{EventLoop, TcpClient};
///
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// // The certificate must be valid for `example.org`.
/// let _client = TcpClient::connect(&event_loop, "example.org:443")
///     .tls(ClientTls::from_pem_file("authorities.pem")?)
///     .serve_fn(|_, input| input.clear())?;
/// event_loop.run()
/// # }
/// ```
#[derive(Clone)]
#[must_use]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    server_name: Option<String>,
    settings: FilterSettings,
}

impl ClientTls {
    /// Uses a configuration of rustls. Early data is not sent.
    pub fn new(config: Arc<ClientConfig>) -> ClientTls {
        ClientTls {
            config,
            server_name: None,
            settings: FilterSettings { allow_truncation: false, max_client_hello: 0 },
        }
    }

    /// Loads the certificates of the authorities to trust from a PEM file, with the defaults of
    /// rustls for everything else. Same as [`builder`](ClientTls::builder) with one file.
    ///
    /// # Errors
    /// Same as [`ClientTlsBuilder::build`].
    pub fn from_pem_file(authorities: impl AsRef<Path>) -> io::Result<ClientTls> {
        ClientTls::builder(authorities).build()
    }

    /// A builder of a configuration that trusts the authorities in a PEM file.
    pub fn builder(authorities: impl AsRef<Path>) -> ClientTlsBuilder {
        ClientTlsBuilder::new(authorities.as_ref())
    }

    /// The name to verify and to send as SNI: a DNS name, or an address, which is verified and not
    /// sent. Default: the host of the client's target. A name that is not valid is an error of
    /// [`serve`](crate::net::TcpClientBuilder::serve).
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Treats a FIN without close_notify as the end of input, if it is not within a record.
    /// Default: it closes the connection with [`TlsError::Truncated`]. Only for protocols that mark
    /// the ends of their messages: an attacker can send a FIN.
    pub fn allow_truncation(mut self) -> Self {
        self.settings.allow_truncation = true;
        self
    }

    /// Sets the name unless there is one. `host` is called for it.
    pub(in crate::net) fn with_default_name(
        mut self,
        host: impl FnOnce() -> Result<String, TlsError>,
    ) -> Result<ClientTls, TlsError> {
        let name = mem::take(&mut self.server_name).map_or_else(host, Ok)?;
        Ok(self.server_name(name))
    }

    /// Checks the name. The result creates filters.
    pub(in crate::net) fn check_name(&self) -> Result<ServerName<'static>, TlsError> {
        let Some(name) = &self.server_name else {
            let problem = "the TLS client does not know the name of the server: call `server_name`";
            return Err(TlsError::ServerName(problem.to_owned()));
        };
        ServerName::try_from(name.clone()).map_err(|error| {
            TlsError::ServerName(format!("{name:?} cannot be verified as the name of a TLS server: {error}"))
        })
    }

    pub(in crate::net) fn filter(&self, name: &ServerName<'static>) -> TlsFilter {
        TlsFilter::new(Start::Client(Arc::clone(&self.config), name.clone()), self.settings, None)
    }
}

impl From<Arc<ClientConfig>> for ClientTls {
    fn from(config: Arc<ClientConfig>) -> ClientTls {
        ClientTls::new(config)
    }
}

impl From<&ClientTls> for ClientTls {
    fn from(tls: &ClientTls) -> ClientTls {
        tls.clone()
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls")
            .field("server_name", &self.server_name)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
