//! The minimal structures, each with a loop that only sleeps until the next tick or the next
//! deadline.

use std::time::{Duration, Instant};

use super::{Loop, Reset};
use crate::Result;
use crate::timers::floors::{Heap, TICK, Wheel};
use crate::timers::workload::Timer;
use crate::timers::{clock, tally};

/// The wheel.
#[derive(Debug)]
pub(in crate::timers) struct WheelLoop {
    wheel: Wheel,
    beginning: Instant,
}

impl Loop for WheelLoop {
    type Id = u32;

    fn new() -> Result<Self> {
        Ok(WheelLoop { wheel: Wheel::new(), beginning: Instant::now() })
    }

    fn begin(&mut self, beginning: Instant) {
        self.beginning = beginning;
    }

    #[inline]
    fn add(&mut self, timer: Timer) -> Result<u32> {
        Ok(self.wheel.insert(timer.offset))
    }

    #[inline]
    fn cancel(&mut self, id: u32) -> bool {
        self.wheel.remove(id);
        true
    }

    fn check_empty(&mut self) -> Result<()> {
        check_empty(self.wheel.len())
    }

    fn run(&mut self) -> Result<()> {
        for tick in 0.. {
            if self.wheel.len() == 0 {
                break;
            }
            clock::sleep_until(self.beginning + Duration::from_nanos(tick * TICK))?;
            self.wheel.advance(tick, |offset, id| {
                tally::fired(Timer { offset, number: id.into() });
            });
        }
        Ok(())
    }
}

impl Reset for WheelLoop {
    #[inline]
    fn reset(&mut self, id: &mut u32, delay: Duration) -> bool {
        self.wheel.reset(*id, from_now(self.beginning, delay));
        true
    }
}

/// The heap.
#[derive(Debug)]
pub(in crate::timers) struct HeapLoop {
    heap: Heap,
    beginning: Instant,
}

impl Loop for HeapLoop {
    type Id = u32;

    fn new() -> Result<Self> {
        Ok(HeapLoop { heap: Heap::new(), beginning: Instant::now() })
    }

    fn begin(&mut self, beginning: Instant) {
        self.beginning = beginning;
    }

    #[inline]
    fn add(&mut self, timer: Timer) -> Result<u32> {
        Ok(self.heap.insert(timer.offset))
    }

    #[inline]
    fn cancel(&mut self, id: u32) -> bool {
        self.heap.remove(id);
        true
    }

    fn check_empty(&mut self) -> Result<()> {
        check_empty(self.heap.len())
    }

    fn run(&mut self) -> Result<()> {
        while let Some(first) = self.heap.first() {
            clock::sleep_until(self.beginning + Duration::from_nanos(first))?;
            let now = from_now(self.beginning, Duration::ZERO);
            while let Some((offset, id)) = self.heap.pop(now) {
                tally::fired(Timer { offset, number: id.into() });
            }
        }
        Ok(())
    }
}

impl Reset for HeapLoop {
    #[inline]
    fn reset(&mut self, id: &mut u32, delay: Duration) -> bool {
        self.heap.reset(*id, from_now(self.beginning, delay));
        true
    }
}

/// The deadline in the form that the minimal structures use.
fn from_now(beginning: Instant, delay: Duration) -> u64 {
    (beginning.elapsed() + delay).as_nanos() as u64
}

fn check_empty(len: usize) -> Result<()> {
    if len > 0 {
        return Err(format!("{len} timers are left").into());
    }
    Ok(())
}
