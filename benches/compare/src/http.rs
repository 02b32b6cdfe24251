//! hyper's hello world on two loops, over HTTP/1.1 with keep-alive and over HTTP/2 with prior
//! knowledge: server CPU time per request, and memory per idle connection.
//!
//! The generator is written by hand, since a client of hyper would be slower than the servers. It
//! checks the status and the body of each response.

mod http1;
mod http2;
mod load;

use std::time::Duration;

use crate::Result;
use crate::machine::Machine;
use crate::memory;
use crate::process::Server;
use crate::servers::Peer;
use crate::turns::{self, Words, Work};
use http1::Http1;
use http2::Http2;
use load::{Client, Load};

/// The body of each response.
pub(crate) const BODY: &[u8] = b"Hello, World!";

/// The version of HTTP that a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Http1,
    Http2,
}

impl Version {
    /// The peer that all servers of this version are compared with.
    fn base(self) -> Peer {
        match self {
            Version::Http1 => Peer::TokioHttp1,
            Version::Http2 => Peer::TokioHttp2,
        }
    }
}

/// Numbers of connections, and of requests in flight on each.
const HTTP1_CASES: [(usize, usize); 2] = [(100, 1), (1000, 1)];
const HTTP2_CASES: [(usize, usize); 3] = [(100, 1), (10, 32), (2, 100)];

const IDLE: usize = 2000;

const WARM_UP: Duration = Duration::from_millis(150);

const SMOKE: Duration = Duration::from_millis(20);

/// Measures all cases and prints a table for each.
pub(crate) fn run(machine: &Machine, peers: &[Peer], rounds: usize) -> Result<()> {
    run_version::<Http1>(machine, peers, rounds, Version::Http1, &HTTP1_CASES)?;
    run_version::<Http2>(machine, peers, rounds, Version::Http2, &HTTP2_CASES)
}

fn run_version<C: Client>(
    machine: &Machine,
    peers: &[Peer],
    rounds: usize,
    version: Version,
    cases: &[(usize, usize)],
) -> Result<()> {
    let peers: Vec<Peer> =
        peers.iter().copied().filter(|peer| peer.http_version() == Some(version)).collect();
    if peers.is_empty() {
        return Ok(());
    }
    for &(connections, depth) in cases {
        machine.need_connections(peers.len() * connections)?;
        let requests = if depth == 1 { "1 request".into() } else { format!("{depth} requests") };
        let title = format!("hyper, {}, {connections} connections, {requests} in flight on each", C::NAME);
        let words = Words { title, unit: "request", base: version.base() };
        turns::run(machine, &peers, rounds, &words, |server| {
            let mut load = Load::<C>::open(server, connections, depth)?;
            load.run_for(WARM_UP)?;
            Ok(load)
        })?;
    }
    memory::compare::<Load<C>>(machine, &peers, rounds, IDLE)
}

/// Runs each server through each case for a short time.
pub(crate) fn smoke(machine: &Machine) -> Result<()> {
    for peer in Peer::HTTP {
        let requests = match peer.http_version() {
            Some(Version::Http1) => smoke_of::<Http1>(machine, peer, &HTTP1_CASES),
            _ => smoke_of::<Http2>(machine, peer, &HTTP2_CASES),
        };
        println!("{}: {} requests, every response correct", peer.name(), peer.blamed(requests)?);
    }
    Ok(())
}

fn smoke_of<C: Client>(machine: &Machine, peer: Peer, cases: &[(usize, usize)]) -> Result<u64> {
    let server = Server::start(peer, machine)?;
    let mut requests = 0;
    for &(connections, depth) in cases {
        requests += Load::<C>::open(server.address(), connections, depth)?.run_for(SMOKE)?;
    }
    server.stop()?;
    Ok(requests)
}
