//! Runs each server briefly: it must start, reply correctly, survive its clients, and end. Then
//! each way of posting tasks and of sending, each transport between processes, each kind of timer,
//! each way to read files, each server with HTTP and with TLS, and memcached if it is installed.
//!
//! For build and test machines: figures from there are meaningless, so none are printed.

use std::time::Duration;

use crate::Result;
use crate::churn;
use crate::doorbell;
use crate::files;
use crate::futures;
use crate::http;
use crate::load::Load;
use crate::machine::Machine;
use crate::memcached;
use crate::post;
use crate::process::Server;
use crate::sends;
use crate::servers::Peer;
use crate::timers;
use crate::tls;

/// Message size and number of connections. The last case exceeds the sockets' buffers, so both ends
/// see short sends.
const CASES: [(usize, usize); 3] = [(64, 200), (16 * 1024, 20), (8 * 1024 * 1024, 2)];

const WINDOW: Duration = Duration::from_millis(50);

/// Runs every peer through every case. The first failure ends the run.
pub(crate) fn run(machine: &Machine, peers: &[Peer]) -> Result<()> {
    for peer in peers {
        let messages = peer.blamed(smoke(*peer, machine))?;
        println!("{}: {messages} messages, every reply correct", peer.name());
    }
    post::smoke(machine)?;
    sends::smoke(machine)?;
    doorbell::smoke(machine)?;
    timers::smoke(peers)?;
    futures::smoke(machine)?;
    files::smoke(machine)?;
    http::smoke(machine)?;
    tls::smoke(machine)?;
    memcached::smoke(machine)
}

fn smoke(peer: Peer, machine: &Machine) -> Result<u64> {
    let server = Server::start(peer, machine)?;
    let mut messages = 0;
    for (size, connections) in CASES {
        let mut load = Load::open(server.address(), connections, size)?;
        messages += connections as u64 + load.run_for(WINDOW)?;
        drop(load);
        // A server must keep serving after clients leave with replies pending.
        Load::open(server.address(), connections, size)?.abandon_after(WINDOW / 10)?;
    }
    Load::open(server.address(), 1, CASES[0].0)?;
    server.stop()?;
    Ok(messages + churn::smoke(machine, peer, WINDOW)?)
}
