//! The compared loops, each as a target for tasks: one file each.

mod by_hand;
mod calloop;
mod mill_io;
mod reveille;
mod tokio;

use super::tally::{self, Words};
use crate::Result;

pub(super) use by_hand::{EventfdEach, Inline};
pub(super) use calloop::Calloop;
pub(super) use mill_io::MillIo;
pub(super) use reveille::Reveille;
pub(super) use tokio::{TokioMpsc, TokioSpawn};

/// A handle of a loop for another thread.
pub(super) trait Poster: Clone + Send + 'static {
    /// Creates a loop on this thread, passes a handle of it to `hand_out`, and runs the loop until
    /// it is stopped.
    fn serve(hand_out: impl FnOnce(Self)) -> Result<()>;

    /// Makes the loop call [`tally::run`] with these words. Returns `false` if the loop has ended.
    fn post(&self, words: Words) -> bool;

    /// Stops the loop.
    fn stop(&self);
}

/// A task for loops that take only boxed closures.
type Boxed = Box<dyn FnOnce() + Send>;

fn boxed(words: Words) -> Boxed {
    Box::new(move || tally::run(&words))
}
