//! The claims. Each is a function that explores its model completely, and panics if the claim does
//! not hold.

mod bounded;
mod busy;
mod closing;
mod internal;
mod joining;
mod ringing;
mod stopping;
mod waking;
mod writing;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use loom::model::Builder;

use crate::protocol;

pub use self::{
    bounded::*, busy::*, closing::*, internal::*, joining::*, ringing::*, stopping::*, waking::*, writing::*,
};

/// The outcomes that a model has reached, over all interleavings.
///
/// A claim about a race proves nothing if the model never reaches the race. So each model lists the
/// outcomes that it must reach.
#[derive(Debug, Default)]
struct Outcomes(Mutex<BTreeSet<&'static str>>);

impl Outcomes {
    fn note(&self, outcome: &'static str) {
        self.0.lock().unwrap().insert(outcome);
    }
}

const SLEPT: &str = "slept";
const NEVER_SLEPT: &str = "never slept";

fn sleep_outcome(sleeps: usize) -> &'static str {
    if sleeps > 0 { SLEPT } else { NEVER_SLEPT }
}

const WAITED: &str = "a producer waited for capacity";
const NEVER_WAITED: &str = "no producer waited for capacity";

fn wait_outcome() -> &'static str {
    if protocol::waits() > 0 { WAITED } else { NEVER_WAITED }
}

/// Explores `model`, and checks that its outcomes are exactly the `expected` ones.
///
/// With a `bound`, explores the interleavings with at most `bound` preemptions of a thread that
/// could have continued. Without one, explores all interleavings.
fn explore(
    bound: Option<usize>,
    expected: &[&'static str],
    model: impl Fn(&Outcomes) + Send + Sync + 'static,
) {
    let outcomes = Arc::new(Outcomes::default());
    let interleavings = Arc::new(AtomicUsize::new(0));
    let mut builder = Builder::new();
    builder.preemption_bound = bound;
    builder.check({
        let (outcomes, interleavings) = (Arc::clone(&outcomes), Arc::clone(&interleavings));
        move || {
            interleavings.fetch_add(1, Relaxed);
            protocol::reset_waits();
            model(&outcomes);
        }
    });
    println!("{} interleavings", interleavings.load(Relaxed));
    let reached: Vec<_> = outcomes.0.lock().unwrap().iter().copied().collect();
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    assert_eq!(reached, expected, "the model did not reach exactly the expected outcomes");
}
