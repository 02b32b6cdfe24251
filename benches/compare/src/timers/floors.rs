//! The least that a structure of timers can be: no callbacks, no generations, deadlines that are numbers of
//! nanoseconds, and ids that are places in an array. Whoever uses an id twice finds a stranger.

mod heap;
mod wheel;

pub(super) use heap::Heap;
pub(super) use wheel::{TICK, Wheel};
