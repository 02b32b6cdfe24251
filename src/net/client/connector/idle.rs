//! What a client excludes from a run until the loop is idle: every source and timer that it has.

use std::time::Duration;

use super::{Connector, Phase};
use crate::event_loop::{EventLoop, TimerId};
use crate::net::resolver::Lookup;

impl Connector {
    /// Sets whether the client keeps its loop running, in its current phase and in all later ones.
    pub(in crate::net) fn set_counted(&self, event_loop: &EventLoop, counted: bool) {
        self.excluded_from_idle.set(!counted);
        let mut timers = vec![self.limit.get(), self.race.delay()];
        let mut sources = self.race.attempts();
        match *self.phase.borrow() {
            Phase::Open { id, .. } => sources.push(id),
            Phase::Waiting { timer } => timers.push(Some(timer)),
            Phase::Between | Phase::LookingUp | Phase::Connecting | Phase::Ended => {}
        }
        sources.into_iter().for_each(|id| event_loop.set_counted(id, counted));
        timers.into_iter().flatten().for_each(|id| self.count_timer(event_loop, id));
        if let Some(lookup) = self.lookup.take() {
            self.count_lookup(&lookup);
            self.lookup.set(Some(lookup));
        }
    }

    /// Creates a timer of the client.
    pub(super) fn run_after(
        &self,
        event_loop: &EventLoop,
        delay: Duration,
        callback: impl FnOnce(&EventLoop) + 'static,
    ) -> TimerId {
        let id = event_loop.run_after(delay, callback);
        if self.excluded_from_idle.get() {
            self.count_timer(event_loop, id);
        }
        id
    }

    fn count_timer(&self, event_loop: &EventLoop, id: TimerId) {
        match self.excluded_from_idle.get() {
            true => _ = event_loop.exclude_from_idle(id),
            false => event_loop.include_timer_in_idle(id),
        }
    }

    pub(super) fn count_lookup(&self, lookup: &Lookup) {
        match self.excluded_from_idle.get() {
            true => lookup.exclude_from_idle(),
            false => lookup.include_in_idle(),
        }
    }
}
