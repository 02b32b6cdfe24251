//! Many timers are added and then all cancelled, in another order. Most timers of a server are used
//! like this, since they guard against rare events.
//!
//! A loop does it once before the measurement, and then again: its structures have grown, and its
//! allocations come in the order in which memory was freed, as in a server that has run for a
//! while. With a million timers that order is most of the cost of adding one, so the first time has
//! its own column. It is not entirely the first time for the allocator, which other contenders have
//! used.

use std::time::{Duration, Instant};

use super::clock::thread_cpu_time;
use super::loops::{Calloop, HeapLoop, Loop, Reveille, Tokio, WheelLoop};
use super::workload::{Random, Timer, timers};
use super::{Contender, FEW, HEAP, WHEEL, chosen, ratio, round};
use crate::Result;
use crate::report::{Spread, Table, whole};
use crate::servers::Peer;

/// Number of timers, and number of repetitions in a sample.
const CASES: [(usize, usize); 2] = [(1_000, 100), (1_000_000, 1)];

/// Deadlines lie within this time.
const SPAN: Duration = Duration::from_secs(10);

type Measure = fn(timers: usize, passes: usize) -> Result<Sample>;

const CONTENDERS: [Contender<Measure>; 5] = [
    Contender { name: "wheel", peer: None, most: usize::MAX, sample: sample::<WheelLoop> },
    Contender { name: "heap", peer: None, most: usize::MAX, sample: sample::<HeapLoop> },
    Contender { name: "reveille", peer: Some(Peer::Reveille), most: usize::MAX, sample: sample::<Reveille> },
    Contender { name: "tokio", peer: Some(Peer::Tokio), most: usize::MAX, sample: sample::<Tokio> },
    Contender { name: "calloop", peer: Some(Peer::Calloop), most: FEW, sample: sample::<Calloop> },
];

/// The results of a contender in a round.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// With a new loop.
    first: Costs,
    then: Costs,
}

/// CPU time per timer, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Costs {
    add: f64,
    cancel: f64,
}

impl Costs {
    fn sum(self) -> f64 {
        self.add + self.cancel
    }
}

/// Measures both cases and prints a table for each.
pub(super) fn run(peers: &[Peer], rounds: usize) -> Result<()> {
    let contenders = chosen(&CONTENDERS, peers);
    for (timers, passes) in CASES {
        let each =
            |number| round(&contenders, number, |_, each| (each.sample)(timers.min(each.most), passes));
        let samples: Vec<_> = (0..rounds).map(each).collect::<Result<_>>()?;
        print!("{}", table(&contenders, &samples, timers));
    }
    Ok(())
}

/// A few timers for each contender.
pub(super) fn smoke(peers: &[Peer]) -> Result<()> {
    let contenders = chosen(&CONTENDERS, peers);
    round(&contenders, 0, |_, each| (each.sample)(1_000, 1))?;
    for contender in &contenders {
        println!("timers, {}: every one that was added could be cancelled", contender.name);
    }
    Ok(())
}

fn sample<L: Loop>(count: usize, passes: usize) -> Result<Sample> {
    let mut event_loop = L::new()?;
    let timers = timers(count, SPAN);
    let mut ids = Vec::with_capacity(count);
    let first = pass(&mut event_loop, &timers, &mut ids)?;
    let mut then = Costs::default();
    for _ in 0..passes {
        let Costs { add, cancel } = pass(&mut event_loop, &timers, &mut ids)?;
        then.add += add / passes as f64;
        then.cancel += cancel / passes as f64;
    }
    event_loop.check_empty()?;
    Ok(Sample { first, then })
}

fn pass<L: Loop>(event_loop: &mut L, timers: &[Timer], ids: &mut Vec<L::Id>) -> Result<Costs> {
    event_loop.begin(Instant::now());
    let began = thread_cpu_time();
    event_loop.inside(|event_loop| -> Result<()> {
        for timer in timers {
            ids.push(event_loop.add(*timer)?);
        }
        Ok(())
    })?;
    let add = thread_cpu_time() - began;

    // The ids are shuffled beforehand, so that looking them up is not measured.
    Random::new(1).shuffle(ids);
    let began = thread_cpu_time();
    let cancelled: usize =
        event_loop.inside(|event_loop| ids.drain(..).map(|id| usize::from(event_loop.cancel(id))).sum());
    let cancel = thread_cpu_time() - began;
    if cancelled != timers.len() {
        return Err(format!("{cancelled} timers of {} could be cancelled", timers.len()).into());
    }
    let each = |time: Duration| time.as_nanos() as f64 / timers.len() as f64;
    Ok(Costs { add: each(add), cancel: each(cancel) })
}

/// One row per contender; `rounds` holds a sample of each per round.
fn table(contenders: &[Contender<Measure>], rounds: &[Vec<Sample>], timers: usize) -> Table {
    let title = format!(
        "timers, {timers} added and then cancelled in random order, CPU time of one: median (min-max) of {} rounds",
        rounds.len()
    );
    let heading =
        ["contender", "timers", "add ns", "cancel ns", "sum ns", "x wheel", "x heap", "first sum ns"];
    let mut table = Table::new(title, &heading);
    for (index, contender) in contenders.iter().enumerate() {
        let spread = |figure: &dyn Fn(&Sample) -> f64| {
            Spread::of(rounds.iter().map(|round| figure(&round[index]))).show(whole)
        };
        let to = |floor| ratio(contenders, rounds, (index, floor), timers, |sample| sample.then.sum());
        table.row([
            contender.name.into(),
            timers.min(contender.most).to_string(),
            spread(&|sample| sample.then.add),
            spread(&|sample| sample.then.cancel),
            spread(&|sample| sample.then.sum()),
            to(WHEEL),
            to(HEAP),
            spread(&|sample| sample.first.sum()),
        ]);
    }
    table
}
