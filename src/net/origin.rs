//! Who is at the other end of a connection, for limits and for choosing a loop.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;

use super::address::Address;
use super::tcp_info::peer_credentials;

/// Who is at the other end of a Unix socket, as the kernel noted it when that end connected, or began to listen (`SO_PEERCRED`,
/// unix(7)).
///
/// The user and the group can be relied on. The process may have ended since, and its number be another's by now; and whoever has
/// inherited the socket or was given it writes with the same credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct PeerCredentials {
    /// The process; `None` for one outside of this process's namespace.
    pub pid: Option<u32>,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

impl PeerCredentials {
    /// # Errors
    /// [`Unsupported`](io::ErrorKind::Unsupported) if the socket is none of the Unix family, and what the kernel says.
    pub(super) fn of(socket: impl AsFd, peer: &Address) -> io::Result<PeerCredentials> {
        if !peer.is_unix() {
            let message = "only a Unix socket knows who is at its other end";
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        }
        let [pid, uid, gid] = peer_credentials(socket)?;
        Ok(PeerCredentials { pid: (pid != 0).then_some(pid), uid, gid })
    }
}

/// Whose connection it is, as far as limits and the choice of a loop go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Origin {
    /// Without the port. An IPv4 client of a socket for IPv6 is no other than without one.
    Host(IpAddr),
    /// A user of this machine; `None` if the kernel does not tell.
    User(Option<u32>),
}

impl Origin {
    pub(super) fn host(address: IpAddr) -> Origin {
        Origin::Host(address.to_canonical())
    }

    /// That of an accepted socket. One system call if it is a Unix socket, none otherwise.
    pub(super) fn of(socket: impl AsFd, peer: &Address) -> Origin {
        match peer {
            Address::Inet(address) => Origin::host(address.ip()),
            Address::Unix(_) => Origin::User(PeerCredentials::of(socket, peer).ok().map(|peer| peer.uid)),
        }
    }
}
