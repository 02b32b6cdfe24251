//! Why a datagram was not accepted.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;

use rustix::io::Errno;

/// Why a datagram was not accepted for sending. It is not sent, in whole or in part; the socket goes on.
#[derive(Debug)]
#[non_exhaustive]
pub enum DatagramError {
    /// The socket is closed.
    Closed,
    /// The kernel takes no more for now, and the queue for what it does not take is full: see
    /// [`max_unsent`](crate::UdpSocketBuilder::max_unsent).
    Full,
    /// The datagram is longer than one can be (EMSGSIZE): more than 65,507 bytes over IPv4 or 65,527 over IPv6, or more than
    /// the path takes if the socket may not have datagrams cut into fragments.
    TooLong,
    /// What else the kernel says of this datagram: a destination that cannot be reached (ENETUNREACH, EHOSTUNREACH), one that
    /// is not allowed (EACCES for a broadcast address without [`broadcast`](crate::UdpSocketBuilder::broadcast), EPERM), none
    /// at all (EDESTADDRREQ), or one of another family (EAFNOSUPPORT).
    Refused(io::Error),
}

/// The most bytes that fit into a datagram: 16 bits for the length of the packet, less the headers.
const LONGEST_V4: usize = 65_507;
pub(super) const LONGEST: usize = 65_527;

impl DatagramError {
    /// Refuses what no network could take, so that it is not queued in vain.
    pub(super) fn check_length(bytes: usize, to: Option<SocketAddr>) -> Result<(), DatagramError> {
        let is_v4 = to.is_some_and(|to| to.ip().to_canonical().is_ipv4());
        let longest = if is_v4 { LONGEST_V4 } else { LONGEST };
        if bytes > longest { Err(DatagramError::TooLong) } else { Ok(()) }
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
            DatagramError::Full => f.write_str("the socket's unsent datagrams would pass their limit"),
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
