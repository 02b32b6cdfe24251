//! Messages between two processes: through a shared ring with its bells, and over a pair of Unix sockets.
//!
//! Each sample has a child process of its own (this program again), pinned to one CPU, and this one on another. The sockets
//! are of the kind that keeps the borders of messages, as the ring does (`SOCK_SEQPACKET`), and block: one send and one
//! receive a message, and no poll beside them. The ring is on a loop at both ends, which sleeps when there is nothing to do,
//! with bells that never block or with plain eventfds; or, *awake*, with no loop at all, where both ends look again and again
//! and nobody is ever rung for.

mod passing;
mod ring;
mod socket;

use std::time::{Duration, Instant};

use reveille::Doorbell;

use crate::Result;
use crate::machine::{self, Machine};
use crate::report::{Spread, Table, hundredths, thousands};
use passing::Peer;

/// Bytes of a message.
const MESSAGE: usize = 64;

/// Bytes of each ring, enough for 910 messages. What a socket holds is the kernel's affair, some 270 of them.
const CAPACITY: usize = 64 * 1024;

/// Messages under way when both directions are busy. Fewer than a socket holds, or both ends could wait for room.
const UNDER_WAY: usize = 64;

/// Each of the three parts of a sample.
const WINDOW: Duration = Duration::from_millis(150);

/// How the messages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Socket,
    Ring,
    RingPlain,
    RingAwake,
}

/// What the child does with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Counts, and answers with the count when there are no more.
    Count,
    /// Sends each back.
    Echo,
}

const WAYS: [Way; 4] = [Way::Socket, Way::Ring, Way::RingPlain, Way::RingAwake];

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Socket => "socket pair",
            Way::Ring => "ring, bells",
            Way::RingPlain => "ring, plain",
            Way::RingAwake => "ring, awake",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Way::Socket => "socket",
            Way::Ring => "ring",
            Way::RingPlain => "ring-plain",
            Way::RingAwake => "ring-awake",
        }
    }

    pub(crate) fn parse(word: &str) -> std::result::Result<Way, String> {
        let way = WAYS.into_iter().find(|way| way.word() == word);
        way.ok_or_else(|| format!("no way {word:?} for messages"))
    }

    fn start(self, task: Task, machine: &Machine) -> Result<Peer> {
        Peer::start(self, task, machine)
    }

    /// Messages a second in one direction.
    fn flood(self, machine: &Machine, window: Duration) -> Result<f64> {
        let peer = self.start(Task::Count, machine)?;
        let (count, took) = match self {
            Way::Socket => socket::flood(&peer, window),
            Way::Ring => ring::flood(&peer, Doorbell::NeverBlocks, window),
            Way::RingPlain => ring::flood(&peer, Doorbell::Plain, window),
            Way::RingAwake => ring::flood_awake(&peer, window),
        }?;
        peer.finish()?;
        Ok(count as f64 / took.as_secs_f64())
    }

    /// Messages there and back, so many under way: how many a second in both directions together, and the median round trip in
    /// microseconds.
    fn echo(self, machine: &Machine, under_way: usize, window: Duration) -> Result<(f64, f64)> {
        let peer = self.start(Task::Echo, machine)?;
        let mut trips = match self {
            Way::Socket => socket::echo(&peer, under_way, window),
            Way::Ring => ring::echo(&peer, Doorbell::NeverBlocks, under_way, window),
            Way::RingPlain => ring::echo(&peer, Doorbell::Plain, under_way, window),
            Way::RingAwake => ring::echo_awake(&peer, under_way, window),
        }?;
        peer.finish()?;
        trips.times.sort_unstable();
        let median = trips.times.get(trips.times.len() / 2).copied().unwrap_or_default();
        Ok((2.0 * trips.count as f64 / trips.took.as_secs_f64(), median.as_secs_f64() * 1e6))
    }
}

impl Task {
    fn word(self) -> &'static str {
        match self {
            Task::Count => "count",
            Task::Echo => "echo",
        }
    }

    pub(crate) fn parse(word: &str) -> std::result::Result<Task, String> {
        let task = [Task::Count, Task::Echo].into_iter().find(|task| task.word() == word);
        task.ok_or_else(|| format!("no task {word:?} for a peer"))
    }
}

/// What was sent there and back.
#[derive(Debug)]
struct Trips {
    /// Where it began, then how long it took.
    began: Instant,
    took: Duration,
    /// When it ends.
    deadline: Instant,
    under_way: usize,
    count: u64,
    /// Of each, if there was one at a time.
    times: Vec<Duration>,
    sent_at: Instant,
}

