//! The state of a loop at one moment, taken on its thread for an inspector.

use std::rc::Rc;
use std::time::Duration;

use rustix::thread::{Pid, gettid};

use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::source::Source;
use crate::event_loop::{EventLoop, Inner};

#[derive(Clone, Copy, Debug)]
pub(crate) struct LoopSample {
    /// The loop's thread.
    pub(crate) thread: Pid,
    /// Turns that have completed.
    pub(crate) turns: u64,
    /// Connections, servers and all other sources, except those of the loop itself.
    pub(crate) sources: usize,
    /// Timers, those of the crate included.
    pub(crate) timers: usize,
    /// The time until the next timer is due.
    pub(crate) next_timer: Option<Duration>,
    /// Spawned futures that have not completed.
    pub(crate) futures: usize,
}

impl EventLoop {
    pub(crate) fn sample(&self) -> LoopSample {
        let Inner { channels, timers, own_channels, futures, iteration, .. } = &*self.inner;
        let now = self.now();
        let (sources, timers) = (channels.borrow().len(), timers.borrow().len());
        LoopSample {
            thread: gettid(),
            turns: iteration.get(),
            sources: sources.saturating_sub(own_channels.get()),
            timers,
            next_timer: self.next_deadline().map(|next| next.saturating_duration_since(now)),
            futures: futures.borrow().len(),
        }
    }

    /// Returns the next source in a slot from `*slot` on, and sets `*slot` to the one after it. At
    /// most `*slots` slots are looked at, and subtracted. `None` if there is no source in them;
    /// then `*slots` is zero unless there are no more slots.
    pub(crate) fn next_source(
        &self,
        slot: &mut u32,
        slots: &mut usize,
    ) -> Option<(ChannelId, Rc<dyn Source>)> {
        let channels = self.inner.channels.borrow();
        channels.next_from(slot, slots).map(|(id, source)| (id, Rc::clone(source)))
    }
}
