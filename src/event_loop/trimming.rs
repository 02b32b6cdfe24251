//! Memory that the loop holds since a burst, and when it gives that back.
//!
//! Collections that are used give up room themselves, when many uses in a row have not needed it ([`Slack`](crate::slack)). A loop that
//! has less to do after a burst may never use some of them again. So the loop looks before it sleeps: what is much more than it needs
//! goes after an idle second, for which it wakes once, or after [`SLEEPS`] sleeps that began like that. A loop that holds nothing in
//! excess does not wake. One that is embedded counts its turns instead.

use std::io;
use std::time::{Duration, Instant};

use super::{EventLoop, Inner};
use crate::heap;
use crate::poller::Wait;
use crate::slack::{give_up, has_much};
use crate::task_queue::Batch;

/// How long the loop has to be idle.
const IDLE: Duration = Duration::from_secs(1);

/// How many sleeps or turns in a row have to find too much memory held.
const SLEEPS: u32 = 256;

impl EventLoop {
    /// Waits until a loop that holds too much memory may give it up, and does that. Returns whether that is all that the wait has
    /// brought, so that it goes on.
    pub(super) fn wait_and_trim(&self, wait: Wait) -> io::Result<bool> {
        if !self.trim_when_due() {
            return Ok(true);
        }
        let soon = Instant::now() + IDLE;
        if matches!(wait, Wait::Until(end) if end <= soon) {
            return Ok(true);
        }
        let poller = &self.inner.poller;
        poller.wait(Wait::Until(soon))?;
        if poller.has_events() {
            return Ok(false);
        }
        self.trim();
        Ok(true)
    }

    /// Counts the sleeps that begin with too much memory held, and gives it up after many. Returns whether it is held still.
    pub(super) fn trim_when_due(&self) -> bool {
        let sleeps = &self.inner.sleeps_with_slack;
        if !self.has_slack() {
            sleeps.set(0);
            return false;
        }
        sleeps.set(sleeps.get() + 1);
        if sleeps.get() < SLEEPS {
            return true;
        }
        self.trim();
        false
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
            || heap::is_much(self.inner.given_up.get())
            || heap::has_fallen()
    }

    fn trim(&self) {
        let inner = &*self.inner;
        inner.sleeps_with_slack.set(0);
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
        heap::note_given_up(given_up + inner.given_up.take());
        heap::give_back();
    }
}

fn trim_batch<T>(batch: &mut Batch<T>) {
    give_up(&mut batch.tasks);
    give_up(&mut batch.errands);
}
