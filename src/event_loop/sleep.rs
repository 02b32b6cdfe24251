//! Phase 2: the wait, and what comes before it.

use std::io;
use std::time::Instant;

use super::{EventLoop, Inner};
use crate::poller::Wait;

impl EventLoop {
    /// Phase 2. Before it sleeps, the loop announces that to other threads, who will wake it.
    pub(super) fn wait(&self, wait: Wait) -> io::Result<()> {
        let Inner { poller, shared, busy_poll, .. } = &*self.inner;
        if wait == Wait::No {
            return poller.wait(Wait::No);
        }
        if !busy_poll.is_zero() && self.wait_busily(wait)? {
            return Ok(());
        }
        match wait {
            _ if !shared.tasks.may_sleep() => poller.wait(Wait::No),
            Wait::Forever if self.watches_nothing() => self.sleep_in_read(),
            wait => poller.wait(wait),
        }
    }

    /// Whether nothing but a wake can end a wait: there is no timer, and no descriptor besides those of the loop itself.
    fn watches_nothing(&self) -> bool {
        self.inner.channels.borrow().len() == self.inner.own_channels.get()
            && self.inner.timers.borrow().is_empty()
    }

    /// Sleeps in the read that takes the wake, instead of in the poll before it: one system call less for each wake of a loop
    /// that lives for its tasks. A round trip between two such loops took 1.12 of that between two threads with nothing but an
    /// eventfd each, where it was 1.35 with the poll.
    ///
    /// The poller's edge for the wake goes unseen. That is as it should be: it asks the counter again before it reports it.
    fn sleep_in_read(&self) -> io::Result<()> {
        let Inner { poller, shared, .. } = &*self.inner;
        poller.forget_events();
        shared.wakeup.read().map(|_| ())
    }

    /// Looks for tasks and events, an alarm among them, without sleeping, for as long as the settings say. Answers whether there
    /// are any, or the wait may last no longer; nobody needs to wake the loop meanwhile.
    fn wait_busily(&self, wait: Wait) -> io::Result<bool> {
        /// Looks at the queue for each look at the descriptors, which costs a system call.
        const LOOKS: usize = 16;
        let Inner { poller, shared, busy_poll, .. } = &*self.inner;
        // Between turns the announcement of sleep stands.
        shared.tasks.awake();
        let mut now = Instant::now();
        // `None`, later than the clock can say, is never.
        let give_up = now.checked_add(*busy_poll);
        while give_up.is_none_or(|give_up| now < give_up) {
            for _ in 0..LOOKS {
                if shared.tasks.has_work() {
                    poller.wait(Wait::No)?;
                    return Ok(true);
                }
                std::hint::spin_loop();
            }
            poller.wait(Wait::No)?;
            now = Instant::now();
            if poller.has_events() || matches!(wait, Wait::Until(limit) if limit <= now) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
