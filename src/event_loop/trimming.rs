//! Releases memory that the loop has held since a burst.
//!
//! Collections that are in use release capacity themselves, after many uses in a row that did not
//! need it ([`Slack`](crate::event_loop::trimming::slack)). A loop that has less to do after a
//! burst may never use some of them again. So the loop checks before it waits. Capacity that is
//! much larger than needed is released after an idle second, for which the loop wakes once, or
//! after [`SLEEPS`] waits that began with such slack. A loop without slack does not wake.
//! An embedded loop counts its turns instead.
//!
//! A source that holds much more capacity than it needs requests a [trim](EventLoop::request_trim).
//! It may use the capacity again with its next input, so it is trimmed only after it has not done
//! so for at least a second, however busy the loop is.

pub(crate) mod allocator;
pub(crate) mod slack;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use self::slack::{RETAINED, is_large, release_capacity};
use super::{EventLoop, Inner};
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::poller::Wait;
use crate::event_loop::tasks::future_table::FutureTable;
use crate::event_loop::tasks::ready_queue;
use crate::event_loop::tasks::task_queue::Batch;

/// How long the loop, or a source, has to be idle.
const IDLE: Duration = Duration::from_secs(1);

/// The number of waits or turns in a row that have to begin with slack.
const SLEEPS: u32 = 256;

/// The size that the loop's input buffer may keep, as a multiple of its configured size.
const INPUT_EXCESS: usize = 2;

/// Sources that have requested a trim.
#[derive(Default)]
pub(super) struct TrimRequests {
    ids: RefCell<BTreeSet<ChannelId>>,
    /// The time of their next trim. `None` if there are none.
    due: Cell<Option<Instant>>,
}

impl EventLoop {
    /// Calls the source's [`on_trim`](super::Source::on_trim) before the first wait that begins at
    /// least a second from now.
    pub(crate) fn request_trim(&self, id: ChannelId) {
        let TrimRequests { ids, due } = &self.inner.trim_requests;
        ids.borrow_mut().insert(id);
        if due.get().is_none() {
            due.set(Some(Instant::now() + IDLE));
        }
    }

    /// If the loop has slack, waits until it may be released, and releases it.
    /// Returns whether no event has ended that wait, so that the caller continues waiting.
    pub(super) fn wait_and_trim(&self, wait: Wait) -> io::Result<bool> {
        let Inner { poller, trim_requests, .. } = &*self.inner;
        let mut has_slack = self.trim_when_due();
        while has_slack {
            let soon = Instant::now() + IDLE;
            if matches!(wait, Wait::Until(end) if end <= soon) {
                return Ok(true);
            }
            poller.wait(Wait::Until(soon))?;
            if poller.has_events() {
                return Ok(false);
            }
            self.trim();
            self.trim_timers();
            has_slack = trim_requests.due.get().is_some();
        }
        Ok(true)
    }

    /// Counts the waits that begin with slack, and releases it after many. Returns whether
    /// there is still slack.
    pub(super) fn trim_when_due(&self) -> bool {
        let sleeps = &self.inner.sleeps_with_slack;
        self.trim_sources();
        let sources_have_slack = self.inner.trim_requests.due.get().is_some();
        if !self.has_slack() {
            sleeps.set(0);
            return sources_have_slack;
        }
        sleeps.set(sleeps.get() + 1);
        if sleeps.get() < SLEEPS {
            return true;
        }
        self.trim();
        // Timers that are due meanwhile would be late by the milliseconds that this takes. While
        // there are any, only an idle loop does it, and otherwise each phase releases a part.
        if self.inner.timers.borrow().is_empty() {
            self.trim_timers();
        }
        sources_have_slack
    }

    fn has_slack(&self) -> bool {
        let Inner {
            task_batch,
            local_tasks,
            local_batch,
            lent_capacity,
            channel_batch,
            closing,
            timers,
            channels,
            futures,
            ..
        } = &*self.inner;
        let has_large_capacity =
            |(tasks, internal)| is_large::<super::Posted>(tasks) || is_large::<super::Posted>(internal);
        let has_slack_of_futures = |futures: &FutureTable<_>| {
            futures.is_allocated() && (futures.has_slack() || ready_queue::has_slack())
        };
        has_large_capacity(local_batch.borrow().capacities())
            || has_large_capacity(local_tasks.borrow().capacities())
            || is_large::<ChannelId>(channel_batch.borrow().capacity().max(closing.borrow().capacity()))
            || has_large_capacity(task_batch.borrow().capacities())
            || has_large_capacity(lent_capacity.get())
            || timers.borrow().has_slack()
            || channels.borrow().has_slack()
            || has_slack_of_futures(&futures.borrow())
            || self.has_large_input()
            || allocator::is_large(self.inner.freed_bytes.get())
            || allocator::has_fallen()
    }

    /// Whether a handler has made the loop's input buffer grow far beyond its size.
    fn has_large_input(&self) -> bool {
        let Inner { input, input_size, .. } = &*self.inner;
        let buffer = input.take();
        let capacity = buffer.as_ref().map_or(0, |buffer| buffer.capacity());
        input.set(buffer);
        capacity > INPUT_EXCESS * RETAINED.max(*input_size)
    }

    /// Trims the sources that have requested it, if the trim is due.
    fn trim_sources(&self) {
        let Inner { trim_requests: TrimRequests { ids, due }, channels, .. } = &*self.inner;
        if due.get().is_none_or(|due| Instant::now() < due) {
            return;
        }
        let (channels, mut ids) = (channels.borrow(), ids.borrow_mut());
        ids.retain(|&id| channels.get(id).is_some_and(|source| source.on_trim()));
        due.set((!ids.is_empty()).then(|| Instant::now() + IDLE));
    }

    fn trim(&self) {
        let inner = &*self.inner;
        inner.sleeps_with_slack.set(0);
        self.trim_sources();
        if self.has_large_input() {
            inner.input.set(None);
        }
        trim_batch(&mut inner.task_batch.borrow_mut());
        trim_batch(&mut inner.local_tasks.borrow_mut());
        trim_batch(&mut inner.local_batch.borrow_mut());
        drop(inner.shared.tasks.take_storage());
        inner.lent_capacity.set((0, 0));
        release_capacity(&mut inner.channel_batch.borrow_mut());
        release_capacity(&mut inner.closing.borrow_mut());
        inner.channels.borrow_mut().trim();
        inner.futures.borrow_mut().trim();
        ready_queue::trim();
        allocator::trim_if_fallen();
    }

    fn trim_timers(&self) {
        let inner = &*self.inner;
        let freed = inner.timers.borrow_mut().trim();
        allocator::trim_if_large(freed + inner.freed_bytes.take());
    }
}

fn trim_batch<T>(batch: &mut Batch<T>) {
    release_capacity(&mut batch.tasks);
    release_capacity(&mut batch.internal);
}
