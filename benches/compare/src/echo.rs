//! Server CPU time per message, with every connection kept busy by the generator.

use std::time::Duration;

use crate::Result;
use crate::load::Load;
use crate::machine::Machine;
use crate::servers::Peer;
use crate::turns::{self, Words, Work};

/// Message size and number of connections.
const CASES: [(usize, usize); 3] = [(64, 100), (64, 1000), (16 * 1024, 100)];

const WARM_UP: Duration = Duration::from_millis(150);

impl Work for Load {
    fn run_for(&mut self, window: Duration) -> Result<u64> {
        self.run_for(window)
    }
}

/// Measures all cases and prints a table for each.
pub(crate) fn run(machine: &Machine, peers: &[Peer], rounds: usize) -> Result<()> {
    let base = if peers.contains(&Peer::Raw) { Peer::Raw } else { peers[0] };
    for (size, connections) in CASES {
        // All servers run at once, and this process holds the client end of all their connections.
        machine.need_connections(peers.len() * connections)?;
        let title = format!("echo, {size} B, {connections} connections");
        let words = Words { title, unit: "message", base };
        turns::run(machine, peers, rounds, &words, |server| {
            let mut load = Load::open(server, connections, size)?;
            load.run_for(WARM_UP)?;
            Ok(load)
        })?;
    }
    Ok(())
}
