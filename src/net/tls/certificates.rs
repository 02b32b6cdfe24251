//! Selection of a server's certificate by the name that a client sends.

use std::cell::Cell;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::client::verify_server_name;
use rustls::pki_types::ServerName;
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// The certificates of a server. The first that is valid for the name is used, or the first of all.
#[derive(Debug)]
pub(super) struct Certificates(pub(super) Vec<Arc<CertifiedKey>>);

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = match &self.0[..] {
            [_, _, ..] => hello.server_name().and_then(|name| ServerName::try_from(name).ok()),
            _ => None,
        };
        let named = name.and_then(|name| self.0.iter().find(|certified| is_valid_for(certified, &name)));
        named.or_else(|| self.0.first()).cloned()
    }
}

fn is_valid_for(certified: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let Some(certificate) = certified.cert.first() else { return false };
    ParsedCertificate::try_from(certificate)
        .is_ok_and(|certificate| verify_server_name(&certificate, name).is_ok())
}

thread_local! {
    static LAST_NAME: Cell<Option<Box<str>>> = const { Cell::new(None) };
}

/// Makes the name of each ClientHello available to [`take_last_name`].
///
/// rustls reports the name of a connection only in its buffered interface. The resolver is called
/// for every ClientHello, also when a session is resumed, but does not know the connection. It runs
/// within a call for that connection, so a thread-local passes the name to the caller.
pub(super) fn recording_names(config: &ServerConfig) -> Arc<ServerConfig> {
    let mut config = config.clone();
    config.cert_resolver = Arc::new(RecordsName(config.cert_resolver));
    Arc::new(config)
}

/// Takes the name of the ClientHello that was processed last on this thread.
pub(super) fn take_last_name() -> Option<Box<str>> {
    LAST_NAME.take()
}

#[derive(Debug)]
struct RecordsName(Arc<dyn ResolvesServerCert>);

impl ResolvesServerCert for RecordsName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        LAST_NAME.set(hello.server_name().map(Box::from));
        self.0.resolve(hello)
    }

    fn only_raw_public_keys(&self) -> bool {
        self.0.only_raw_public_keys()
    }
}
