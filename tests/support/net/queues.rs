//! The queues of sockets, from /proc/net/tcp.

use std::fs;
use std::net::SocketAddr;

use super::until;

/// The queues of a socket of any process.
pub(crate) struct Queues {
    /// The bytes that the peer has not acknowledged.
    pub(crate) unsent: u64,
    /// The bytes that are not read. For a listener: the number of connections in the backlog.
    pub(crate) unread: u64,
}

/// Waits until the backlog of the listener has `n` connections. A client may be connected before
/// its connection is in the backlog.
#[track_caller]
pub(crate) fn wait_for_backlog(listener: SocketAddr, n: u64) {
    until(|| queues(listener, None).is_some_and(|queues| queues.unread == n));
}

/// Returns the queues of the socket on `local` that is connected to `remote`, or of the listener
/// without `remote`. IPv4 only.
pub(crate) fn queues(local: SocketAddr, remote: Option<SocketAddr>) -> Option<Queues> {
    const LISTEN: &str = "0A";
    let formatted = |address: SocketAddr| match address {
        // The kernel prints the bytes of the address as a number in native byte order.
        SocketAddr::V4(address) => {
            format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
        }
        SocketAddr::V6(_) => panic!("{address} is not an IPv4 address"),
    };
    let table = fs::read_to_string("/proc/net/tcp").expect("procfs");
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().take(5).collect();
        let [_, from, to, state, queues] = fields[..] else { return None };
        let is_remote = match remote {
            Some(remote) => to == formatted(remote),
            None => state == LISTEN,
        };
        let (unsent, unread) = queues.split_once(':')?;
        let number = |digits| u64::from_str_radix(digits, 16).expect("a number");
        (is_remote && from == formatted(local))
            .then(|| Queues { unsent: number(unsent), unread: number(unread) })
    })
}
