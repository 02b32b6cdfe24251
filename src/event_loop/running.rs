//! The calls that run the loop.

use std::io;
use std::time::{Duration, Instant};

use super::EventLoop;
use crate::poller::Wait;
use crate::task_queue::Wake;

impl EventLoop {
    /// Runs until somebody asks the loop to [`quit`](EventLoop::quit).
    ///
    /// The tasks that were accepted before that request are run before this returns. A request made before `run` is honoured
    /// as well: what is ready is served once, and `run` returns without waiting. With that the request is done, and the loop
    /// can be run again; one that comes after the last batch of tasks was taken stands for the next `run`.
    ///
    /// # Errors
    /// [`ResourceBusy`](io::ErrorKind::ResourceBusy) from inside a callback of this loop; else what the kernel says when
    /// waiting fails, which it does not on a healthy system.
    pub fn run(&self) -> io::Result<()> {
        let running = Running::enter(self)?;
        while !self.turn(Wait::Forever)? {
            self.go_on_with_panic();
        }
        self.inner.quitting.set(false);
        drop(running);
        self.go_on_with_panic();
        Ok(())
    }

    /// Makes one turn, waiting at most `timeout` (for ever if `None`) for something to do.
    ///
    /// This is for a loop that lives inside another one. Its descriptor ([`AsFd`](std::os::fd::AsFd)) becomes readable when there
    /// is something to do now: events, timers that are due, tasks from other threads, and work that the last turn left over.
    /// (Deadlines of a virtual clock do not show, as nobody waits for them.)
    ///
    /// The timeout is kept to the millisecond, rounded up, and is of real time also in a loop with a virtual clock.
    ///
    /// A request to quit is left standing ([`is_quitting`](EventLoop::is_quitting)), and a turn made under it does not wait.
    ///
    /// # Errors
    /// As [`run`](EventLoop::run).
    pub fn run_once(&self, timeout: impl Into<Option<Duration>>) -> io::Result<()> {
        let running = Running::enter(self)?;
        let wait = match timeout.into() {
            None => Wait::Forever,
            Some(Duration::ZERO) => Wait::No,
            // A timeout too long for an instant is as good as none.
            Some(timeout) => Instant::now().checked_add(timeout).map_or(Wait::Forever, Wait::Until),
        };
        self.turn(wait)?;
        drop(running);
        self.go_on_with_panic();
        Ok(())
    }

    /// Runs for `duration` by the loop's clock, or until somebody asks the loop to [`quit`](EventLoop::quit).
    ///
    /// A loop with a [`VirtualClock`](crate::VirtualClock) does not wait: whenever there is nothing left to do, it moves the clock to
    /// the next deadline. So everything happens that the time would have brought, in its order and at its moment, and the clock has
    /// moved by `duration` in the end. Time stands still while there is work, and for as long as descriptors are ready; they are not
    /// waited for.
    ///
    /// # Errors
    /// As [`run`](EventLoop::run).
    pub fn run_for(&self, duration: Duration) -> io::Result<()> {
        let running = Running::enter(self)?;
        let clock = &self.inner.shared.clock;
        let end = clock.after(duration);
        let quit = loop {
            let quit = match clock.virtual_clock() {
                None => self.turn(Wait::Until(clock.instant(end)))?,
                Some(_) => self.settle()?,
            };
            if quit || clock.moment(self.now()) >= end {
                break quit;
            }
            self.go_on_with_panic();
            if let Some(virtual_clock) = clock.virtual_clock() {
                virtual_clock.advance_to(self.next_work().min(end));
            }
        };
        if quit {
            self.inner.quitting.set(false);
        }
        drop(running);
        self.go_on_with_panic();
        Ok(())
    }

    /// Makes turns until one has had nothing to do. Answers whether the loop has been asked to quit meanwhile.
    fn settle(&self) -> io::Result<bool> {
        loop {
            let idle = self.next_work() > self.moment();
            if self.turn(Wait::No)? {
                return Ok(true);
            }
            if idle && !self.inner.poller.has_events() {
                return Ok(false);
            }
            self.go_on_with_panic();
        }
    }

    /// The moment for which there is something to do; that of the origin if it is there already.
    fn next_work(&self) -> u64 {
        if self.has_work() || self.inner.shared.tasks.has_work() {
            return 0;
        }
        self.inner.timers.borrow_mut().next_wake().unwrap_or(u64::MAX)
    }
}

/// The mark that the loop is in a turn, for the length of `run`, `run_once` or `run_for`.
struct Running<'a>(&'a EventLoop);

impl<'a> Running<'a> {
    fn enter(event_loop: &'a EventLoop) -> io::Result<Running<'a>> {
        if event_loop.inner.running.replace(true) {
            let message =
                "the loop is running already: run, run_once and run_for cannot be called from its callbacks";
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
        }
        Ok(Running(event_loop))
    }
}

impl Drop for Running<'_> {
    /// Leaves the loop such that its descriptor shows whether there is work: either producers will wake it, or it is awake.
    fn drop(&mut self) {
        let EventLoop { inner } = self.0;
        inner.running.set(false);
        let may_wait = self.0.await_timers().unwrap_or_else(|error| {
            log::error!("cannot set the alarm for the next timer: {error}");
            false
        });
        inner.now.set(None);
        inner.wake_unread.set(true);
        if self.0.has_work() || !may_wait || !inner.shared.tasks.may_sleep() {
            inner.shared.wake(Wake::Needed);
        }
    }
}
