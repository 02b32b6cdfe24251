//! Errors of sending a datagram.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;

use rustix::io::Errno;

/// Why a datagram was not accepted for sending. No part of it is sent, and the socket stays open.
#[derive(Debug)]
#[non_exhaustive]
pub enum DatagramError {
    /// The socket is closed.
    Closed,
    /// The kernel accepts no more for now, and the queue has reached its limit: see
    /// [`max_unsent`](crate::net::UdpSocketBuilder::max_unsent).
    Full,
    /// The datagram is too long (EMSGSIZE): more than 65,507 bytes over IPv4 or 65,527 over IPv6,
    /// or more than the path MTU if the socket does not allow fragmentation.
    TooLong,
    /// Any other error of the kernel for this datagram: an unreachable destination (ENETUNREACH,
    /// EHOSTUNREACH), a forbidden one (EACCES for a broadcast address without
    /// [`broadcast`](crate::net::UdpSocketBuilder::broadcast), EPERM), a missing one
    /// (EDESTADDRREQ), or one of another family (EAFNOSUPPORT).
    Refused(io::Error),
}

/// The maximum payload of a datagram: a packet's length has 16 bits and includes the headers.
const MAX_LEN_V4: usize = 65_507;
pub(super) const MAX_LEN: usize = 65_527;

impl DatagramError {
    /// Rejects a datagram that is too long for any network, so that it is not queued.
    pub(super) fn check_length(bytes: usize, to: Option<SocketAddr>) -> Result<(), DatagramError> {
        let is_v4 = to.is_some_and(|to| to.ip().to_canonical().is_ipv4());
        let max = if is_v4 { MAX_LEN_V4 } else { MAX_LEN };
        if bytes > max { Err(DatagramError::TooLong) } else { Ok(()) }
    }

    pub(super) fn no_destination() -> DatagramError {
        DatagramError::Refused(Errno::DESTADDRREQ.into())
    }

    pub(super) fn of(error: io::Error) -> DatagramError {
        if error.raw_os_error() == Some(Errno::MSGSIZE.raw_os_error()) {
            DatagramError::TooLong
        } else {
            DatagramError::Refused(error)
        }
    }
}

impl fmt::Display for DatagramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DatagramError::Closed => f.write_str("the socket is closed"),
            DatagramError::Full => f.write_str("the socket's unsent datagrams would exceed their limit"),
            DatagramError::TooLong => f.write_str("the datagram is too long to be sent"),
            DatagramError::Refused(error) => error.fmt(f),
        }
    }
}

impl Error for DatagramError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            DatagramError::Refused(error) => error.source(),
            DatagramError::Closed | DatagramError::Full | DatagramError::TooLong => None,
        }
    }
}

impl From<DatagramError> for io::Error {
    fn from(error: DatagramError) -> io::Error {
        let kind = match error {
            DatagramError::Refused(error) => return error,
            DatagramError::Closed => io::ErrorKind::BrokenPipe,
            DatagramError::Full => io::ErrorKind::WouldBlock,
            DatagramError::TooLong => io::ErrorKind::InvalidInput,
        };
        io::Error::new(kind, error)
    }
}
