//! Phase 2: the wait, and the spin before it.

use std::io;
use std::time::{Duration, Instant};

use super::spin::Spun;
use super::{EventLoop, Inner};
use crate::event_loop::poller::Wait;

impl EventLoop {
    /// Phase 2. Before it sleeps, the loop announces the sleep to other threads, so that they wake
    /// it.
    pub(super) fn wait(&self, wait: Wait) -> io::Result<()> {
        let Inner { poller, shared, spin, wake_unread, .. } = &*self.inner;
        if wait == Wait::No {
            wake_unread.set(false);
            return poller.wait(Wait::No);
        }
        shared.wake_time.clear();
        if !self.prepare_sleep(wait)? {
            self.coalesce();
            return Ok(());
        }
        wake_unread.set(false);
        let slept = self.sleep(wait);
        if let Some(taken) = shared.wake_time.take_elapsed() {
            spin.record_wake_up(taken);
        }
        slept
    }

    fn sleep(&self, wait: Wait) -> io::Result<()> {
        if !self.wait_and_trim(wait)? {
            return Ok(());
        }
        if wait == Wait::Forever && self.has_no_sources() {
            self.sleep_in_read()
        } else {
            self.inner.poller.wait(wait)
        }
    }

    /// Announces the sleep and returns `true`. Returns `false`, with the descriptors polled, if
    /// there is work or the wait has timed out.
    fn prepare_sleep(&self, wait: Wait) -> io::Result<bool> {
        let Inner { shared, spin, .. } = &*self.inner;
        if !shared.tasks.has_work() {
            let duration = spin.duration();
            if !duration.is_zero() {
                let spun = self.spin(wait, duration)?;
                spin.record(spun);
                if spun.found {
                    return Ok(false);
                }
            }
        }
        let may_sleep = shared.tasks.may_sleep();
        if !may_sleep {
            self.poll_now()?;
        }
        Ok(may_sleep)
    }

    /// In a burst of tasks, delays the next batch so that several gather in it. The descriptors
    /// have been polled already, so the loop has nothing else to do.
    fn coalesce(&self) {
        let Inner { poller, spin, .. } = &*self.inner;
        if let Some(next_batch_at) = spin.next_batch_at() {
            while !poller.has_events() && Instant::now() < next_batch_at {
                std::hint::spin_loop();
            }
        }
    }

    /// Polls the descriptors, if there are any. A loop without sources makes no system call while
    /// it has tasks.
    fn poll_now(&self) -> io::Result<()> {
        let Inner { poller, wake_unread, .. } = &*self.inner;
        if !wake_unread.replace(false) && self.has_no_sources() {
            poller.clear_events();
            Ok(())
        } else {
            poller.wait(Wait::No)
        }
    }

    /// Whether only a wake-up can end a wait: there is no timer, and no descriptor apart from those
    /// of the loop itself.
    fn has_no_sources(&self) -> bool {
        self.inner.channels.borrow().len() == self.inner.own_channels.get()
            && self.inner.timers.borrow().is_empty()
    }

    /// Sleeps in the read of the wake-up counter instead of in the poll before it. For a loop
    /// without sources that saves one system call per wake-up.
    ///
    /// With this and [`poll_now`](EventLoop::poll_now) a round trip between two such loops on one
    /// processor takes as long as between two threads that use only an eventfd each, if both sleep.
    /// With the poll it took 1.35 times as long.
    ///
    /// The poller's edge for the wake-up stays in the kernel. That is correct: the kernel reads the
    /// counter again before it reports the edge.
    fn sleep_in_read(&self) -> io::Result<()> {
        self.inner.poller.clear_events();
        self.inner.shared.wakeup.read().map(|_| ())
    }

    /// Polls the queue and the descriptors, the alarm included, for `duration` without sleeping.
    /// A wait that has timed out counts as work. Other threads need not wake the loop meanwhile.
    fn spin(&self, wait: Wait, duration: Duration) -> io::Result<Spun> {
        /// Checks of the queue per poll of the descriptors, which costs a system call.
        const QUEUE_CHECKS: usize = 16;
        let Inner { poller, shared, spin, .. } = &*self.inner;
        // Between turns the sleep stays announced.
        shared.tasks.awake();
        let started = Instant::now();
        let mut now = started;
        // `None`, an instant beyond the range of the clock, never arrives.
        let end = now.checked_add(duration);
        let mut yields = 0;
        loop {
            self.poll_now()?;
            let timed_out = matches!(wait, Wait::Until(limit) if limit <= now);
            let found = timed_out || poller.has_events() || shared.tasks.has_work();
            if found || end.is_some_and(|end| end <= now) {
                return Ok(Spun { found, yields, lasted: now - started });
            }
            if spin.yields() {
                std::thread::yield_now();
                yields += 1;
            } else {
                for _ in 0..QUEUE_CHECKS {
                    std::hint::spin_loop();
                    if shared.tasks.has_work() {
                        break;
                    }
                }
            }
            now = Instant::now();
        }
    }
}
