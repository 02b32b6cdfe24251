//! Pending timers are pushed back, one after the other, as a server does with a connection's idle
//! timeout on each input.
//!
//! The timer is chosen at random each time, so that no structure has the next one in cache. All
//! timers have been pushed back once before the measurement, and then lie within the remainder of a
//! minute, as in a server.

use std::time::{Duration, Instant};

use super::clock::thread_cpu_time;
use super::loops::{HeapLoop, Reset, Reveille, Tokio, WheelLoop};
use super::workload::{Random, timers};
use super::{Contender, HEAP, WHEEL, chosen, ratio, round};
use crate::Result;
use crate::report::{Spread, Table, whole};
use crate::servers::Peer;

/// Number of pending timers, and number of resets in a sample.
const CASES: [(usize, usize); 2] = [(1_000, 100_000), (1_000_000, 250_000)];

/// Deadlines initially lie within this time.
const SPAN: Duration = Duration::from_secs(10);

/// Delay of a timer after a reset.
const DELAY: Duration = Duration::from_secs(60);

/// Returns the CPU time per reset, in nanoseconds.
type Measure = fn(timers: usize, resets: usize) -> Result<f64>;

const CONTENDERS: [Contender<Measure>; 5] = [
    Contender { name: "wheel", peer: None, most: usize::MAX, sample: sample::<WheelLoop> },
    Contender { name: "heap", peer: None, most: usize::MAX, sample: sample::<HeapLoop> },
    Contender { name: "reveille", peer: Some(Peer::Reveille), most: usize::MAX, sample: sample::<Reveille> },
    Contender {
        name: "reveille, turn",
        peer: Some(Peer::Reveille),
        most: usize::MAX,
        sample: |timers, resets| {
            let turn = Instant::now();
            sample_of(timers, resets, move |event_loop: &mut Reveille, id| {
                event_loop.reset_at(id, turn + DELAY)
            })
        },
    },
    Contender { name: "tokio", peer: Some(Peer::Tokio), most: usize::MAX, sample: sample::<Tokio> },
];

/// Measures both cases and prints a table for each.
pub(super) fn run(peers: &[Peer], rounds: usize) -> Result<()> {
    let contenders = chosen(&CONTENDERS, peers);
    for (timers, resets) in CASES {
        let each = |number| round(&contenders, number, |_, each| (each.sample)(timers, resets));
        let samples: Vec<_> = (0..rounds).map(each).collect::<Result<_>>()?;
        print!("{}", table(&contenders, &samples, timers));
    }
    Ok(())
}

/// A few timers for each contender.
pub(super) fn smoke(peers: &[Peer]) -> Result<()> {
    let contenders = chosen(&CONTENDERS, peers);
    round(&contenders, 0, |_, each| (each.sample)(1_000, 2_000))?;
    for contender in &contenders {
        println!("timers, {}: every one could be pushed back, and cancelled after that", contender.name);
    }
    Ok(())
}

fn sample<L: Reset>(count: usize, resets: usize) -> Result<f64> {
    sample_of(count, resets, |event_loop: &mut L, id| event_loop.reset(id, DELAY))
}

fn sample_of<L: Reset>(
    count: usize,
    resets: usize,
    mut reset: impl FnMut(&mut L, &mut L::Id) -> bool,
) -> Result<f64> {
    let mut event_loop = L::new()?;
    event_loop.begin(Instant::now());
    let timers = timers(count, SPAN);
    let mut random = Random::new(1);
    let mut all: Vec<usize> = (0..count).collect();
    random.shuffle(&mut all);
    let turns: Vec<usize> = (0..resets).map(|_| random.below(count as u64) as usize).collect();

    event_loop.inside(|event_loop| {
        let mut ids: Vec<L::Id> = timers.iter().map(|timer| event_loop.add(*timer)).collect::<Result<_>>()?;
        let mut push_back =
            |turns: &[usize]| turns.iter().filter(|&&turn| reset(event_loop, &mut ids[turn])).count();
        let first = push_back(&all);
        let began = thread_cpu_time();
        let then = push_back(&turns);
        let time = thread_cpu_time() - began;
        if (first, then) != (count, resets) {
            return Err(
                format!("{first} and {then} resets of {count} and {resets} found their timers").into()
            );
        }
        let cancelled: usize = ids.drain(..).map(|id| usize::from(event_loop.cancel(id))).sum();
        if cancelled != count {
            return Err(format!("{cancelled} timers of {count} could be cancelled").into());
        }
        event_loop.check_empty()?;
        Ok(time.as_nanos() as f64 / resets as f64)
    })
}

/// One row per contender; `rounds` holds a sample of each per round.
fn table(contenders: &[Contender<Measure>], rounds: &[Vec<f64>], timers: usize) -> Table {
    let title = format!(
        "timers, one of {timers} pushed back to {} s from now, the clock read for it (\"turn\": from the time of the turn), CPU time: median (min-max) of {} rounds",
        DELAY.as_secs(),
        rounds.len()
    );
    let mut table = Table::new(title, &["contender", "reset ns", "x wheel", "x heap"]);
    for (index, contender) in contenders.iter().enumerate() {
        let to = |floor| ratio(contenders, rounds, (index, floor), timers, |nanos| *nanos);
        table.row([
            contender.name.into(),
            Spread::of(rounds.iter().map(|round| round[index])).show(whole),
            to(WHEEL),
            to(HEAP),
        ]);
    }
    table
}
