//! What the kernel says of sockets.

use std::fs;
use std::net::SocketAddr;

/// What the kernel says of a socket, of any process.
pub(crate) struct Queues {
    pub(crate) unsent: u64,
    /// Of one that listens, how many connections wait to be accepted.
    pub(crate) unread: u64,
}

/// The socket at `local` that is connected to `remote`, or listens. IPv4 only.
pub(crate) fn queues(local: SocketAddr, remote: Option<SocketAddr>) -> Option<Queues> {
    const LISTENS: &str = "0A";
    let port = |address: SocketAddr| format!(":{:04X}", address.port());
    let table = fs::read_to_string("/proc/net/tcp").expect("procfs");
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().take(5).collect();
        let [_, from, to, state, queues] = fields[..] else { return None };
        let is_it = match remote {
            Some(remote) => to.ends_with(&port(remote)),
            None => state == LISTENS,
        };
        let (unsent, unread) = queues.split_once(':')?;
        let number = |digits| u64::from_str_radix(digits, 16).expect("a number");
        (is_it && from.ends_with(&port(local)))
            .then(|| Queues { unsent: number(unsent), unread: number(unread) })
    })
}
