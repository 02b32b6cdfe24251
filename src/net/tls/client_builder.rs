//! [`ClientTlsBuilder`]: a client's configuration from PEM files.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::crypto::CryptoProvider;
use rustls::sign::SingleCertAndKey;

use super::client::ClientTls;
use super::error::TlsError;
use super::pem;

/// Builds a [`ClientTls`] from PEM files. Created by [`ClientTls::builder`].
#[must_use = "`build` loads the files"]
pub struct ClientTlsBuilder {
    authorities: PathBuf,
    certificate: Option<(PathBuf, PathBuf)>,
    alpn: Vec<Vec<u8>>,
    provider: Option<Arc<CryptoProvider>>,
}

impl ClientTlsBuilder {
    pub(super) fn new(authorities: &Path) -> ClientTlsBuilder {
        ClientTlsBuilder {
            authorities: authorities.to_owned(),
            certificate: None,
            alpn: Vec::new(),
            provider: None,
        }
    }

    /// The certificate of the client, and its key, for servers that request one. Default: none.
    pub fn certificate(mut self, chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Self {
        self.certificate = Some((chain.as_ref().to_owned(), key.as_ref().to_owned()));
        self
    }

    /// The protocols that are offered by ALPN (RFC 7301), the preferred one first. Default: none.
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

    /// Loads the files.
    ///
    /// # Errors
    /// A [`TlsError`]: [`File`](TlsError::File) names the file that is missing, unreadable, without
    /// a certificate or a key, or whose key does not match; [`Settings`](TlsError::Settings) if
    /// there is no crypto provider.
    pub fn build(self) -> io::Result<ClientTls> {
        Ok(ClientTls::new(Arc::new(self.load()?)))
    }

    fn load(self) -> Result<ClientConfig, TlsError> {
        let provider = pem::provider(self.provider.as_ref())?;
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Settings(format!("the crypto provider cannot be used: {error}")))?
            .with_root_certificates(pem::roots(&self.authorities)?);
        let mut config = match &self.certificate {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let certified = pem::certified_key(chain, key, &provider)?;
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
            }
        };
        config.alpn_protocols = self.alpn;
        Ok(config)
    }
}

impl fmt::Debug for ClientTlsBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTlsBuilder")
            .field("authorities", &self.authorities)
            .field("certificate", &self.certificate)
            .field("alpn", &self.alpn)
            .finish_non_exhaustive()
    }
}
