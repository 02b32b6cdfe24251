//! reveille: `run_at` with a closure that captures the two words of a timer.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use reveille::{EventLoop, TimerId};

use super::{Alone, Loop, Reset, late};
use crate::Result;
use crate::timers::workload::Timer;
use crate::timers::{TIMEOUT, tally};

pub(in crate::timers) struct Reveille {
    event_loop: EventLoop,
    beginning: Instant,
}

impl Loop for Reveille {
    type Id = TimerId;

    fn new() -> Result<Self> {
        Ok(Reveille { event_loop: EventLoop::new()?, beginning: Instant::now() })
    }

    fn begin(&mut self, beginning: Instant) {
        self.beginning = beginning;
    }

    #[inline]
    fn add(&mut self, timer: Timer) -> Result<TimerId> {
        let deadline = self.beginning + Duration::from_nanos(timer.offset);
        Ok(self.event_loop.run_at(deadline, move |event_loop| {
            if tally::fired(timer) {
                event_loop.quit();
            }
        }))
    }

    #[inline]
    fn cancel(&mut self, id: TimerId) -> bool {
        self.event_loop.cancel(id)
    }

    fn check_empty(&mut self) -> Result<()> {
        match self.event_loop.next_deadline() {
            None => Ok(()),
            Some(_) => Err("a timer is left".into()),
        }
    }

    fn run(&mut self) -> Result<()> {
        let give_up = self.event_loop.run_after(TIMEOUT, EventLoop::quit);
        self.event_loop.run()?;
        self.event_loop.cancel(give_up);
        Ok(())
    }
}

impl Reveille {
    /// As an idle timeout does: uses the time of the turn, without reading a clock.
    #[inline]
    pub(in crate::timers) fn reset_at(&self, id: &TimerId, deadline: Instant) -> bool {
        self.event_loop.reset_at(*id, deadline)
    }
}

impl Reset for Reveille {
    #[inline]
    fn reset(&mut self, id: &mut TimerId, delay: Duration) -> bool {
        self.event_loop.reset(*id, delay)
    }
}

impl Alone for Reveille {
    fn lateness(delay: Duration, count: usize) -> Result<Vec<Duration>> {
        let event_loop = EventLoop::new()?;
        let taken = Rc::new(Cell::new(None));
        let each = |_| {
            let deadline = Instant::now() + delay;
            let note = Rc::clone(&taken);
            event_loop.run_at(deadline, move |_| note.set(Some(late(deadline))));
            let give_up = deadline + TIMEOUT;
            while Instant::now() < give_up {
                event_loop.run_once(TIMEOUT)?;
                if let Some(late) = taken.take() {
                    return late;
                }
            }
            Err("a timer did not fire".into())
        };
        (0..count).map(each).collect()
    }
}
