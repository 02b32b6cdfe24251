//! TLS on clients.

use super::TcpClientBuilder;
use crate::net::address::Address;
use crate::net::target::{ConnectTarget, Endpoint};
use crate::net::tls::{ClientTls, TlsError};

impl TcpClientBuilder<'_> {
    /// Makes the connection use TLS. Takes a [`ClientTls`], or an `Arc<rustls::ClientConfig>`. Same
    /// as a [filter](TcpClientBuilder::filter) at this place: handlers do not change.
    ///
    /// The certificate of the server must be valid for the host of the target, or for
    /// [`server_name`](ClientTls::server_name). [`serve`](TcpClientBuilder::serve) returns an error
    /// if there is no such name, as for a Unix socket or several addresses, or if it is not valid.
    /// A handshake that fails is a failed attempt.
    pub fn tls(mut self, tls: impl Into<ClientTls>) -> Self {
        // A target that is not an address is reported later, when the client connects.
        let Ok(target) = &self.target else { return self };
        let tls = tls.into().with_default_name(|| host(target));
        let named = tls.and_then(|tls| tls.check_name().map(|name| (tls, name)));
        match named {
            Ok((tls, name)) => self.filter(move || tls.filter(&name)),
            Err(error) => {
                self.problem.get_or_insert(error.into());
                self
            }
        }
    }
}

/// The host of a target, as the name of a TLS server.
fn host(target: &ConnectTarget) -> Result<String, TlsError> {
    let name = match target.endpoint() {
        // The root is not part of a name that is verified (RFC 6066, section 3).
        Endpoint::Host(host, _) => Some(host.strip_suffix('.').unwrap_or(host).to_owned()),
        Endpoint::Zoned(address, ..) => Some(address.to_string()),
        Endpoint::Addresses(addresses) => match &addresses[..] {
            [Address::Inet(address)] => Some(address.ip().to_string()),
            _ => None,
        },
    };
    name.ok_or_else(|| {
        let problem =
            format!("the target {:?} has no name to verify with TLS: call `server_name`", target.text());
        TlsError::ServerName(problem)
    })
}
