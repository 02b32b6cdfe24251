//! Server CPU time a message, the generator keeping every connection busy.
//!
//! On a machine with neighbours, and a virtual one always has some, the cost of one and the same
//! message drifts by a fifth within seconds. So all servers of a case are up at once and take
//! turns of a few milliseconds: whatever slows one down for longer than a turn slows all of them,
//! and their ratios hold. Two runs of one server (`--peers raw,raw`) then differ by a hundredth or
//! two, where windows of 0.6 s in one piece left them a fifth apart.

use std::ops::AddAssign;
use std::time::{Duration, Instant};

use crate::Result;
use crate::load::Load;
use crate::machine::{Machine, busy_time};
use crate::process::Server;
use crate::report::{Spread, Table, hundredths, thousands, whole};
use crate::servers::Peer;

/// Message size and number of connections.
const CASES: [(usize, usize); 3] = [(64, 100), (64, 1000), (16 * 1024, 100)];

const WARM_UP: Duration = Duration::from_millis(150);

/// One turn of one server, and how many of them make a sample: 0.6 s.
const TURN: Duration = Duration::from_millis(20);
const TURNS: usize = 30;

/// Time for a server to fall asleep after its last reply. The kernel's figure is exact only for a
/// thread that is not running, and otherwise behind by up to a scheduler tick.
const FALL_ASLEEP: Duration = Duration::from_micros(200);

/// The share of a sample's time that others may use of the server's CPU before it counts as noisy
/// and its round is taken again. The kernel shows it in ticks of 10 ms, so a few hundredths mean
/// nothing.
const NOISY: f64 = 0.10;

/// Rounds of a case that may be taken again. Where every round is noisy there is no quiet to wait
/// for, and the run should end all the same.
const RETAKES: usize = 2;

/// A server with its clients connected.
struct Contender {
    peer: Peer,
    server: Server,
    load: Load,
}

/// What one server did in its turns.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    messages: u64,
    /// From the first message of a turn to the last reply.
    loaded: Duration,
    /// CPU time of the server, and of everybody on its CPU meanwhile.
    cpu: Duration,
    cpu_of_all: Duration,
}

/// Measures every case and prints a table each.
pub(crate) fn run(machine: &Machine, peers: &[Peer], rounds: usize) -> Result<()> {
    for (size, connections) in CASES {
        // All are up at once, and this end of all their connections is in this process.
        machine.need_connections(peers.len() * connections)?;
        let mut contenders = Vec::with_capacity(peers.len());
        for &peer in peers {
            contenders.push(peer.blamed(Contender::start(peer, machine, connections, size))?);
        }
        let mut samples = Vec::with_capacity(rounds);
        let mut retakes = RETAKES;
        for _ in 0..rounds {
            samples.push(quiet_round(&mut contenders, machine, &mut retakes)?);
        }
        for contender in contenders {
            contender.peer.blamed(contender.server.stop())?;
        }
        print!("{}", table(peers, &samples, connections, size));
    }
    Ok(())
}

/// A sample of each contender. If others were busy meanwhile it is taken once more, while there
/// are retakes, and the quieter of the two counts.
fn quiet_round(contenders: &mut [Contender], machine: &Machine, retakes: &mut usize) -> Result<Vec<Sample>> {
    let noise = |samples: &[Sample]| samples.iter().map(Sample::others).fold(0.0, f64::max);
    let first = round(contenders, machine)?;
    if noise(&first) <= NOISY || *retakes == 0 {
        return Ok(first);
    }
    *retakes -= 1;
    let second = round(contenders, machine)?;
    Ok(if noise(&second) < noise(&first) { second } else { first })
}

fn round(contenders: &mut [Contender], machine: &Machine) -> Result<Vec<Sample>> {
    let count = contenders.len();
    let mut samples = vec![Sample::default(); count];
    for turn in 0..TURNS {
        for place in 0..count {
            // Another one begins each time, so that none is always the first.
            let index = (turn + place) % count;
            let contender = &mut contenders[index];
            samples[index] += contender.peer.blamed(contender.turn(machine))?;
        }
    }
    Ok(samples)
}

impl Contender {
    fn start(peer: Peer, machine: &Machine, connections: usize, size: usize) -> Result<Contender> {
        let server = Server::start(peer, machine)?;
        let mut load = Load::open(server.address(), connections, size)?;
        load.run_for(WARM_UP)?;
        Ok(Contender { peer, server, load })
    }

    fn turn(&mut self, machine: &Machine) -> Result<Sample> {
        let cpu_of_all = || machine.server_cpu.map_or(Ok(Duration::ZERO), busy_time);
        let (all_before, before, began) = (cpu_of_all()?, self.server.cpu_time()?, Instant::now());
        let messages = self.load.run_for(TURN)?;
        let loaded = began.elapsed();
        std::thread::sleep(FALL_ASLEEP);
        let cpu = self.server.cpu_time()?.saturating_sub(before);
        let cpu_of_all = cpu_of_all()?.saturating_sub(all_before);
        Ok(Sample { messages, loaded, cpu, cpu_of_all })
    }
}

impl Sample {
    fn messages_per_second(&self) -> f64 {
        self.messages as f64 / self.loaded.as_secs_f64()
    }

    fn microseconds_a_message(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.messages as f64
    }

    /// The share of the time in which the server ran. Below 1, it waited for the generator, or for
    /// others on its CPU.
    fn busy(&self) -> f64 {
        self.cpu.as_secs_f64() / self.loaded.as_secs_f64()
    }

    /// The share of the time in which others ran on the server's CPU.
    fn others(&self) -> f64 {
        self.cpu_of_all.saturating_sub(self.cpu).as_secs_f64() / self.loaded.as_secs_f64()
    }
}

impl AddAssign for Sample {
    fn add_assign(&mut self, turn: Sample) {
        self.messages += turn.messages;
        self.loaded += turn.loaded;
        self.cpu += turn.cpu;
        self.cpu_of_all += turn.cpu_of_all;
    }
}

/// A row for each peer; `rounds` holds a sample of each peer a round.
fn table(peers: &[Peer], rounds: &[Vec<Sample>], connections: usize, size: usize) -> Table {
    let count = rounds.len();
    let title = format!("echo, {size} B, {connections} connections: median (min-max) of {count} rounds");
    let heading = ["peer", "messages/s", "server CPU us/message", "x raw", "server busy", "noisy"];
    let mut table = Table::new(title, &heading);
    let raw = peers.iter().position(|&peer| peer == Peer::Raw);
    for (index, peer) in peers.iter().enumerate() {
        let own = || rounds.iter().map(|round| &round[index]);
        let to_raw = raw.map(|raw| {
            let cost = |sample: &Sample| sample.microseconds_a_message();
            Spread::of(rounds.iter().map(|round| cost(&round[index]) / cost(&round[raw])))
        });
        let noisy = own().filter(|sample| sample.others() > NOISY).count();
        table.row([
            peer.name().into(),
            Spread::of(own().map(Sample::messages_per_second)).show(thousands),
            Spread::of(own().map(Sample::microseconds_a_message)).show(hundredths),
            to_raw.map_or("-".into(), |spread| spread.show(hundredths)),
            format!("{}%", whole(Spread::of(own().map(|sample| sample.busy() * 100.0)).median)),
            format!("{noisy}/{count}"),
        ]);
    }
    table
}
