//! Every server for a moment: does it start, answer rightly, survive its clients, and end? Then every way of posting tasks, of
//! messages between processes, every kind of timer, and every way to read files.
//!
//! For machines that build and test: figures taken there say nothing, so none are printed.

use std::time::Duration;

use crate::Result;
use crate::churn;
use crate::doorbell;
use crate::files;
use crate::load::Load;
use crate::machine::Machine;
use crate::post;
use crate::process::Server;
use crate::servers::Peer;
use crate::timers;

/// Message size and number of connections. The last does not fit the sockets' buffers, so both
/// ends see short sends.
const CASES: [(usize, usize); 3] = [(64, 200), (16 * 1024, 20), (8 * 1024 * 1024, 2)];

const WINDOW: Duration = Duration::from_millis(50);

/// Runs every peer through every case; the first failure ends it.
pub(crate) fn run(machine: &Machine, peers: &[Peer]) -> Result<()> {
    for peer in peers {
        let messages = peer.blamed(smoke(*peer, machine))?;
        println!("{}: {messages} messages, every reply right", peer.name());
    }
    post::smoke(machine)?;
    doorbell::smoke(machine)?;
    timers::smoke(peers)?;
    files::smoke(machine)
}

fn smoke(peer: Peer, machine: &Machine) -> Result<u64> {
    let server = Server::start(peer, machine)?;
    let mut messages = 0;
    for (size, connections) in CASES {
        let mut load = Load::open(server.address(), connections, size)?;
        messages += connections as u64 + load.run_for(WINDOW)?;
        drop(load);
        // Clients that leave with replies under way are no reason to stop serving others.
        Load::open(server.address(), connections, size)?.abandon_after(WINDOW / 10)?;
    }
    Load::open(server.address(), 1, CASES[0].0)?;
    server.stop()?;
    Ok(messages + churn::smoke(machine, peer, WINDOW)?)
}
