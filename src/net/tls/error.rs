//! [`TlsError`]: what TLS adds to the errors of a connection.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rustls::{AlertDescription, CertificateError};

/// Why a TLS connection has failed, or why a configuration cannot be used.
///
/// It is inside the [`io::Error`] of a [`CloseReason`](crate::net::CloseReason), a
/// [`ConnectError`](crate::net::ConnectError) or a call; [`TlsError::of`] finds it.
///
/// ```
/// use reveille::net::CloseReason;
/// use reveille::tls::TlsError;
///
/// fn is_truncated(reason: &CloseReason) -> bool {
///     match reason {
///         CloseReason::Error(error) => matches!(TlsError::of(error), Some(TlsError::Truncated)),
///         _ => false,
///     }
/// }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum TlsError {
    /// The peer has ended the connection without close_notify: the input may be incomplete, because
    /// of the peer or because of an attacker. Kind:
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof).
    Truncated,
    /// The peer has ended the connection within the handshake. Kind:
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof).
    HandshakeEnded,
    /// The peer has sent a fatal alert, for example because it rejects a certificate. Kind:
    /// [`ConnectionAborted`](io::ErrorKind::ConnectionAborted).
    Alert(AlertDescription),
    /// The certificate of the peer is not valid. Kind: [`InvalidData`](io::ErrorKind::InvalidData).
    Certificate(CertificateError),
    /// The client has presented no certificate, and one is required. Kind:
    /// [`InvalidData`](io::ErrorKind::InvalidData).
    NoCertificate,
    /// The peer does not speak TLS. Kind: [`InvalidData`](io::ErrorKind::InvalidData).
    NotTls,
    /// The ClientHello is longer than the
    /// [limit](crate::tls::ServerTls::max_client_hello). Kind:
    /// [`InvalidData`](io::ErrorKind::InvalidData).
    HelloTooLong {
        /// The limit in bytes.
        limit: usize,
    },
    /// Any other error of the protocol or of the configuration. Kind:
    /// [`InvalidData`](io::ErrorKind::InvalidData).
    Protocol(rustls::Error),
    /// A certificate or a key cannot be loaded. The kind is that of the failed read, or
    /// [`InvalidData`](io::ErrorKind::InvalidData) for its content.
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The name of the server is missing, or cannot be verified. Kind:
    /// [`InvalidInput`](io::ErrorKind::InvalidInput).
    ServerName(String),
    /// Settings that cannot be used. Kind: [`InvalidInput`](io::ErrorKind::InvalidInput).
    Settings(String),
}

impl TlsError {
    /// Returns the TLS error that `error` contains.
    pub fn of(error: &io::Error) -> Option<&TlsError> {
        error.get_ref()?.downcast_ref()
    }

    /// Whether the certificate of the peer is for another name.
    pub fn is_wrong_name(&self) -> bool {
        let TlsError::Certificate(error) = self else { return false };
        matches!(error, CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. })
    }

    /// Whether the certificate of the peer has expired. Also the effect of a clock that is wrong.
    pub fn is_expired(&self) -> bool {
        let TlsError::Certificate(error) = self else { return false };
        matches!(error, CertificateError::Expired | CertificateError::ExpiredContext { .. })
    }

    pub(super) fn file(path: &Path, source: io::Error) -> TlsError {
        TlsError::File { path: path.to_owned(), source }
    }

    pub(super) fn file_content(path: &Path, problem: impl fmt::Display) -> TlsError {
        TlsError::file(path, io::Error::new(io::ErrorKind::InvalidData, problem.to_string()))
    }

    fn kind(&self) -> io::ErrorKind {
        match self {
            TlsError::Truncated | TlsError::HandshakeEnded => io::ErrorKind::UnexpectedEof,
            TlsError::Alert(_) => io::ErrorKind::ConnectionAborted,
            TlsError::Certificate(_)
            | TlsError::NoCertificate
            | TlsError::NotTls
            | TlsError::HelloTooLong { .. }
            | TlsError::Protocol(_) => io::ErrorKind::InvalidData,
            TlsError::File { source, .. } => source.kind(),
            TlsError::ServerName(_) | TlsError::Settings(_) => io::ErrorKind::InvalidInput,
        }
    }
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> TlsError {
        match error {
            rustls::Error::AlertReceived(alert) => TlsError::Alert(alert),
            rustls::Error::InvalidCertificate(error) => TlsError::Certificate(error),
            rustls::Error::NoCertificatesPresented => TlsError::NoCertificate,
            error => TlsError::Protocol(error),
        }
    }
}

impl From<TlsError> for io::Error {
    fn from(error: TlsError) -> io::Error {
        io::Error::new(error.kind(), error)
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::Truncated => f.write_str("the TLS input ended without close_notify"),
            TlsError::HandshakeEnded => f.write_str("the peer ended the connection within the TLS handshake"),
            TlsError::Alert(alert) => write!(f, "the peer sent the TLS alert {alert:?}"),
            TlsError::Certificate(error) => {
                write!(f, "the certificate of the peer is not valid: {}", Problem(error))
            }
            TlsError::NoCertificate => f.write_str("the client presented no certificate"),
            TlsError::NotTls => f.write_str("the peer does not speak TLS"),
            TlsError::HelloTooLong { limit } => {
                write!(f, "the ClientHello is longer than the limit of {limit} bytes")
            }
            TlsError::Protocol(error) => write!(f, "TLS: {error}"),
            TlsError::File { path, source } => write!(f, "cannot load {path:?}: {source}"),
            TlsError::ServerName(problem) | TlsError::Settings(problem) => f.write_str(problem),
        }
    }
}

/// Formats as what is wrong with a certificate.
struct Problem<'a>(&'a CertificateError);

impl fmt::Display for Problem<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problem = match self.0 {
            CertificateError::UnknownIssuer => "no trusted authority has signed it",
            CertificateError::Expired => "it has expired",
            CertificateError::NotValidYet => "it is not valid yet",
            CertificateError::NotValidForName => "it is for another name",
            CertificateError::Revoked => "it is revoked",
            CertificateError::BadSignature => "its signature is wrong",
            CertificateError::BadEncoding => "it cannot be decoded",
            // The crate of this error is not a dependency, so only its text is available. It is the
            // result of giving both sides one certificate of `openssl req -x509`.
            CertificateError::Other(error) if error.to_string() == "CaUsedAsEndEntity" => {
                "it is that of an authority (CA:TRUE), not of a server or client"
            }
            other => return other.fmt(f),
        };
        f.write_str(problem)
    }
}

impl Error for TlsError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            TlsError::Protocol(error) => Some(error),
            TlsError::File { source, .. } => Some(source),
            _ => None,
        }
    }
}
