//! Servers that take turns at a load, and the CPU time that each needs for it.
//!
//! On a machine with neighbours, and a virtual one always has some, the cost of one and the same
//! message drifts by a fifth within seconds. So all servers of a case are up at once and take
//! turns of a few milliseconds: whatever slows one down for longer than a turn slows all of them,
//! and their ratios hold. Two runs of one server (`--peers raw,raw`) then differ by a hundredth or
//! two, where windows of 0.6 s in one piece left them a fifth apart.

use std::net::SocketAddr;
use std::ops::AddAssign;
use std::time::{Duration, Instant};

use crate::Result;
use crate::machine::{Machine, busy_time};
use crate::process::Server;
use crate::report::{Spread, Table, hundredths, thousands, whole};
use crate::servers::Peer;

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

/// What keeps a server busy.
pub(crate) trait Work {
    /// Keeps it busy for so long, and then until it has done all that it was asked; answers how many times it has done
    /// what is counted.
    fn run_for(&mut self, window: Duration) -> Result<u64>;
}

/// How a table is to speak of what was measured.
#[derive(Debug)]
pub(crate) struct Words {
    /// What has been done, as `echo, 64 B`.
    pub(crate) title: String,
    /// What is counted, as `message`.
    pub(crate) unit: &'static str,
}

/// A server and its work.
struct Contender<W> {
    peer: Peer,
    server: Server,
    work: W,
}

/// What one server did in its turns.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    /// How many times what is counted.
    done: u64,
    /// From the beginning of a turn until nothing was due any more.
    loaded: Duration,
    /// CPU time of the server, and of everybody on its CPU meanwhile.
    cpu: Duration,
    cpu_of_all: Duration,
}

/// Measures `rounds` rounds and prints them as a table. `begin` makes a server's load, warmed up.
pub(crate) fn run<W: Work>(
    machine: &Machine,
    peers: &[Peer],
    rounds: usize,
    words: &Words,
    begin: impl Fn(SocketAddr) -> Result<W>,
) -> Result<()> {
    let mut contenders = Vec::with_capacity(peers.len());
    for &peer in peers {
        let start = || {
            let server = Server::start(peer, machine)?;
            let work = begin(server.address())?;
            Ok(Contender { peer, server, work })
        };
        contenders.push(peer.blamed(start())?);
    }
    let mut samples = Vec::with_capacity(rounds);
    let mut retakes = RETAKES;
    for _ in 0..rounds {
        samples.push(quiet_round(&mut contenders, machine, &mut retakes)?);
    }
    for contender in contenders {
        contender.peer.blamed(contender.server.stop())?;
    }
    print!("{}", table(peers, &samples, words));
    Ok(())
}

/// A sample of each contender. If others were busy meanwhile it is taken once more, while there
/// are retakes, and the quieter of the two counts.
fn quiet_round<W: Work>(
    contenders: &mut [Contender<W>],
    machine: &Machine,
    retakes: &mut usize,
) -> Result<Vec<Sample>> {
    let noise = |samples: &[Sample]| samples.iter().map(Sample::others).fold(0.0, f64::max);
    let first = round(contenders, machine)?;
    if noise(&first) <= NOISY || *retakes == 0 {
        return Ok(first);
    }
    *retakes -= 1;
    let second = round(contenders, machine)?;
    Ok(if noise(&second) < noise(&first) { second } else { first })
}

fn round<W: Work>(contenders: &mut [Contender<W>], machine: &Machine) -> Result<Vec<Sample>> {
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

impl<W: Work> Contender<W> {
    fn turn(&mut self, machine: &Machine) -> Result<Sample> {
        let cpu_of_all = || machine.server_cpu.map_or(Ok(Duration::ZERO), busy_time);
        let (all_before, before, began) = (cpu_of_all()?, self.server.cpu_time()?, Instant::now());
        let done = self.work.run_for(TURN)?;
        let loaded = began.elapsed();
        std::thread::sleep(FALL_ASLEEP);
        let cpu = self.server.cpu_time()?.saturating_sub(before);
        let cpu_of_all = cpu_of_all()?.saturating_sub(all_before);
        Ok(Sample { done, loaded, cpu, cpu_of_all })
    }
}

impl Sample {
    fn per_second(&self) -> f64 {
        self.done as f64 / self.loaded.as_secs_f64()
    }

    fn microseconds_each(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.done as f64
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
        self.done += turn.done;
        self.loaded += turn.loaded;
        self.cpu += turn.cpu;
        self.cpu_of_all += turn.cpu_of_all;
    }
}

/// A row for each peer; `rounds` holds a sample of each peer a round.
fn table(peers: &[Peer], rounds: &[Vec<Sample>], words: &Words) -> Table {
    let count = rounds.len();
    let Words { title, unit } = words;
    let title = format!("{title}: median (min-max) of {count} rounds");
    let (rate, cost) = (format!("{unit}s/s"), format!("server CPU us/{unit}"));
    let mut table = Table::new(title, &["peer", &rate, &cost, "x raw", "server busy", "noisy"]);
    let raw = peers.iter().position(|&peer| peer == Peer::Raw);
    for (index, peer) in peers.iter().enumerate() {
        let own = || rounds.iter().map(|round| &round[index]);
        let to_raw = raw.map(|raw| {
            let cost = |sample: &Sample| sample.microseconds_each();
            Spread::of(rounds.iter().map(|round| cost(&round[index]) / cost(&round[raw])))
        });
        let noisy = own().filter(|sample| sample.others() > NOISY).count();
        table.row([
            peer.name().into(),
            Spread::of(own().map(Sample::per_second)).show(thousands),
            Spread::of(own().map(Sample::microseconds_each)).show(hundredths),
            to_raw.map_or("-".into(), |spread| spread.show(hundredths)),
            format!("{}%", whole(Spread::of(own().map(|sample| sample.busy() * 100.0)).median)),
            format!("{noisy}/{count}"),
        ]);
    }
    table
}
