//! [`ServerTlsBuilder`]: a server's configuration from PEM files.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;

use super::certificates::Certificates;
use super::error::TlsError;
use super::pem;
use super::server::ServerTls;

type Configure = Arc<dyn Fn(&mut ServerConfig) + Send + Sync>;

/// Whether clients must have a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// A client without a certificate is rejected.
    Required,
    /// A client may have no certificate. One that is not valid is rejected.
    Optional,
}

/// Builds a [`ServerTls`] from PEM files. Created by [`ServerTls::builder`].
///
/// ```no_run
/// use reveille::tls::{ClientCertificates, ServerTls};
///
/// # fn main() -> std::io::Result<()> {
/// let tls = ServerTls::builder()
///     .certificate("example.org.pem", "example.org.key")
///     .certificate("example.net.pem", "example.net.key")
///     .client_certificates("clients-ca.pem", ClientCertificates::Optional)
///     .alpn(["h2", "http/1.1"])
///     .build()?;
/// # let _ = tls;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
#[must_use = "`build` loads the files"]
pub struct ServerTlsBuilder {
    certificates: Vec<(PathBuf, PathBuf)>,
    clients: Option<(PathBuf, ClientCertificates)>,
    alpn: Vec<Vec<u8>>,
    provider: Option<Arc<CryptoProvider>>,
    configure: Option<Configure>,
}

impl ServerTlsBuilder {
    /// Adds a certificate chain, beginning with the server's own certificate, and its key.
    ///
    /// With several, a client gets the first one that is valid for the name that it sends (SNI), or
    /// the first of all. A program with many certificates sets a `cert_resolver` of rustls instead.
    pub fn certificate(mut self, chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Self {
        self.certificates.push((chain.as_ref().to_owned(), key.as_ref().to_owned()));
        self
    }

    /// Verifies the certificates of clients against the authorities in a PEM file. Default: clients
    /// are not requested to present one.
    pub fn client_certificates(mut self, authorities: impl AsRef<Path>, need: ClientCertificates) -> Self {
        self.clients = Some((authorities.as_ref().to_owned(), need));
        self
    }

    /// The protocols that are offered by ALPN (RFC 7301), the preferred one first. A client that
    /// offers only other protocols is rejected. Default: none.
    pub fn alpn<P: Into<Vec<u8>>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.alpn = protocols.into_iter().map(Into::into).collect();
        self
    }

    /// The cryptography to use. Default: the provider that the program has
    /// [installed](CryptoProvider::install_default).
    pub fn provider(mut self, provider: impl Into<Arc<CryptoProvider>>) -> Self {
        self.provider = Some(provider.into());
        self
    }

    /// Sets a closure that changes other settings, such as the session cache, a ticketer, early
    /// data or a key log. It is called whenever the files have been loaded.
    pub fn configure(mut self, configure: impl Fn(&mut ServerConfig) + Send + Sync + 'static) -> Self {
        self.configure = Some(Arc::new(configure));
        self
    }

    /// Loads the files.
    ///
    /// # Errors
    /// A [`TlsError`]: [`File`](TlsError::File) names the file that is missing, unreadable, without
    /// a certificate or a key, or whose key does not match; [`Settings`](TlsError::Settings) if
    /// there is no certificate or no crypto provider.
    pub fn build(self) -> io::Result<ServerTls> {
        let config = self.load()?;
        Ok(ServerTls::build(&config, Some(self)))
    }

    pub(super) fn load(&self) -> Result<ServerConfig, TlsError> {
        if self.certificates.is_empty() {
            return Err(TlsError::Settings("a TLS server needs a certificate".to_owned()));
        }
        let provider = pem::provider(self.provider.as_ref())?;
        let certificates = self
            .certificates
            .iter()
            .map(|(chain, key)| pem::certified_key(chain, key, &provider).map(Arc::new))
            .collect::<Result<Vec<_>, _>>()?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Settings(format!("the crypto provider cannot be used: {error}")))?;
        let builder = match &self.clients {
            None => builder.with_no_client_auth(),
            Some((authorities, need)) => {
                let roots = Arc::new(pem::roots(authorities)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                let verifier = match need {
                    ClientCertificates::Required => verifier,
                    ClientCertificates::Optional => verifier.allow_unauthenticated(),
                };
                let verifier =
                    verifier.build().map_err(|error| TlsError::file_content(authorities, error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_cert_resolver(Arc::new(Certificates(certificates)));
        config.alpn_protocols.clone_from(&self.alpn);
        if let Some(configure) = &self.configure {
            configure(&mut config);
        }
        Ok(config)
    }
}

impl fmt::Debug for ServerTlsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTlsBuilder")
            .field("certificates", &self.certificates)
            .field("clients", &self.clients)
            .field("alpn", &self.alpn)
            .finish_non_exhaustive()
    }
}