impl Trips {
    fn begin(under_way: usize, window: Duration) -> Trips {
        let began = Instant::now();
        Trips {
            began,
            took: Duration::ZERO,
            deadline: began + window,
            under_way,
            count: 0,
            times: Vec::new(),
            sent_at: began,
        }
    }

    /// One has come back. Answers whether another is to go.
    fn returned(&mut self) -> bool {
        self.count += 1;
        let one_at_a_time =
            self.under_way == 1 && self.took.is_zero() && self.times.len() as u64 + 1 == self.count;
        if one_at_a_time || self.count % 64 == 0 {
            let now = Instant::now();
            if one_at_a_time {
                self.times.push(now - self.sent_at);
                self.sent_at = now;
            }
            if now >= self.deadline && self.took.is_zero() {
                self.took = now - self.began;
            }
        }
        self.took.is_zero()
    }
}

/// The parts of a round that a way has measured.
#[derive(Clone, Copy, Debug)]
struct Sample {
    one_way: f64,
    both_ways: f64,
    round_trip: f64,
}

/// What the child does.
pub(crate) fn be_peer(way: Way, task: Task, cpu: Option<usize>) -> Result<()> {
    if let Some(cpu) = cpu {
        machine::pin_this_thread(cpu)?;
    }
    match way {
        Way::Socket => socket::be_peer(task),
        Way::Ring => ring::be_peer(Doorbell::NeverBlocks, task),
        Way::RingPlain => ring::be_peer(Doorbell::Plain, task),
        Way::RingAwake => ring::be_peer_awake(task),
    }
}

/// Measures all ways in turn, and prints a table.
pub(crate) fn run(machine: &Machine, rounds: usize) -> Result<()> {
    let ways = usable(machine);
    let mut samples = Vec::with_capacity(rounds);
    for round in 0..rounds {
        let mut of_round = vec![None; ways.len()];
        for place in 0..ways.len() {
            // Another one begins each time, so that none is always the first.
            let index = (round + place) % ways.len();
            of_round[index] = Some(sample(ways[index], machine)?);
        }
        samples.push(of_round.into_iter().flatten().collect::<Vec<_>>());
    }
    print!("{}", table(ways, &samples));
    Ok(())
}

/// Every way for a moment.
pub(crate) fn smoke(machine: &Machine) -> Result<()> {
    let window = Duration::from_millis(20);
    for way in usable(machine) {
        let blamed = |error| format!("doorbell, {}: {error}", way.name());
        way.flood(machine, window).map_err(blamed)?;
        for under_way in [1, UNDER_WAY] {
            way.echo(machine, under_way, window).map_err(blamed)?;
        }
        println!("doorbell, {}: every message counted, or back as it was sent", way.name());
    }
    Ok(())
}

/// Two that never sleep would keep each other from their one CPU.
fn usable(machine: &Machine) -> &'static [Way] {
    if machine.generator_cpu.is_some() { &WAYS } else { &WAYS[..3] }
}

fn sample(way: Way, machine: &Machine) -> Result<Sample> {
    let one_way = way.flood(machine, WINDOW)?;
    let (both_ways, _) = way.echo(machine, UNDER_WAY, WINDOW)?;
    let (_, round_trip) = way.echo(machine, 1, WINDOW)?;
    Ok(Sample { one_way, both_ways, round_trip })
}

/// A row for each way; the ratios are to the socket of the same round.
fn table(ways: &[Way], rounds: &[Vec<Sample>]) -> Table {
    let title = format!(
        "doorbell, two processes, messages of {MESSAGE} B: median (min-max) of {} rounds",
        rounds.len()
    );
    let both = format!("both ways, {UNDER_WAY} under way/s");
    let heading = ["way", "one way/s", "x socket", &both, "x socket", "round trip us", "x socket"];
    let mut table = Table::new(title, &heading);
    for (index, way) in ways.iter().enumerate() {
        let figure = |of: fn(&Sample) -> f64| Spread::of(rounds.iter().map(|round| of(&round[index])));
        let ratio = |of: fn(&Sample) -> f64| {
            Spread::of(rounds.iter().map(|round| of(&round[index]) / of(&round[0]))).show(hundredths)
        };
        table.row([
            way.name().into(),
            figure(|sample| sample.one_way).show(thousands),
            ratio(|sample| sample.one_way),
            figure(|sample| sample.both_ways).show(thousands),
            ratio(|sample| sample.both_ways),
            figure(|sample| sample.round_trip).show(hundredths),
            ratio(|sample| sample.round_trip),
        ]);
    }
    table
}
