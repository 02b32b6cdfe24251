//! TLS: server CPU time per message and per handshake, and memory per idle connection.
//!
//! All peers use one version of rustls, one provider (ring), one suite of TLS 1.3, one certificate,
//! and the default settings of rustls for everything else. So the differences are the work of the
//! frameworks around it.
//!
//! A proxy cannot be compared with an echo. So nginx, whose stream module ends TLS and relays to an
//! echo in plain text, is compared with reveille's `relay_to` between such connections. nginx uses
//! OpenSSL, with the same suite and certificate: this ratio contains the difference between OpenSSL
//! and rustls with ring. The echo behind each relay is `raw`, on the CPU of the generator.
//!
//! The generator is a client of rustls with blocking sockets; its own cost
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
use crate::servers::{self, Peer};
use crate::turns::{self, Words, Work};
use echo::Echo;
use handshakes::{Handshakes, Kind};

/// Message size and number of connections. Messages that do not fit in the buffers of the sockets
/// could block the generator forever.
const CASES: [(usize, usize); 4] = [(64, 100), (16 * 1024, 4), (64 * 1024, 4), (256 * 1024, 4)];

const IDLE: usize = 2000;

const WARM_UP: Duration = Duration::from_millis(150);

const SMOKE: Duration = Duration::from_millis(20);

/// The peer that all servers are compared with.
const BASE: Peer = Peer::TokioTls;

/// Measures all cases and prints a table for each.
pub(crate) fn run(machine: &Machine, peers: &[Peer], rounds: usize) -> Result<()> {
    let (relays, peers): (Vec<Peer>, Vec<Peer>) = peers.iter().partition(|peer| peer.is_relay());
    if !peers.is_empty() {
        run_servers(machine, &peers, rounds)?;
    }
    let relays = runnable(&relays);
    if !relays.is_empty() {
        echo(machine, &relays, rounds, "TLS relay to an echo", Peer::NginxRelay)?;
    }
    Ok(())
}

/// The relays that can run here.
fn runnable(relays: &[Peer]) -> Vec<Peer> {
    let has_nginx = servers::has_nginx();
    if relays.contains(&Peer::NginxRelay) && !has_nginx {
        println!("\nskipped: nginx with its stream module is not installed");
    }
    relays.iter().copied().filter(|&peer| has_nginx || peer != Peer::NginxRelay).collect()
}

fn echo(machine: &Machine, peers: &[Peer], rounds: usize, what: &str, base: Peer) -> Result<()> {
    for (size, connections) in CASES {
        machine.need_connections(peers.len() * connections)?;
        let (unit, title) = match size >= 1024 {
            true => ("MiB", format!("{what}, {} KiB, {connections} connections", size / 1024)),
            false => ("message", format!("{what}, {size} B, {connections} connections")),
        };
        turns::run(machine, peers, rounds, &Words { title, unit, base }, |server| {
            warmed_up(Echo::open(server, connections, size)?)
        })?;
    }
    Ok(())
}

fn run_servers(machine: &Machine, peers: &[Peer], rounds: usize) -> Result<()> {
    echo(machine, peers, rounds, "TLS echo", BASE)?;
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
    for peer in Peer::TLS.into_iter().chain(runnable(&Peer::RELAYS)) {
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
    let kinds = if peer.is_relay() { &[][..] } else { &[Kind::Full, Kind::Resumed] };
    for &kind in kinds {
        units += Handshakes::new(server.address(), kind)?.run_for(SMOKE)?;
    }
    <Echo as Idle>::open(server.address(), CASES[0].1)?.echo_once()?;
    server.stop()?;
    Ok(units)
}
