//! Server CPU time per connection: the client connects, has one message echoed, and closes.
//!
//! The generator takes several connections through their lives together, so that the server sees
//! several events of each kind at once, as a busy one does. The generator closes first, so the
//! addresses in TIME_WAIT are on its side; on the loopback the kernel reuses them after a second.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::Result;
use crate::machine::Machine;
use crate::process::Server;
use crate::servers::Peer;
use crate::turns::{self, Words, Work};

const MESSAGE: usize = 64;

/// Number of concurrent connections.
const CASES: [usize; 2] = [1, 50];

const WARM_UP: Duration = Duration::from_millis(150);

/// A server that takes longer for a reply, or for closing a connection, counts as broken.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The load: short-lived connections.
struct Churn {
    server: SocketAddr,
    at_once: usize,
    open: Vec<TcpStream>,
    /// The number of the last message; never reused.
    number: u64,
}

/// Measures all cases and prints a table for each.
pub(crate) fn run(machine: &Machine, peers: &[Peer], rounds: usize) -> Result<()> {
    for at_once in CASES {
        let title = format!("churn, one message of {MESSAGE} B each, {at_once} at a time");
        let words = Words { title, unit: "connection", base: Peer::Raw };
        turns::run(machine, peers, rounds, &words, |server| {
            let mut churn = Churn::new(server, at_once);
            churn.run_for(WARM_UP)?;
            Ok(churn)
        })?;
    }
    Ok(())
}

/// Checks that the server of `peer` survives the load. Returns the number of connections.
pub(crate) fn smoke(machine: &Machine, peer: Peer, window: Duration) -> Result<u64> {
    let server = Server::start(peer, machine)?;
    let connections = Churn::new(server.address(), CASES[1]).run_for(window)?;
    server.stop()?;
    Ok(connections)
}

impl Churn {
    fn new(server: SocketAddr, at_once: usize) -> Churn {
        Churn { server, at_once, open: Vec::with_capacity(at_once), number: 0 }
    }

    fn lives(&mut self) -> Result<()> {
        for _ in 0..self.at_once {
            let stream = TcpStream::connect_timeout(&self.server, TIMEOUT)?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            self.open.push(stream);
        }
        let first = self.number;
        for stream in &mut self.open {
            self.number += 1;
            stream.write_all(&message(self.number))?;
        }
        let mut reply = [0; MESSAGE];
        for (stream, number) in self.open.iter_mut().zip(first + 1..) {
            stream.read_exact(&mut reply)?;
            if reply != message(number) {
                return Err(format!("a wrong reply to message {number}").into());
            }
        }
        self.open.clear();
        Ok(())
    }
}

impl Work for Churn {
    fn run_for(&mut self, window: Duration) -> Result<u64> {
        let deadline = Instant::now() + window;
        let mut connections = 0;
        while Instant::now() < deadline {
            self.lives()?;
            connections += self.at_once as u64;
        }
        Ok(connections)
    }
}

fn message(number: u64) -> [u8; MESSAGE] {
    let mut message = [b'.'; MESSAGE];
    message[..8].copy_from_slice(&number.to_le_bytes());
    message
}
