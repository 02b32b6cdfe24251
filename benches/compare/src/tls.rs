//! TLS: server CPU time per message and per handshake, and memory per idle connection.
//!
//! All peers use one version of rustls, one provider (ring), one suite of TLS 1.3, one certificate,
//! and the default settings of rustls for everything else. So the differences are the work of the
//! frameworks around it. The generator is a client of rustls with blocking sockets; its own cost
//! does not count.

mod echo;
mod handshakes;
mod identity;

use std::time::Duration;

pub(crate) use identity::Identity;

use crate::Result;
use crate::machine::Machine;
use crate::memory::{self, Idle};
use crate::process::Server;
use crate::servers::Peer;
use crate::turns::{self, Words, Work};
use echo::Echo;
use handshakes::{Handshakes, Kind};

/// Message size and number of connections. Messages that do not fit in the buffers of the sockets
/// could block the generator forever.
const CASES: [(usize, usize); 4] = [(64, 100), (16 * 1024, 4), (64 * 1024, 4), (256 * 1024, 4)];

const IDLE: usize = 2000;

const WARM_UP: Duration = Duration::from_millis(150);

const SMOKE: Duration = Duration::from_millis(20);

/// The peer that all are compared with.
const BASE: Peer = Peer::TokioTls;

/// Measures all cases and prints a table for each.
pub(crate) fn run(machine: &Machine, peers: &[Peer], rounds: usize) -> Result<()> {
    for (size, connections) in CASES {
        machine.need_connections(peers.len() * connections)?;
        let (unit, title) = match size >= 1024 {
            true => ("MiB", format!("TLS echo, {} KiB, {connections} connections", size / 1024)),
            false => ("message", format!("TLS echo, {size} B, {connections} connections")),
        };
        turns::run(machine, peers, rounds, &Words { title, unit, base: BASE }, |server| {
            warmed_up(Echo::open(server, connections, size)?)
        })?;
    }
    for kind in [Kind::Full, Kind::Resumed] {
        let words = Words { title: format!("TLS, {kind}"), unit: "handshake", base: BASE };
        turns::run(machine, peers, rounds, &words, |server| warmed_up(Handshakes::new(server, kind)?))?;
    }
    memory::compare::<Echo>(machine, peers, rounds, IDLE)
}

fn warmed_up<W: Work>(mut work: W) -> Result<W> {
    work.run_for(WARM_UP)?;
    Ok(work)
}

/// Runs each server through each case for a short time.
pub(crate) fn smoke(machine: &Machine) -> Result<()> {
    for peer in Peer::TLS {
        let units = peer.blamed(smoke_of(machine, peer))?;
        println!("{}: {units} units of work, every reply correct", peer.name());
    }
    Ok(())
}

fn smoke_of(machine: &Machine, peer: Peer) -> Result<u64> {
    let server = Server::start(peer, machine)?;
    let mut units = 0;
    for (size, connections) in CASES {
        units += Echo::open(server.address(), connections, size)?.run_for(SMOKE)?;
    }
    for kind in [Kind::Full, Kind::Resumed] {
        units += Handshakes::new(server.address(), kind)?.run_for(SMOKE)?;
    }
    <Echo as Idle>::open(server.address(), CASES[0].1)?.echo_once()?;
    server.stop()?;
    Ok(units)
}
