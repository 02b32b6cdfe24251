//! [`Identity`]: the certificate of a run, and the configurations of both sides.

use std::env;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::Result;

/// The name in the certificate.
const NAME: &str = "server.example";

/// The environment variables by which a child gets the certificate and its key.
const VARIABLES: [&str; 2] = ["REVEILLE_COMPARE_CERTIFICATE", "REVEILLE_COMPARE_KEY"];

/// A self-signed certificate (ECDSA, P-256) and its key, as PEM.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    certificate: String,
    key: String,
}

impl Identity {
    /// The certificate of this run, created by the first call.
    pub(crate) fn of_this_run() -> Result<&'static Identity> {
        static IDENTITY: OnceLock<std::result::Result<Identity, String>> = OnceLock::new();
        let created = IDENTITY.get_or_init(|| Identity::create().map_err(|error| error.to_string()));
        created.as_ref().map_err(|error| format!("creating a certificate: {error}").into())
    }

    fn create() -> Result<Identity> {
        let created = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
        Ok(Identity { certificate: created.cert.pem(), key: created.signing_key.serialize_pem() })
    }

    /// The environment variables of a child.
    pub(crate) fn variables(&self) -> [(&'static str, &str); 2] {
        [(VARIABLES[0], &self.certificate), (VARIABLES[1], &self.key)]
    }

    /// The identity that the parent has passed.
    pub(crate) fn from_variables() -> Result<Identity> {
        let [certificate, key] =
            VARIABLES.map(|name| env::var(name).map_err(|error| format!("{name}: {error}")));
        Ok(Identity { certificate: certificate?, key: key? })
    }

    /// Writes the certificate and its key as `certificate.pem` and `key.pem`.
    pub(crate) fn write_to(&self, folder: &Path) -> Result<()> {
        fs::write(folder.join("certificate.pem"), &self.certificate)?;
        let mut options = OpenOptions::new();
        let mut key = options.write(true).create(true).mode(0o600).open(folder.join("key.pem"))?;
        Ok(key.write_all(self.key.as_bytes())?)
    }

    pub(crate) fn server_config(&self) -> Result<Arc<ServerConfig>> {
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())?;
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate()?], key)?;
        Ok(Arc::new(config))
    }

    /// A configuration with a store of sessions of its own, or with none.
    pub(super) fn client_config(&self, resumes: bool) -> Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate()?)?;
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        if !resumes {
            config.resumption = Resumption::disabled();
        }
        Ok(Arc::new(config))
    }

    fn certificate(&self) -> Result<CertificateDer<'static>> {
        Ok(CertificateDer::from_pem_slice(self.certificate.as_bytes())?)
    }
}

/// The name that clients verify.
pub(super) fn server_name() -> Result<ServerName<'static>> {
    Ok(ServerName::try_from(NAME)?)
}

fn provider() -> Arc<CryptoProvider> {
    let provider = rustls::crypto::ring::default_provider();
    Arc::new(CryptoProvider { cipher_suites: vec![TLS13_AES_128_GCM_SHA256], ..provider })
}
