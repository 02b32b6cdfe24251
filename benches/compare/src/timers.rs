//! Timers: the cost of adding, cancelling, resetting and firing one among many, and its lateness.
//!
//! Everything runs on this thread, on the load generator's CPU. Costs are CPU time of the thread,
//! so they are valid on a machine with other load; lateness is elapsed time, so other load affects
//! it. The minimum cost of a timer structure is measured with two structures written here that do
//! nothing else: a flat wheel, whose operations are a few writes each, and an indexed heap.

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

/// A measurement that takes longer counts as hung. The slowest sample takes a few seconds.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The minimal structures, as indices of the contenders of every comparison that has both.
const WHEEL: usize = 0;
const HEAP: usize = 1;

/// The maximum number of timers for a peer whose cost per timer grows with their number.
const FEW: usize = 10_000;

/// A contender, and how to measure it.
#[derive(Clone, Copy, Debug)]
struct Contender<F> {
    name: &'static str,
    /// The peer that must be selected for this contender to take part; `None` for the minimal
    /// structures, which always do.
    peer: Option<Peer>,
    /// Maximum number of timers.
    most: usize,
    sample: F,
}

/// Measures all cases and prints their tables.
pub(crate) fn run(peers: &[Peer], rounds: usize) -> Result<()> {
    add_cancel::run(peers, rounds)?;
    reset::run(peers, rounds)?;
    fire::run(peers, rounds)?;
    alone::run(peers, rounds)
}

/// Runs a few timers of each kind, and checks that each fires once and not early, and that each
/// cancel finds its timer.
pub(crate) fn smoke(peers: &[Peer]) -> Result<()> {
    add_cancel::smoke(peers)?;
    reset::smoke(peers)?;
    fire::smoke(peers)?;
    alone::smoke(peers)
}

/// The contenders without a peer, then those of the peers, as often as they are named.
fn chosen<F: Copy>(all: &[Contender<F>], peers: &[Peer]) -> Vec<Contender<F>> {
    let of = |peer| all.iter().filter(move |contender| contender.peer == peer).copied();
    of(None).chain(peers.iter().flat_map(|peer| of(Some(*peer)))).collect()
}

/// Takes a sample of each contender, returned in their order. The order of measuring rotates, so
/// that none is always the first.
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

/// The ratio of one contender's figure to another's in each round. Returns `None` if their numbers
/// of timers differ, since they are then not comparable.
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
