//! calloop: one `Timer` source each. Inserting one searches for a free slot from the first on, and
//! removing one scans all deadlines, so the cost of both grows with the number of timers.

use std::rc::Rc;
use std::time::{Duration, Instant};

use calloop::timer::{TimeoutAction, Timer as Source};
use calloop::{EventLoop, LoopHandle, RegistrationToken};

use super::{Alone, Loop, late};
use crate::Result;
use crate::timers::workload::Timer;
use crate::timers::{TIMEOUT, tally};

pub(in crate::timers) struct Calloop {
    event_loop: EventLoop<'static, ()>,
    handle: LoopHandle<'static, ()>,
    beginning: Instant,
    /// Also held by every callback, beside the two words: calloop does not report whether there was
    /// anything to remove, and the reference count shows whether a callback was dropped.
    callbacks: Rc<()>,
}

impl Loop for Calloop {
    type Id = RegistrationToken;

    fn new() -> Result<Self> {
        let event_loop = EventLoop::try_new()?;
        let handle = event_loop.handle();
        Ok(Calloop { event_loop, handle, beginning: Instant::now(), callbacks: Rc::new(()) })
    }

    fn begin(&mut self, beginning: Instant) {
        self.beginning = beginning;
    }

    #[inline]
    fn add(&mut self, timer: Timer) -> Result<RegistrationToken> {
        let source = Source::from_deadline(self.beginning + Duration::from_nanos(timer.offset));
        let callback = Rc::clone(&self.callbacks);
        let token = self.handle.insert_source(source, move |_, (), ()| {
            let _ = &callback;
            tally::fired(timer);
            TimeoutAction::Drop
        })?;
        Ok(token)
    }

    #[inline]
    fn cancel(&mut self, id: RegistrationToken) -> bool {
        let before = Rc::strong_count(&self.callbacks);
        self.handle.remove(id);
        Rc::strong_count(&self.callbacks) < before
    }

    fn check_empty(&mut self) -> Result<()> {
        match Rc::strong_count(&self.callbacks) {
            1 => Ok(()),
            count => Err(format!("{} timers are left", count - 1).into()),
        }
    }

    fn run(&mut self) -> Result<()> {
        let give_up = Instant::now() + TIMEOUT;
        while !tally::all_fired() && Instant::now() < give_up {
            self.event_loop.dispatch(Some(TIMEOUT), &mut ())?;
        }
        Ok(())
    }
}

impl Alone for Calloop {
    fn lateness(delay: Duration, count: usize) -> Result<Vec<Duration>> {
        let mut event_loop: EventLoop<'_, Option<Result<Duration>>> = EventLoop::try_new()?;
        let mut taken = Vec::with_capacity(count);
        for _ in 0..count {
            let source = Source::from_deadline(Instant::now() + delay);
            event_loop.handle().insert_source(source, |deadline, (), taken| {
                *taken = Some(late(deadline));
                TimeoutAction::Drop
            })?;
            let give_up = Instant::now() + TIMEOUT;
            let mut fired = None;
            while fired.is_none() && Instant::now() < give_up {
                event_loop.dispatch(Some(TIMEOUT), &mut fired)?;
            }
            taken.push(fired.ok_or("a timer did not fire")??);
        }
        Ok(taken)
    }
}
