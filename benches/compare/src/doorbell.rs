//! Messages between two processes: through a shared ring with doorbells, and over a pair of Unix
//! sockets.
//!
//! Each sample has a child process of its own (this program again), pinned to one CPU, with this
//! process on another. The sockets preserve message boundaries, as the ring does
//! (`SOCK_SEQPACKET`), and are blocking: one send and one receive per message, without a poll. The
//! ring is on a loop at both ends, which sleeps when idle, with bells that never block or with
//! plain eventfds. In the variant *awake* there is no loop: both ends poll the ring continuously,
//! and no bell is ever rung.

mod passing;
mod ring;
mod socket;

use std::time::{Duration, Instant};

use reveille::ipc::Doorbell;

use crate::Result;
use crate::machine::{self, Machine};
use crate::report::{Spread, Table, hundredths, thousands};
use passing::Peer;

/// Bytes of a message.
const MESSAGE: usize = 64;

/// Bytes of each ring, enough for 910 messages. The kernel limits a socket to about 270 of them.
const CAPACITY: usize = 64 * 1024;

/// Messages in flight when both directions are busy. Fewer than a socket holds; otherwise both ends
/// could wait for space.
const IN_FLIGHT: usize = 64;

/// Duration of each of the three parts of a sample.
const WINDOW: Duration = Duration::from_millis(150);

/// The transport of the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Socket,
    Ring,
    RingPlain,
    RingAwake,
}

/// The task of the child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Counts the messages, and replies with the count after the last one.
    Count,
    /// Returns each message.
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

    /// Measures messages per second in one direction.
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

    /// Measures round trips with `in_flight` messages in flight. Returns the messages per second in
    /// both directions together, and the median round-trip time in microseconds.
    fn echo(self, machine: &Machine, in_flight: usize, window: Duration) -> Result<(f64, f64)> {
        let peer = self.start(Task::Echo, machine)?;
        let mut trips = match self {
            Way::Socket => socket::echo(&peer, in_flight, window),
            Way::Ring => ring::echo(&peer, Doorbell::NeverBlocks, in_flight, window),
            Way::RingPlain => ring::echo(&peer, Doorbell::Plain, in_flight, window),
            Way::RingAwake => ring::echo_awake(&peer, in_flight, window),
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

/// Statistics of round trips.
#[derive(Debug)]
struct Trips {
    /// The start; then the duration.
    began: Instant,
    took: Duration,
    /// End of the measurement.
    deadline: Instant,
    in_flight: usize,
    count: u64,
    /// Duration of each round trip, if one message is in flight at a time.
    times: Vec<Duration>,
    sent_at: Instant,
}

impl Trips {
    fn begin(in_flight: usize, window: Duration) -> Trips {
        let began = Instant::now();
        Trips {
            began,
            took: Duration::ZERO,
            deadline: began + window,
            in_flight,
            count: 0,
            times: Vec::new(),
            sent_at: began,
        }
    }

    /// Records a returned message. Returns whether to send another one.
    fn returned(&mut self) -> bool {
        self.count += 1;
        let one_at_a_time =
            self.in_flight == 1 && self.took.is_zero() && self.times.len() as u64 + 1 == self.count;
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

/// The results of one transport in a round.
#[derive(Clone, Copy, Debug)]
struct Sample {
    one_way: f64,
    both_ways: f64,
    round_trip: f64,
}

/// Runs the child.
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

/// Measures all transports in turn, and prints a table.
pub(crate) fn run(machine: &Machine, rounds: usize) -> Result<()> {
    let ways = usable(machine);
    let mut samples = Vec::with_capacity(rounds);
    for round in 0..rounds {
        let mut of_round = vec![None; ways.len()];
        for place in 0..ways.len() {
            // Rotates the order, so that none is always the first.
            let index = (round + place) % ways.len();
            of_round[index] = Some(sample(ways[index], machine)?);
        }
        samples.push(of_round.into_iter().flatten().collect::<Vec<_>>());
    }
    print!("{}", table(ways, &samples));
    Ok(())
}

/// Runs each transport briefly.
pub(crate) fn smoke(machine: &Machine) -> Result<()> {
    let window = Duration::from_millis(20);
    for way in usable(machine) {
        let blamed = |error| format!("doorbell, {}: {error}", way.name());
        way.flood(machine, window).map_err(blamed)?;
        for in_flight in [1, IN_FLIGHT] {
            way.echo(machine, in_flight, window).map_err(blamed)?;
        }
        println!("doorbell, {}: every message counted, or back as it was sent", way.name());
    }
    Ok(())
}

/// With one CPU, two processes that never sleep would block each other.
fn usable(machine: &Machine) -> &'static [Way] {
    if machine.generator_cpu.is_some() { &WAYS } else { &WAYS[..3] }
}

fn sample(way: Way, machine: &Machine) -> Result<Sample> {
    let one_way = way.flood(machine, WINDOW)?;
    let (both_ways, _) = way.echo(machine, IN_FLIGHT, WINDOW)?;
    let (_, round_trip) = way.echo(machine, 1, WINDOW)?;
    Ok(Sample { one_way, both_ways, round_trip })
}

/// One row per transport; ratios are to the socket in the same round.
fn table(ways: &[Way], rounds: &[Vec<Sample>]) -> Table {
    let title = format!(
        "doorbell, two processes, messages of {MESSAGE} B: median (min-max) of {} rounds",
        rounds.len()
    );
    let both = format!("both ways, {IN_FLIGHT} in flight/s");
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
