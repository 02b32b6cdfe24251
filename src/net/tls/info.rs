//! [`TlsInfo`]: what a handshake has negotiated.

use rustls::pki_types::CertificateDer;
use rustls::{CipherSuite, CommonState, HandshakeKind, ProtocolVersion};

/// The TLS session of a connection. Returned by
/// [`TcpConnection::tls`](crate::TcpConnection::tls).
#[derive(Clone, Debug)]
pub struct TlsInfo {
    version: ProtocolVersion,
    cipher_suite: CipherSuite,
    alpn: Option<Vec<u8>>,
    server_name: Option<String>,
    peer_certificates: Vec<CertificateDer<'static>>,
    is_resumed: bool,
    early_data: u64,
}

impl TlsInfo {
    /// `None` while the version and the cipher suite are not negotiated.
    pub(super) fn new(state: &CommonState, server_name: Option<&str>, early_data: u64) -> Option<TlsInfo> {
        Some(TlsInfo {
            version: state.protocol_version()?,
            cipher_suite: state.negotiated_cipher_suite()?.suite(),
            alpn: state.alpn_protocol().map(<[u8]>::to_vec),
            server_name: server_name.map(str::to_owned),
            peer_certificates: state.peer_certificates().map(<[_]>::to_vec).unwrap_or_default(),
            is_resumed: state.handshake_kind() == Some(HandshakeKind::Resumed),
            early_data,
        })
    }

    /// The version of the protocol.
    #[must_use]
    pub fn version(&self) -> ProtocolVersion {
        self.version
    }

    /// The cipher suite.
    #[must_use]
    pub fn cipher_suite(&self) -> CipherSuite {
        self.cipher_suite
    }

    /// The protocol that was negotiated by ALPN (RFC 7301).
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.alpn.as_deref()
    }

    /// On a server, the name that the client has sent (SNI), in lower case. On a client, the name
    /// or the address that was verified.
    #[must_use]
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// The certificates of the peer, beginning with its own. Empty for a client without one.
    #[must_use]
    pub fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        &self.peer_certificates
    }

    /// Whether an earlier session was resumed.
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.is_resumed
    }

    /// The number of bytes at the beginning of the input that the client has sent as early data.
    /// Always 0 unless the server's configuration permits early data.
    #[must_use]
    pub fn early_data(&self) -> u64 {
        self.early_data
    }
}
