//! What the kernel says of sockets.

use std::fs;
use std::net::SocketAddr;

use super::until;

/// What the kernel says of a socket, of any process.
pub(crate) struct Queues {
    pub(crate) unsent: u64,
    /// Of one that listens, how many connections wait to be accepted.
    pub(crate) unread: u64,
}

/// Waits until the backlog of the listener has `n` connections. A client may be connected before
/// that.
#[track_caller]
pub(crate) fn wait_for_backlog(listener: SocketAddr, n: u64) {
    until(|| queues(listener, None).is_some_and(|queues| queues.unread == n));
}

/// The socket at `local` that is connected to `remote`, or listens. IPv4 only.
pub(crate) fn queues(local: SocketAddr, remote: Option<SocketAddr>) -> Option<Queues> {
    const LISTENS: &str = "0A";
    let shown = |address: SocketAddr| match address {
        // The kernel shows the bytes of the address as a number of this machine.
        SocketAddr::V4(address) => {
            format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
        }
        SocketAddr::V6(_) => panic!("{address} is not in this table"),
    };
    let table = fs::read_to_string("/proc/net/tcp").expect("procfs");
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().take(5).collect();
        let [_, from, to, state, queues] = fields[..] else { return None };
        let is_it = match remote {
            Some(remote) => to == shown(remote),
            None => state == LISTENS,
        };
        let (unsent, unread) = queues.split_once(':')?;
        let number = |digits| u64::from_str_radix(digits, 16).expect("a number");
        (is_it && from == shown(local)).then(|| Queues { unsent: number(unsent), unread: number(unread) })
    })
}
