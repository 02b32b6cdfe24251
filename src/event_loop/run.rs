//! The calls that run the loop.

use std::io;
use std::time::{Duration, Instant};

use super::EventLoop;
use crate::event_loop::poller::Wait;
use crate::event_loop::timers::clock::NEVER;

/// How many turns one [`run_ready`](EventLoop::run_ready) makes at most.
const MAX_READY_TURNS: usize = 128;

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
            self.propagate_panic();
        }
        self.inner.quitting.set(false);
        drop(running);
        self.propagate_panic();
        Ok(())
    }

    /// Makes one turn, waiting at most `timeout` (for ever if `None`) for something to do.
    ///
    /// For a loop inside another one, which is woken by the loop's [descriptor](EventLoop#inside-another-loop):
    /// [`run_ready`](EventLoop::run_ready) makes as many turns as there is work for, this one makes exactly one.
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
        self.propagate_panic();
        Ok(())
    }

    /// Makes turns, without waiting, until one has had nothing to do: what a loop inside another one does when its
    /// [descriptor](EventLoop#inside-another-loop) has become readable.
    ///
    /// It makes 128 turns at most, so that a loop that always has work (a task that queues itself again, a peer that sends without a
    /// pause) leaves the outer loop its share of the thread. What is left then shows in the descriptor, as a new edge.
    ///
    /// A request to quit ends it, and is left standing ([`is_quitting`](EventLoop::is_quitting)) as by
    /// [`run_once`](EventLoop::run_once). The outer loop should stop calling then: a loop with such a request always has work.
    ///
    /// ```
    /// use reveille::EventLoop;
    /// use rustix::event::{PollFd, PollFlags, poll};
    /// use std::time::Duration;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let event_loop = EventLoop::new()?;
    /// event_loop.run_after(Duration::from_millis(2), EventLoop::quit);
    /// while !event_loop.is_quitting() {
    ///     // The outer loop: it watches this descriptor among others.
    ///     poll(&mut [PollFd::new(&event_loop, PollFlags::IN)], None)?;
    ///     event_loop.run_ready()?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`run`](EventLoop::run).
    pub fn run_ready(&self) -> io::Result<()> {
        let running = Running::enter(self)?;
        self.run_until_idle(MAX_READY_TURNS)?;
        drop(running);
        self.propagate_panic();
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
        let end = clock.end_of(duration);
        let quit = loop {
            let quit = match clock.virtual_clock() {
                None => self.turn(Wait::Until(clock.instant(end)))?,
                Some(_) => self.run_until_idle(usize::MAX)?,
            };
            if quit || clock.moment(self.now()) >= end {
                break quit;
            }
            self.propagate_panic();
            if let Some(virtual_clock) = clock.virtual_clock() {
                virtual_clock.advance_to(self.next_work().min(end));
            }
        };
        if quit {
            self.inner.quitting.set(false);
        }
        drop(running);
        self.propagate_panic();
        Ok(())
    }

    /// Makes turns until one has had nothing to do, `most` of them at most. Returns whether a request to quit stands.
    fn run_until_idle(&self, max_turns: usize) -> io::Result<bool> {
        for _ in 0..max_turns {
            let idle = self.next_work() > self.moment();
            if self.turn(Wait::No)? {
                return Ok(true);
            }
            if idle && !self.inner.poller.has_events() {
                return Ok(false);
            }
            self.propagate_panic();
        }
        Ok(false)
    }

    /// The moment for which there is something to do; that of the origin if it is there already, [`NEVER`] if there is nothing.
    fn next_work(&self) -> u64 {
        if self.has_work() || self.inner.shared.tasks.has_work() {
            return 0;
        }
        self.inner.timers.borrow_mut().next_wake().unwrap_or(NEVER)
    }
}

/// The mark that the loop is in a turn, for the length of one of the calls that run it.
struct Running<'a>(&'a EventLoop);

impl<'a> Running<'a> {
    fn enter(event_loop: &'a EventLoop) -> io::Result<Running<'a>> {
        event_loop.check_process()?;
        if event_loop.inner.running.replace(true) {
            let message = "the loop is running already: a loop cannot be run from its own callbacks";
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, message));
        }
        let running = Running(event_loop);
        event_loop.enter()?;
        Ok(running)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.inner.running.set(false);
        // What shows the work is the parent's as well.
        if !self.0.is_inherited() {
            self.0.leave();
        }
    }
}
