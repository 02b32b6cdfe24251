//! Certificates and keys in PEM files. Errors name the file.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{Error, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};

use super::error::TlsError;

/// Returns the provider that was selected, or else the default of the process.
pub(super) fn provider(selected: Option<&Arc<CryptoProvider>>) -> Result<Arc<CryptoProvider>, TlsError> {
    selected.cloned().or_else(|| CryptoProvider::get_default().cloned()).ok_or_else(|| {
        TlsError::Settings(
            "no crypto provider is selected: call `provider`, or `CryptoProvider::install_default` of rustls"
                .to_owned(),
        )
    })
}

/// Loads a certificate chain and the key of its first certificate, and checks that they match.
pub(super) fn certified_key(
    chain: &Path,
    key: &Path,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsError> {
    let certificates = certificates(chain)?;
    let private_key = PrivateKeyDer::from_pem_file(key).map_err(|error| match error {
        Error::NoItemsFound => {
            TlsError::file_content(key, "it contains no private key in PEM that is not encrypted")
        }
        error => unreadable(key, error),
    })?;
    let private_key = provider
        .key_provider
        .load_private_key(private_key)
        .map_err(|error| TlsError::file_content(key, error))?;
    let certified = CertifiedKey::new(certificates, private_key);
    match certified.keys_match() {
        // The provider cannot compare them.
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(_)) => {
            let problem = format!("the key does not belong to the certificate in {chain:?}");
            Err(TlsError::file_content(key, problem))
        }
        Err(error) => Err(TlsError::file_content(chain, error)),
    }
}

/// Loads the certificates of authorities.
pub(super) fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| TlsError::file_content(path, error))?;
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(path, error))?;
    if certificates.is_empty() {
        return Err(TlsError::file_content(path, "it contains no certificate in PEM"));
    }
    Ok(certificates)
}

fn unreadable(path: &Path, error: Error) -> TlsError {
    match error {
        Error::Io(error) => TlsError::file(path, error),
        error => TlsError::file_content(path, error),
    }
}
