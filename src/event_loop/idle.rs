//! Running until nothing is left to do, and what counts for that.

use std::io;
use std::time::Duration;

use super::run::Running;
use super::shared::{TimerId, TimerName};
use super::{EventLoop, Inner};
use crate::event_loop::channel_table::ChannelId;
use crate::event_loop::poller::Wait;

/// Identifies a source among those of all loops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SourceId {
    owner: u32,
    channel: ChannelId,
}

impl EventLoop {
    /// Runs until nothing is left to do, or until [`quit`](EventLoop::quit) is called.
    ///
    /// The loop goes on while it has any of the following:
    ///
    /// - a timer, a task that has been queued, or a spawned future that has been woken;
    /// - a source: a server, client, connection, socket, signal source or watcher, a child process
    ///   until it has been reaped, a lookup or a job of
    ///   [`Workers::submit`](crate::task::Workers::submit) until its result has been delivered, a
    ///   [`FileIo`](crate::fs::FileIo) while operations are pending;
    /// - a [`Channel`](crate::io::Channel) with an interest. One without is not called, and does
    ///   not count;
    /// - an [`Async`](crate::io::Async) while a future waits for it.
    ///
    /// A handle does not keep the loop running, as it may never be used again. So a thread counts
    /// only once it has posted a task. The same holds for a job of
    /// [`Workers::submit_to`](crate::task::Workers::submit_to), which posts its result. A repeating
    /// timer counts until it is cancelled. A spawned future that waits does not count by itself,
    /// only what it waits for: a sleep is a timer, but a wake-up of another thread may never come.
    ///
    /// What only serves the rest, such as signals or a timer for statistics, can be excluded. It is
    /// served as long as the loop runs: see [`exclude_from_idle`](EventLoop::exclude_from_idle) for
    /// timers, and the method with the same name of each source: [`Channel`](crate::io::Channel),
    /// [`TcpServer`](crate::TcpServer), [`TcpClient`](crate::TcpClient),
    /// [`TcpConnection`](crate::TcpConnection), [`UdpSocket`](crate::UdpSocket),
    /// [`Lookup`](crate::net::Lookup), [`SharedRingSource`](crate::ipc::SharedRingSource),
    /// [`FileIo`](crate::fs::FileIo), [`Watcher`](crate::fs::Watcher),
    /// [`Child`](crate::process::Child), [`Signals`](crate::signal::Signals),
    /// [`EventFdSource`](crate::io::EventFdSource), and the sources of
    /// [`pressure`](crate::pressure). [`Workers`](crate::task::Workers::exclude_from_idle) exclude
    /// a job. A [hook](crate::observe::Hook) never counts, but the work that it adds does.
    ///
    /// A loop with a [`VirtualClock`](crate::time::VirtualClock) does not wait for timers: whenever
    /// it has no work left, it moves the clock to the next deadline. It waits for descriptors and
    /// other threads only while no timer counts.
    ///
    /// ```
    /// use reveille::EventLoop;
    /// use reveille::signal::{Signal, Signals};
    /// use std::time::Duration;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let event_loop = EventLoop::new()?;
    /// let signals = Signals::new(&event_loop, [Signal::INT], |event_loop, _| event_loop.quit())?;
    /// signals.exclude_from_idle();
    /// event_loop.run_after(Duration::from_millis(1), |event_loop| {
    ///     event_loop.queue_in_loop(|_| println!("the last thing to do"));
    /// });
    /// event_loop.run_until_idle()
    /// # }
    /// ```
    ///
    /// # Errors
    /// Same as [`run`](EventLoop::run).
    pub fn run_until_idle(&self) -> io::Result<()> {
        let running = Running::enter(self)?;
        let mut quit = false;
        while !quit && !self.is_idle_after_hooks()? {
            quit = match self.inner.shared.clock.virtual_clock() {
                None => self.turn(Wait::Forever)?,
                Some(_) => self.turn_in_virtual_time()?,
            };
            if !quit {
                self.propagate_panic();
            }
        }
        self.run_due_hooks()?;
        if quit {
            self.inner.quitting.set(false);
        }
        drop(running);
        self.propagate_panic();
        Ok(())
    }

