//! The loops compared, each as somewhere to post tasks to: one file each.

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

/// Another thread's face of a loop.
pub(super) trait Poster: Clone + Send + 'static {
    /// Makes a loop on this thread, hands out a face of it, and runs the loop until told to stop.
    fn serve(hand_out: impl FnOnce(Self)) -> Result<()>;

    /// Has the loop call [`tally::run`] with these words. Answers whether the loop is there to do so.
    fn post(&self, words: Words) -> bool;

    /// Tells the loop to stop.
    fn stop(&self);
}

/// A task as the loops take it that have no word in how it is stored.
type Boxed = Box<dyn FnOnce() + Send>;

fn boxed(words: Words) -> Boxed {
    Box::new(move || tally::run(&words))
}
