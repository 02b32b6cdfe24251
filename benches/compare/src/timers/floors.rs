//! Minimal timer structures: no callbacks, no generations, deadlines in nanoseconds, and array
//! indices as ids. An id that is used twice refers to another timer.

mod heap;
mod wheel;

pub(super) use heap::Heap;
pub(super) use wheel::{TICK, Wheel};
