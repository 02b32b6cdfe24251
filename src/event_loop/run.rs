//! The calls that run the loop.

use std::io;
use std::time::{Duration, Instant};

use super::EventLoop;
use crate::event_loop::poller::Wait;
use crate::event_loop::timers::clock::NEVER;

/// The maximum number of turns of one [`run_ready`](EventLoop::run_ready).
const MAX_READY_TURNS: usize = 128;

impl EventLoop {
    /// Runs until [`quit`](EventLoop::quit) is called.
    ///
    /// All tasks accepted before that call run before `run` returns. A request made before `run`
    /// takes effect as well: `run` makes one turn without waiting and returns. The request is then
    /// cleared, and the loop can be run again. A request made after the last batch of tasks was
    /// taken stays pending and ends the next `run`.
    ///
    /// # Errors
    /// [`ResourceBusy`](io::ErrorKind::ResourceBusy) from inside a callback of this loop; otherwise
    /// the error of the wait, which does not fail on a healthy system.
    pub fn run(&self) -> io::Result<()> {
        let running = Running::enter(self)?;
        while !self.turn(Wait::Forever)? {
            self.propagate_panic();
        }
        self.run_due_hooks()?;
        self.inner.quitting.set(false);
        drop(running);
        self.propagate_panic();
        Ok(())
    }

    /// Makes one turn and waits at most `timeout` for events (without limit if `None`).
    ///
    /// For a loop inside another one, which is woken by the loop's
    /// [descriptor](EventLoop#inside-another-loop). [`run_ready`](EventLoop::run_ready) makes turns
    /// while there is work; `run_once` makes exactly one.
    ///
    /// The timeout has a resolution of one millisecond, rounded up. With a timeout of zero the turn
    /// does not wait. The timeout is measured in real time even if the loop has a virtual clock.
    ///
    /// A request to quit stays pending ([`is_quitting`](EventLoop::is_quitting)). While it is
    /// pending, a turn does not wait.
    ///
    /// # Errors
    /// Same as [`run`](EventLoop::run).
    pub fn run_once(&self, timeout: impl Into<Option<Duration>>) -> io::Result<()> {
        let running = Running::enter(self)?;
        let wait = match timeout.into() {
            None => Wait::Forever,
            Some(Duration::ZERO) => Wait::No,
            // A timeout beyond the range of the clock is no limit.
            Some(timeout) => Instant::now().checked_add(timeout).map_or(Wait::Forever, Wait::Until),
        };
        self.turn(wait)?;
        self.run_due_hooks()?;
        drop(running);
        self.propagate_panic();
        Ok(())
    }

    /// Makes turns without waiting until one has found no work. A loop inside another one calls
    /// this when its [descriptor](EventLoop#inside-another-loop) has become readable.
    ///
    /// It makes at most 128 turns, so that a loop that always has work (a task that queues itself
    /// again, a peer that sends without pause) leaves the outer loop its share of the thread. The
    /// remaining work makes the descriptor readable, with a new edge.
    ///
    /// A request to quit ends the call and stays pending ([`is_quitting`](EventLoop::is_quitting)),
    /// same as with [`run_once`](EventLoop::run_once). The outer loop should then stop calling
    /// `run_ready`, because a loop with a pending request always has work.
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
    /// Same as [`run`](EventLoop::run).
    pub fn run_ready(&self) -> io::Result<()> {
        let running = Running::enter(self)?;
        self.run_while_ready(MAX_READY_TURNS)?;
        self.run_due_hooks()?;
        drop(running);
        self.propagate_panic();
        Ok(())
    }

    /// Runs for `duration` by the loop's clock, or until [`quit`](EventLoop::quit) is called. With
    /// a duration of zero it makes at least one turn and does not wait.
    ///
    /// A loop with a [`VirtualClock`](crate::time::VirtualClock) does not wait: whenever it has no
    /// work left, it moves the clock to the next deadline. All timers of the period fire in order,
    /// each at its deadline, and at the end the clock has moved by `duration`. The clock stands
    /// still while there is work or a descriptor is ready. The loop does not wait for descriptors
    /// to become ready.
    ///
    /// # Errors
    /// Same as [`run`](EventLoop::run).
    pub fn run_for(&self, duration: Duration) -> io::Result<()> {
        let running = Running::enter(self)?;
        let clock = &self.inner.shared.clock;
        let end = clock.end_of(duration);
        let quit = loop {
            let quit = match clock.virtual_clock() {
                None => self.turn(Wait::Until(clock.instant(end)))?,
                Some(_) => self.run_while_ready(usize::MAX)?,
            };
            if quit || clock.moment(self.now()) >= end {
                break quit;
            }
            self.propagate_panic();
            if let Some(virtual_clock) = clock.virtual_clock() {
                virtual_clock.advance_to(self.next_work().min(end));
            }
        };
        self.run_due_hooks()?;
        if quit {
            self.inner.quitting.set(false);
        }
        drop(running);
        self.propagate_panic();
        Ok(())
    }

    /// Makes turns until one has found no work, at most `max_turns` of them. Returns whether a
    /// request to quit is pending.
    pub(super) fn run_while_ready(&self, max_turns: usize) -> io::Result<bool> {
        for _ in 0..max_turns {
            let idle = self.next_work() > self.moment();
            if self.turn(Wait::No)? {
                return Ok(true);
            }
            // A hook may have queued a task, and the task more work.
            if idle && !self.inner.poller.has_events() && self.next_work() > self.moment() {
                return Ok(false);
            }
            self.propagate_panic();
        }
        Ok(false)
    }

    /// The instant of the next work: 0 if there is work now, [`NEVER`] if there is none.
    pub(super) fn next_work(&self) -> u64 {
        if self.has_work() || self.inner.shared.tasks.has_work() {
            return 0;
        }
        self.inner.timers.borrow_mut().next_wake().unwrap_or(NEVER)
    }
}

/// Marks the loop as running until this is dropped.
pub(super) struct Running<'a>(&'a EventLoop);

impl<'a> Running<'a> {
    pub(super) fn enter(event_loop: &'a EventLoop) -> io::Result<Running<'a>> {
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
        self.0.inner.hooks.set_due();
        // An inherited loop shares the counter that signals pending work with the parent process.
        if !self.0.is_inherited() {
            self.0.leave();
        }
    }
}
