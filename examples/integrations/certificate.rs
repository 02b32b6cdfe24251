//! The certificate of a server: its options, and the configuration of TLS.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use reveille::tls::ServerTls;

use super::options::{Failure, Options};

/// Where the certificate comes from.
pub(crate) enum Certificate {
    Files(PathBuf, PathBuf),
    SelfSigned,
}

impl Certificate {
    /// The option `--tls` or the flag `--self-signed`, if one is given.
    pub(crate) fn parse(options: &Options) -> Result<Option<Certificate>, Failure> {
        match (options.pair("--tls"), options.has("--self-signed")) {
            (Some((cert, key)), false) => Ok(Some(Certificate::Files(cert, key))),
            (None, true) => Ok(Some(Certificate::SelfSigned)),
            (None, false) => Ok(None),
            (Some(_), true) => Err(options.wrong("--tls and --self-signed exclude each other")),
        }
    }

    /// Loads or creates the certificate. `alpn` are the protocols that the server offers.
    pub(crate) fn tls(&self, alpn: &[&str]) -> io::Result<ServerTls> {
        match self {
            Certificate::SelfSigned => self_signed(alpn),
            Certificate::Files(cert, key) => {
                ServerTls::builder().certificate(cert, key).alpn(alpn.iter().copied()).build()
            }
        }
    }
}

fn self_signed(alpn: &[&str]) -> io::Result<ServerTls> {
    let created = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])
        .map_err(io::Error::other)?;
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(created.signing_key.serialize_der());
    let mut config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![created.cert.der().clone()], key.into())
        .map_err(io::Error::other)?;
    config.alpn_protocols = alpn.iter().map(|&protocol| protocol.into()).collect();
    Ok(ServerTls::new(Arc::new(config)))
}
