//! Memory of a server per idle connection.

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

/// Measures every peer and prints the table.
pub(crate) fn run(machine: &Machine, peers: &[Peer], rounds: usize) -> Result<()> {
    let rounds = rounds.min(MOST_ROUNDS);
    let connections = CONNECTIONS.min(machine.connections);
    if connections < CONNECTIONS {
        println!("\nthe descriptor limit allows {connections} connections instead of {CONNECTIONS}");
    }
    let mut samples = vec![Vec::with_capacity(rounds); peers.len()];
    for _ in 0..rounds {
        for (peer, samples) in peers.iter().zip(&mut samples) {
            samples.push(peer.blamed(sample(*peer, machine, connections))?);
        }
    }
    print!("{}", table(peers, &samples, connections));
    Ok(())
}

fn sample(peer: Peer, machine: &Machine, connections: usize) -> Result<Sample> {
    let server = Server::start(peer, machine)?;
    // The first connection makes the code and the shared buffers resident.
    drop(Load::open(server.address(), 1, MESSAGE)?);
    let before = server.resident()?;
    let mut load = Load::open(server.address(), connections, MESSAGE)?;
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
