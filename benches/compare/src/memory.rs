//! Memory of a server per idle connection.

use std::net::SocketAddr;

use crate::Result;
use crate::load::Load;
use crate::machine::Machine;
use crate::process::Server;
use crate::report::{Spread, Table, whole};
use crate::servers::Peer;

const CONNECTIONS: usize = 10_000;

const MESSAGE: usize = 64;

/// Opening connections dominates the run time, and the figure hardly varies.
const MOST_ROUNDS: usize = 3;

/// Resident memory of one server, in bytes.
#[derive(Clone, Copy, Debug)]
struct Sample {
    before: u64,
    after: u64,
}

/// Connections to one server, each of which has echoed a message and is idle.
pub(crate) trait Idle: Sized {
    fn open(server: SocketAddr, connections: usize) -> Result<Self>;

    /// Echoes one more message on every connection.
    fn echo_once(&mut self) -> Result<()>;
}

impl Idle for Load {
    fn open(server: SocketAddr, connections: usize) -> Result<Load> {
        Load::open(server, connections, MESSAGE)
    }

    fn echo_once(&mut self) -> Result<()> {
        self.echo_once()
    }
}

/// Measures every peer and prints the table.
pub(crate) fn run(machine: &Machine, peers: &[Peer], rounds: usize) -> Result<()> {
    compare::<Load>(machine, peers, rounds, CONNECTIONS)
}

/// Measures every peer with connections of a kind, and prints the table.
pub(crate) fn compare<L: Idle>(
    machine: &Machine,
    peers: &[Peer],
    rounds: usize,
    wanted: usize,
) -> Result<()> {
    let rounds = rounds.min(MOST_ROUNDS);
    let connections = wanted.min(machine.connections);
    if connections < wanted {
        println!("\nthe descriptor limit allows {connections} connections instead of {wanted}");
    }
    let mut samples = vec![Vec::with_capacity(rounds); peers.len()];
    for _ in 0..rounds {
        for (peer, samples) in peers.iter().zip(&mut samples) {
            samples.push(peer.blamed(sample::<L>(*peer, machine, connections))?);
        }
    }
    print!("{}", table(peers, &samples, connections));
    Ok(())
}

fn sample<L: Idle>(peer: Peer, machine: &Machine, connections: usize) -> Result<Sample> {
    let server = Server::start(peer, machine)?;
    // The first connection makes the code and the shared buffers resident.
    drop(L::open(server.address(), 1)?);
    let before = server.resident()?;
    let mut load = L::open(server.address(), connections)?;
    let after = server.resident()?;
    // Idle, but still served.
    load.echo_once()?;
    server.stop()?;
    Ok(Sample { before, after })
}

fn table(peers: &[Peer], samples: &[Vec<Sample>], connections: usize) -> Table {
    let rounds = samples[0].len();
    let title = format!(
        "memory, {connections} idle connections that echoed one message: median (min-max) of {rounds} rounds"
    );
    let heading = ["peer", "resident before, KiB", "with them, KiB", "bytes a connection"];
    let mut table = Table::new(title, &heading);
    for (peer, samples) in peers.iter().zip(samples) {
        let spread = |figure: &dyn Fn(&Sample) -> f64| Spread::of(samples.iter().map(figure));
        let each = |sample: &Sample| (sample.after as f64 - sample.before as f64) / connections as f64;
        table.row([
            peer.name().into(),
            whole(spread(&|sample| sample.before as f64 / 1024.0).median),
            whole(spread(&|sample| sample.after as f64 / 1024.0).median),
            spread(&each).show(whole),
        ]);
    }
    table
}
