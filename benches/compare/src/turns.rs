//! Servers that take turns at a load, and the CPU time that each needs for it.
//!
//! On a machine with neighbours, as every virtual one has, the cost of the same message drifts by a
//! fifth within seconds. So all servers of a case run at once and take turns of a few milliseconds:
//! a slow-down longer than a turn affects all of them, and their ratios are valid. Two runs of one
//! server (`--peers raw,raw`) then differ by one or two hundredths; with contiguous windows of 0.6
//! s they differed by a fifth.

use std::net::SocketAddr;
use std::ops::AddAssign;
use std::time::{Duration, Instant};

use crate::Result;
use crate::machine::{Machine, busy_time};
use crate::process::Server;
use crate::report::{Spread, Table, hundredths, thousands, whole};
use crate::servers::Peer;

/// Duration of a turn, and number of turns in a sample: 0.6 s.
const TURN: Duration = Duration::from_millis(20);
const TURNS: usize = 30;

/// Time for a server to go to sleep after its last reply. The kernel's figure is exact only for a
/// thread that is not running, and otherwise lags by up to a scheduler tick.
const FALL_ASLEEP: Duration = Duration::from_micros(200);

/// The share of a sample's time used by others on the server's CPU above which the sample counts as
/// noisy and its round is repeated. The kernel reports it in ticks of 10 ms, so a few hundredths
/// are insignificant.
const NOISY: f64 = 0.10;

/// Maximum number of repeated rounds of a case. If every round is noisy, the run must still end.
const RETAKES: usize = 2;

/// The load of a server.
pub(crate) trait Work {
    /// Keeps the server busy for a time, then until all pending work is done. Returns the number of
    /// counted units.
    fn run_for(&mut self, window: Duration) -> Result<u64>;
}

/// Labels of a measurement in the table.
#[derive(Debug)]
pub(crate) struct Words {
    /// What was done, such as `echo, 64 B`.
    pub(crate) title: String,
    /// The unit, such as `message`.
    pub(crate) unit: &'static str,
    /// The peer that all are compared with, if it takes part.
    pub(crate) base: Peer,
}

/// A server and its load.
struct Contender<W> {
    peer: Peer,
    server: Server,
    work: W,
}

/// The results of one server in its turns.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    /// Number of units.
    done: u64,
    /// From the start of a turn until all work was done.
    loaded: Duration,
    /// CPU time of the server, and of all processes on its CPU meanwhile.
    cpu: Duration,
    cpu_of_all: Duration,
}

/// Measures `rounds` rounds and prints them as a table. `begin` creates a server's load, warmed up.
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

/// Takes a sample of each contender. A noisy sample is taken again, within the limit of repeats,
/// and the quieter of the two counts.
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
            // Rotates the order, so that none is always the first.
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

    /// The share of the time in which the server ran. If it is below 1, the server waited for the
    /// generator or for other processes on its CPU.
    fn busy(&self) -> f64 {
        self.cpu.as_secs_f64() / self.loaded.as_secs_f64()
    }

    /// The share of the time in which other processes ran on the server's CPU.
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

/// One row per peer; `rounds` holds a sample of each peer per round.
fn table(peers: &[Peer], rounds: &[Vec<Sample>], words: &Words) -> Table {
    let count = rounds.len();
    let Words { title, unit, base } = words;
    let title = format!("{title}: median (min-max) of {count} rounds");
    let (rate, cost) = (format!("{unit}s/s"), format!("server CPU us/{unit}"));
    let (per_cpu, ratio) = (format!("{unit}s/CPU s"), format!("cost x {}", base.name()));
    let mut table = Table::new(title, &["peer", &rate, &cost, &per_cpu, &ratio, "server busy", "noisy"]);
    let base = peers.iter().position(|peer| peer == base);
    for (index, peer) in peers.iter().enumerate() {
        let own = || rounds.iter().map(|round| &round[index]);
        let to_base = base.map(|base| {
            let cost = |sample: &Sample| sample.microseconds_each();
            Spread::of(rounds.iter().map(|round| cost(&round[index]) / cost(&round[base])))
        });
        let noisy = own().filter(|sample| sample.others() > NOISY).count();
        table.row([
            peer.name().into(),
            Spread::of(own().map(Sample::per_second)).show(rate_of),
            Spread::of(own().map(Sample::microseconds_each)).show(hundredths),
            rate_of(Spread::of(own().map(|sample| 1e6 / sample.microseconds_each())).median),
            to_base.map_or("-".into(), |spread| spread.show(hundredths)),
            format!("{}%", whole(Spread::of(own().map(|sample| sample.busy() * 100.0)).median)),
            format!("{noisy}/{count}"),
        ]);
    }
    table
}

/// Thousands, or the number itself if it is small.
fn rate_of(number: f64) -> String {
    if number < 10_000.0 { whole(number) } else { thousands(number) }
}
