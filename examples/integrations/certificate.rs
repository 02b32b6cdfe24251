//! The certificate of a server: its options, and the configuration of TLS.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use reveille::tls::ServerTls;

use super::options::Options;

/// Where the certificate comes from.
pub(crate) enum Certificate {
    Files(PathBuf, PathBuf),
    SelfSigned,
}

impl Certificate {
    /// The options `--cert` and `--key`, or the flag `--self-signed`, if any is given.
    pub(crate) fn parse(options: &Options) -> Result<Option<Certificate>, ExitCode> {
        let (cert, key) = (options.text("--cert"), options.text("--key"));
        match (cert, key, options.has("--self-signed")) {
            (Some(cert), Some(key), false) => Ok(Some(Certificate::Files(cert.into(), key.into()))),
            (None, None, true) => Ok(Some(Certificate::SelfSigned)),
            (None, None, false) => Ok(None),
            _ => Err(options.wrong("either --cert and --key, or --self-signed, are needed".to_owned())),
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
