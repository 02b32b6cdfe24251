//! Memory that the loop holds since a burst, and when it gives that back.
//!
//! Collections that are used give up room themselves, when many uses in a row have not needed it ([`Slack`](crate::event_loop::trimming::slack)). A loop that
//! has less to do after a burst may never use some of them again. So the loop looks before it sleeps: what is much more than it needs
//! goes after an idle second, for which it wakes once, or after [`SLEEPS`] sleeps that began like that. A loop that holds nothing in
//! excess does not wake. One that is embedded counts its turns instead.
//!
//! A source that holds much more room than it needs requests a [trim](EventLoop::request_trim). It may use the room again with its next
//! input, so it is trimmed once it has not done so for a second at least, however busy the loop is.

pub(crate) mod allocator;
pub(crate) mod slack;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, Instant};

use self::slack::{KEPT, give_up, has_much};
use super::{EventLoop, Inner};
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::poller::Wait;
use crate::event_loop::tasks::task_queue::Batch;

/// How long the loop, or a source, has to be idle.
const IDLE: Duration = Duration::from_secs(1);

/// How many sleeps or turns in a row have to find too much memory held.
const SLEEPS: u32 = 256;

/// How many times its proper size the loop's input buffer may have for good.
const INPUT_EXCESS: usize = 2;

/// Sources that have requested a trim.
#[derive(Default)]
pub(super) struct ToTrim {
    ids: RefCell<BTreeSet<ChannelId>>,
    /// When they are called next; `None` if there are none.
    due: Cell<Option<Instant>>,
}

impl EventLoop {
    /// Has the source's [`on_trim`](super::Source::on_trim) called before the first sleep after a second has passed.
    pub(crate) fn request_trim(&self, id: ChannelId) {
        let ToTrim { ids, due } = &self.inner.to_trim;
        ids.borrow_mut().insert(id);
        if due.get().is_none() {
            due.set(Some(Instant::now() + IDLE));
        }
    }

    /// Waits until a loop that holds too much memory may give it up, and does that. Returns whether that is all that the wait has
    /// brought, so that it goes on.
    pub(super) fn wait_and_trim(&self, wait: Wait) -> io::Result<bool> {
        let Inner { poller, to_trim, .. } = &*self.inner;
        let mut is_much = self.trim_when_due();
        while is_much {
            let soon = Instant::now() + IDLE;
            if matches!(wait, Wait::Until(end) if end <= soon) {
                return Ok(true);
            }
            poller.wait(Wait::Until(soon))?;
            if poller.has_events() {
                return Ok(false);
            }
            self.trim();
            is_much = to_trim.due.get().is_some();
        }
        Ok(true)
    }

    /// Counts the sleeps that begin with too much memory held, and gives it up after many. Returns whether it is held still.
    pub(super) fn trim_when_due(&self) -> bool {
        let sleeps = &self.inner.sleeps_with_slack;
        self.trim_sources();
        let sources_have_slack = self.inner.to_trim.due.get().is_some();
        if !self.has_slack() {
            sleeps.set(0);
            return sources_have_slack;
        }
        sleeps.set(sleeps.get() + 1);
        if sleeps.get() < SLEEPS {
            return true;
        }
        self.trim();
        sources_have_slack
    }

    fn has_slack(&self) -> bool {
        let Inner {
            task_batch,
            local_tasks,
            local_batch,
            lent,
            channel_batch,
            closing,
            timers,
            channels,
            ..
        } = &*self.inner;
        let has_room =
            |(tasks, errands)| has_much::<super::Posted>(tasks) || has_much::<super::Posted>(errands);
        let local = local_batch.take();
        let has_local_room = has_room(local.rooms()) || has_room(local_tasks.borrow().rooms());
        local_batch.set(local);
        let batch = channel_batch.take();
        let has_channel_room =
            has_much::<super::ChannelId>(batch.capacity().max(closing.borrow().capacity()));
        channel_batch.set(batch);
        has_local_room
            || has_channel_room
            || has_room(task_batch.borrow().rooms())
            || has_room(lent.get())
            || timers.borrow().has_slack()
            || channels.borrow().has_slack()
            || self.has_large_input()
            || allocator::is_much(self.inner.given_up.get())
            || allocator::has_fallen()
    }

    /// Whether a handler has made the loop's input buffer grow far beyond its size.
    fn has_large_input(&self) -> bool {
        let Inner { input, input_size, .. } = &*self.inner;
        let buffer = input.take();
        let capacity = buffer.as_ref().map_or(0, |buffer| buffer.capacity());
        input.set(buffer);
        capacity > INPUT_EXCESS * KEPT.max(*input_size)
    }

    /// Has sources give up room, if they are due.
    fn trim_sources(&self) {
        let Inner { to_trim: ToTrim { ids, due }, channels, .. } = &*self.inner;
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
        let mut local = inner.local_batch.take();
        trim_batch(&mut local);
        inner.local_batch.set(local);
        drop(inner.shared.tasks.take_room());
        inner.lent.set((0, 0));
        let mut batch = inner.channel_batch.take();
        give_up(&mut batch);
        inner.channel_batch.set(batch);
        give_up(&mut inner.closing.borrow_mut());
        let given_up = inner.timers.borrow_mut().trim();
        inner.channels.borrow_mut().trim();
        allocator::note_given_up(given_up + inner.given_up.take());
        allocator::give_back();
    }
}

fn trim_batch<T>(batch: &mut Batch<T>) {
    give_up(&mut batch.tasks);
    give_up(&mut batch.errands);
}
