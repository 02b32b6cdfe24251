//! Timers: what one costs to add, cancel, reset and fire when many wait, and how late it is called.
//!
//! All of it happens on this thread, on the load generator's CPU. Costs are CPU time of the thread, so they
//! hold on a machine that has other things to do; how late a timer is called is time, and there a busy
//! machine shows. What a structure of timers needs at the least is measured by two written here that do
//! nothing else: a flat wheel, whose every operation is a few writes, and an indexed heap.

mod add_cancel;
mod alone;
mod clock;
mod fire;
mod floors;
mod loops;
mod reset;
mod tally;
mod workload;

use std::time::Duration;

use crate::Result;
use crate::report::{Spread, hundredths};
use crate::servers::Peer;

/// How long anything here may take before it counts as hanging. The slowest sample takes some seconds.
const PATIENCE: Duration = Duration::from_secs(30);

/// The floors, as places among the contenders of every comparison that has both.
const WHEEL: usize = 0;
const HEAP: usize = 1;

/// A peer cannot be asked for more timers than this if its cost for each grows with their number.
const FEW: usize = 10_000;

/// Somebody to measure, and how.
#[derive(Clone, Copy, Debug)]
struct Contender<F> {
    name: &'static str,
    /// Who must be named on the command line for this one to take part; the floors always do.
    peer: Option<Peer>,
    /// How many timers it is given at most.
    most: usize,
    sample: F,
}

/// Measures every case and prints its tables.
pub(crate) fn run(peers: &[Peer], rounds: usize) -> Result<()> {
    add_cancel::run(peers, rounds)?;
    reset::run(peers, rounds)?;
    fire::run(peers, rounds)?;
    alone::run(peers, rounds)
}

/// A few timers of each kind: does every one fire, once and not early, and is every cancelled one found?
pub(crate) fn smoke(peers: &[Peer]) -> Result<()> {
    add_cancel::smoke(peers)?;
    reset::smoke(peers)?;
    fire::smoke(peers)?;
    alone::smoke(peers)
}

/// The contenders without a peer, and then those of the peers, as often as they are named.
fn chosen<F: Copy>(all: &[Contender<F>], peers: &[Peer]) -> Vec<Contender<F>> {
    let of = |peer| all.iter().filter(move |contender| contender.peer == peer).copied();
    of(None).chain(peers.iter().flat_map(|peer| of(Some(*peer)))).collect()
}

/// A sample of each contender, in their order. They take turns in another one: each round begins with the
/// next, so that none is always the first.
fn round<F, S>(
    contenders: &[Contender<F>],
    number: usize,
    mut sample: impl FnMut(usize, &Contender<F>) -> Result<S>,
) -> Result<Vec<S>> {
    let mut samples: Vec<Option<S>> = contenders.iter().map(|_| None).collect();
    for place in 0..contenders.len() {
        let index = (number + place) % contenders.len();
        let contender = &contenders[index];
        let taken = sample(index, contender);
        let taken = taken.map_err(|error| format!("timers, {}: {error}", contender.name))?;
        samples[index] = Some(taken);
    }
    Ok(samples.into_iter().flatten().collect())
}

/// How often a figure of one contender is that of another, within each round; `None` if they were not asked
/// for the same number of timers, which makes such a ratio one of two different things.
fn ratio<F, S>(
    contenders: &[Contender<F>],
    rounds: &[Vec<S>],
    (index, floor): (usize, usize),
    timers: usize,
    figure: impl Fn(&S) -> f64,
) -> String {
    if contenders[index].most < timers {
        return "-".into();
    }
    Spread::of(rounds.iter().map(|round| figure(&round[index]) / figure(&round[floor]))).show(hundredths)
}
