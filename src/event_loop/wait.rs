//! Phase 2: the wait, and what comes before it.

use std::io;
use std::time::{Duration, Instant};

use super::{EventLoop, Inner};
use crate::event_loop::poller::Wait;

impl EventLoop {
    /// Phase 2. Before it sleeps, the loop announces that to other threads, who will wake it.
    pub(super) fn wait(&self, wait: Wait) -> io::Result<()> {
        let Inner { poller, wake_unread, .. } = &*self.inner;
        if wait == Wait::No {
            wake_unread.set(false);
            return poller.wait(Wait::No);
        }
        if !self.goes_to_sleep(wait)? {
            self.await_next_take();
            return Ok(());
        }
        wake_unread.set(false);
        if !self.wait_and_trim(wait)? {
            return Ok(());
        }
        if wait == Wait::Forever && self.watches_nothing() { self.sleep_in_read() } else { poller.wait(wait) }
    }

    /// Announces the sleep, unless there is something to do, or the wait may last no longer; then the descriptors have been looked at.
    fn goes_to_sleep(&self, wait: Wait) -> io::Result<bool> {
        let Inner { shared, patience, .. } = &*self.inner;
        if !shared.tasks.has_work() {
            let moment = patience.before_sleep();
            if !moment.is_zero() {
                let found = self.wait_busily(wait, moment)?;
                patience.learn(found);
                if found {
                    return Ok(false);
                }
            }
        }
        let may_sleep = shared.tasks.may_sleep();
        if !may_sleep {
            self.look()?;
        }
        Ok(may_sleep)
    }

    /// In a flood of tasks, lets some gather before the loop takes them: it has looked at its descriptors already, and would do
    /// nothing else.
    fn await_next_take(&self) {
        let Inner { poller, patience, .. } = &*self.inner;
        if let Some(next_take) = patience.next_take() {
            while !poller.has_events() && Instant::now() < next_take {
                std::hint::spin_loop();
            }
        }
    }

    /// Looks at the descriptors, if there are any: a loop that lives for its tasks makes no system call while it has some.
    fn look(&self) -> io::Result<()> {
        let Inner { poller, wake_unread, .. } = &*self.inner;
        if !wake_unread.replace(false) && self.watches_nothing() {
            poller.forget_events();
            Ok(())
        } else {
            poller.wait(Wait::No)
        }
    }

    /// Whether nothing but a wake can end a wait: there is no timer, and no descriptor besides those of the loop itself.
    fn watches_nothing(&self) -> bool {
        self.inner.channels.borrow().len() == self.inner.own_channels.get()
            && self.inner.timers.borrow().is_empty()
    }

    /// Sleeps in the read that takes the wake, instead of in the poll before it: one system call less for each wake of a loop
    /// that lives for its tasks. With that and [`look`](EventLoop::look) a round trip between two such loops on one processor takes
    /// as long as between two threads with nothing but an eventfd each; with the poll it took 1.35 of it.
    ///
    /// The poller's edge for the wake goes unseen. That is as it should be: it asks the counter again before it reports it.
    fn sleep_in_read(&self) -> io::Result<()> {
        self.inner.poller.forget_events();
        self.inner.shared.wakeup.read().map(|_| ())
    }

    /// Looks for tasks and events, an alarm among them, without sleeping, for `moment`. Answers whether there are any, or the wait
    /// may last no longer; nobody needs to wake the loop meanwhile.
    fn wait_busily(&self, wait: Wait, moment: Duration) -> io::Result<bool> {
        /// Looks at the queue for each look at the descriptors, which costs a system call.
        const LOOKS: usize = 16;
        let Inner { poller, shared, .. } = &*self.inner;
        // Between turns the announcement of sleep stands.
        shared.tasks.awake();
        let mut now = Instant::now();
        // `None`, later than the clock can say, is never.
        let give_up = now.checked_add(moment);
        loop {
            self.look()?;
            let is_over = matches!(wait, Wait::Until(limit) if limit <= now);
            if is_over || poller.has_events() || shared.tasks.has_work() {
                return Ok(true);
            }
            if give_up.is_some_and(|give_up| give_up <= now) {
                return Ok(false);
            }
            for _ in 0..LOOKS {
                std::hint::spin_loop();
                if shared.tasks.has_work() {
                    break;
                }
            }
            now = Instant::now();
        }
    }
}
