//! Certificates for the tests, and configurations of rustls with them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};

/// The name of the tests' server.
pub(crate) const NAME: &str = "server.example";

/// A certificate and its key.
pub(crate) struct Identity {
    pub(crate) chain_pem: String,
    pub(crate) key_pem: String,
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

impl Identity {
    /// Writes both to files, and returns their paths.
    pub(crate) fn write(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let (chain, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
        std::fs::write(&chain, &self.chain_pem).unwrap();
        std::fs::write(&key, &self.key_pem).unwrap();
        (chain, key)
    }

    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub(crate) fn pair(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (vec![self.certificate.clone()], PrivateKeyDer::Pkcs8(self.key.clone().into()))
    }
}

/// An authority that all tests share, since keys take long to generate in a debug build.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
    roots: Arc<RootCertStore>,
}

pub(crate) fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(Authority::new)
}

/// The identity of `server.example`.
pub(crate) fn server_identity() -> &'static Identity {
    static IDENTITY: OnceLock<Identity> = OnceLock::new();
    IDENTITY.get_or_init(|| authority().identity(NAME))
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

impl Authority {
    pub(crate) fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Clients distinguish authorities by their names.
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("Authority {} of the tests", NEXT.fetch_add(1, SeqCst));
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        Authority { issuer: Issuer::new(params, key), pem: certificate.pem(), roots: Arc::new(roots) }
    }

    pub(crate) fn identity(&self, name: &str) -> Identity {
        self.identity_with(name, |_| ())
    }

    pub(crate) fn expired_identity(&self, name: &str) -> Identity {
        self.identity_with(name, |params| {
            params.not_before = date_time_ymd(1999, 1, 1);
            params.not_after = date_time_ymd(2000, 1, 1);
        })
    }

    fn identity_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity {
            chain_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            certificate: certificate.der().clone(),
            key: key.serialize_der(),
        }
    }

    pub(crate) fn roots(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.roots)
    }
}

pub(crate) const BOTH: &[&SupportedProtocolVersion] = rustls::ALL_VERSIONS;

/// A server's configuration. `change` may set more.
pub(crate) fn server_config_with(
    identity: &Identity,
    versions: &[&'static SupportedProtocolVersion],
    change: impl FnOnce(&mut ServerConfig),
) -> Arc<ServerConfig> {
    let (chain, key) = identity.pair();
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    change(&mut config);
    Arc::new(config)
}

pub(crate) fn server_config() -> Arc<ServerConfig> {
    server_config_with(server_identity(), BOTH, |_| ())
}

/// A server's configuration that requires a certificate of its authority from clients.
pub(crate) fn verifying_server_config() -> Arc<ServerConfig> {
    let (chain, key) = server_identity().pair();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(authority().roots(), provider()).build().unwrap();
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(BOTH)
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap();
    Arc::new(config)
}

/// A client's configuration that trusts the authority. `change` may set more.
pub(crate) fn client_config_with(
    versions: &[&'static SupportedProtocolVersion],
    identity: Option<&Identity>,
    change: impl FnOnce(&mut ClientConfig),
) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(authority().roots());
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let (chain, key) = identity.pair();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    change(&mut config);
    Arc::new(config)
}

pub(crate) fn client_config() -> Arc<ClientConfig> {
    client_config_with(BOTH, None, |_| ())
}