    /// Makes turns while there is work. Then moves the clock to the next deadline, or waits if no
    /// timer counts. Returns whether a request to quit is pending.
    fn turn_in_virtual_time(&self) -> io::Result<bool> {
        if self.run_while_ready(usize::MAX)? {
            return Ok(true);
        }
        if self.is_idle() {
            return Ok(false);
        }
        let clock = &self.inner.shared.clock;
        match clock.virtual_clock() {
            Some(virtual_clock) if self.has_counted_timers() && self.has_reachable_deadline() => {
                virtual_clock.advance_to(self.next_work());
                Ok(false)
            }
            _ => self.turn(Wait::Forever),
        }
    }

    /// Whether a timer has a deadline within the range of the clock. A later deadline never passes.
    fn has_reachable_deadline(&self) -> bool {
        let Inner { shared, timers, .. } = &*self.inner;
        let end = shared.clock.end_of(Duration::MAX);
        timers.borrow_mut().next_deadline().is_some_and(|deadline| deadline <= end)
    }

    /// Whether there is no work, and nothing that counts can cause any.
    fn is_idle(&self) -> bool {
        let Inner { shared, channels, .. } = &*self.inner;
        !self.has_work()
            && !shared.tasks.has_work()
            && channels.borrow().counted() == 0
            && !self.has_counted_timers()
    }

    /// Whether the loop is idle, and its hooks add no work.
    fn is_idle_after_hooks(&self) -> io::Result<bool> {
        if !self.is_idle() {
            return Ok(false);
        }
        self.run_due_hooks()?;
        Ok(self.is_idle())
    }

    fn has_counted_timers(&self) -> bool {
        let Inner { timers, excluded_timers, .. } = &*self.inner;
        let excluded = excluded_timers.borrow().iter().filter(|id| self.is_armed(**id)).count();
        timers.borrow().len() > excluded
    }

    /// Whether the timer is in the queue. A timer of another thread is not, until the internal task
    /// that inserts it has run.
    fn is_armed(&self, id: TimerId) -> bool {
        let Inner { shared, timers, .. } = &*self.inner;
        let key = match shared.resolve(id) {
            None => None,
            Some(TimerName::Local(key)) => Some(key),
            Some(TimerName::Remote(key)) => {
                shared.remote_timers.queue_entry(key).and_then(|(queue_key, _)| queue_key)
            }
        };
        key.is_some_and(|key| timers.borrow().deadline(key).is_some())
    }

    /// Excludes a timer from what [`run_until_idle`](EventLoop::run_until_idle) waits for. The
    /// timer fires as long as the loop runs, and does not move a virtual clock by itself. Returns
    /// whether the timer exists.
    pub fn exclude_from_idle(&self, id: TimerId) -> bool {
        let exists = self.deadline(id).is_some();
        if exists {
            let excluded = &mut *self.inner.excluded_timers.borrow_mut();
            // Ids of ended timers are removed before the set grows.
            if excluded.len() == excluded.capacity() {
                excluded.retain(|id| self.deadline(*id).is_some());
            }
            excluded.insert(id);
        }
        exists
    }

    /// Ends the effect of [`exclude_from_idle`](EventLoop::exclude_from_idle).
    pub(crate) fn include_timer_in_idle(&self, id: TimerId) {
        self.inner.excluded_timers.borrow_mut().remove(&id);
    }

    /// Sets whether a source counts for [`run_until_idle`](EventLoop::run_until_idle). By default
    /// it does.
    pub(crate) fn set_counted(&self, id: ChannelId, counted: bool) {
        self.inner.channels.borrow_mut().set_counted(id, counted);
    }

    /// Same as [`set_counted`](EventLoop::set_counted), for a source that may be of another loop,
    /// which is not changed. Returns whether the source is of this loop and exists.
    pub(crate) fn set_own_counted(&self, id: SourceId, counted: bool) -> bool {
        let is_own = id.owner == self.inner.shared.id() && !self.is_inherited();
        let exists = is_own && self.is_registered(id.channel);
        if exists {
            self.set_counted(id.channel, counted);
        }
        exists
    }

    pub(crate) fn source_id(&self, channel: ChannelId) -> SourceId {
        SourceId { owner: self.inner.shared.id(), channel }
    }
}
