//! Deadlines of a connection, and timers that get its handler.

use std::any::TypeId;
use std::any::type_name;
use std::cell::RefCell;
use std::mem;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::TcpConnection;
use crate::event_loop::containment::Contained;
use crate::event_loop::tasks::join_handle::AbortHandle;
use crate::event_loop::{EventLoop, Repeat, TimerId};
use crate::net::connection::calls::Call;
use crate::net::connection::{ConnectionCore, ConnectionState};
use crate::net::result::IntoHandlerResult;

impl TcpConnection<'_> {
    /// Sets the idle timeout, replacing that of the server or client; `None` disables it. The
    /// timeout restarts now.
    ///
    /// A connection is idle while no byte is received, and none is taken by the kernel for sending.
    /// At the timeout [`on_idle`](crate::ConnectionHandler::on_idle) is called, which closes the
    /// connection by default.
    ///
    /// Activity costs a few nanoseconds per message: no system call, and no timer is moved.
    ///
    /// # Panics
    /// If the timeout is zero.
    #[track_caller]
    pub fn set_idle_timeout(&self, timeout: Option<Duration>) {
        self.core.set_idle_timeout(self.event_loop, timeout);
    }

    /// Sets a deadline `within` which the handler expects something to happen, such as the next
    /// request; it replaces the previous one. When it passes,
    /// [`on_deadline`](crate::ConnectionHandler::on_deadline) is called, which closes the
    /// connection by default. `None` removes the deadline. Zero has passed at once: the callback
    /// runs in this turn or the next.
    ///
    /// In contrast to the idle timeout, activity does not move it. Setting it costs a few
    /// nanoseconds: no system call, and no timer is moved to a later time.
    pub fn set_deadline(&self, within: impl Into<Option<Duration>>) {
        self.core.set_deadline(self.event_loop, within.into());
    }

    /// The deadline that is set.
    pub fn deadline(&self) -> Option<Instant> {
        self.core.deadline()
    }

    /// Sets the deadline of an incomplete frame.
    pub(crate) fn set_frame_deadline(&self, within: Option<Duration>) {
        self.core.set_frame_deadline(self.event_loop, within);
    }

    /// Calls `callback` once, after `delay`, with the handler of this connection. The timer ends
    /// with the connection, and when the handler returns an error. [`EventLoop::cancel`] and
    /// [`EventLoop::reset`] accept its id. An error that `callback` returns closes the connection.
    ///
    /// The type of the first parameter selects the handler, see
    /// [`ConnectionHandle::with`](crate::ConnectionHandle::with).
    ///
    /// ```
    /// use reveille::{Buffer, ConnectionHandler, TcpConnection};
    /// use std::io;
    /// use std::time::Duration;
    ///
    /// struct Session {
    ///     requests: u32,
    /// }
    ///
    /// impl Session {
    ///     fn report(&mut self, conn: &TcpConnection) {
    ///         println!("{}: {} requests", conn.id(), self.requests);
    ///     }
    /// }
    ///
    /// impl ConnectionHandler for Session {
    ///     fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
    ///         conn.run_every(Duration::from_secs(60), Session::report);
    ///         Ok(())
    ///     }
    ///
    ///     fn on_message(&mut self, _: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
    ///         self.requests += 1;
    ///         input.clear();
    ///         Ok(())
    ///     }
    /// }
    /// ```
    ///
    /// # Panics
    /// If `H` is not the type of the connection's handler.
    #[track_caller]
    pub fn run_after<H, R>(
        &self,
        delay: Duration,
        callback: impl FnOnce(&mut H, &TcpConnection<'_>) -> R + 'static,
    ) -> TimerId
    where
        H: 'static,
        R: IntoHandlerResult,
    {
        self.expect_handler::<H>();
        let (id, call) = (self.core.id(), Call::new(callback));
        let timer = self.event_loop.run_after(delay, move |event_loop| {
            event_loop.call_source(id, &mut Some(call));
        });
        self.core.keep_timer(self.event_loop, timer);
        timer
    }

    /// Calls `callback` repeatedly, with the handler of this connection; see
    /// [`EventLoop::run_every`]. Otherwise the same as [`run_after`](TcpConnection::run_after).
    ///
    /// # Panics
    /// If `H` is not the type of the connection's handler, or the period is zero.
    #[track_caller]
    pub fn run_every<H, R>(
        &self,
        repeat: impl Into<Repeat>,
        callback: impl FnMut(&mut H, &TcpConnection<'_>) -> R + 'static,
    ) -> TimerId
    where
        H: 'static,
        R: IntoHandlerResult,
    {
        self.expect_handler::<H>();
        let id = self.core.id();
        let callback = Rc::new(RefCell::new(Contained::new(callback)));
        let timer = self.event_loop.run_every(repeat, move |event_loop| {
            let callback = Rc::clone(&callback);
            // Timers fire while no callback is running, so the call runs at once.
            let call = Call::new(move |handler: &mut H, conn| (callback.borrow_mut())(handler, conn));
            event_loop.call_source(id, &mut Some(call));
        });
        self.core.keep_timer(self.event_loop, timer);
        timer
    }

    #[track_caller]
    pub(super) fn expect_handler<H: 'static>(&self) {
        let has_handler = (self.core.has_handler)(TypeId::of::<H>());
        assert!(has_handler, "the handler of the connection is not a {}", type_name::<H>());
    }
}

/// The timers and futures that end with a connection. Some may have ended.
#[derive(Default)]
pub(in crate::net::connection) struct Timers {
    /// The timer of `close_after`.
    pub(in crate::net::connection) close: Option<TimerId>,
    /// The timers that get the handler.
    with_handler: Vec<TimerId>,
    pub(super) tasks: Vec<AbortHandle>,
}

impl ConnectionCore {
    pub(in crate::net::connection) fn change_timers(&self, change: impl FnOnce(&mut Timers)) {
        let mut timers = self.timers.take().unwrap_or_default();
        change(&mut timers);
        self.timers.set(Some(timers));
    }

    /// Cancels the timer when the connection closes or its handler fails; at once if either has
    /// happened.
    fn keep_timer(&self, event_loop: &EventLoop, timer: TimerId) {
        if self.state() == ConnectionState::Closed || self.has_handler_failed() {
            event_loop.cancel(timer);
            return;
        }
        self.change_timers(|Timers { with_handler, .. }| {
            // Timers that have fired are removed when the list would grow.
            if with_handler.len() == with_handler.capacity() {
                with_handler.retain(|timer| event_loop.deadline(*timer).is_some());
            }
            with_handler.push(timer);
        });
    }

    /// The handler has failed, so its timers end. The timer of `close_after` does not call it.
    pub(in crate::net::connection) fn cancel_handler_timers(&self, event_loop: &EventLoop) {
        let Some(mut timers) = self.timers.take() else { return };
        let with_handler = mem::take(&mut timers.with_handler);
        self.timers.set(Some(timers));
        // Drops values of the user.
        for timer in with_handler {
            event_loop.cancel(timer);
        }
    }

    /// The connection is closed, and with it all timers and futures.
    pub(in crate::net::connection) fn cancel_timers(&self, event_loop: &EventLoop) {
        let Some(timers) = self.timers.take() else { return };
        for timer in timers.close.into_iter().chain(timers.with_handler) {
            event_loop.cancel(timer);
        }
        timers.tasks.iter().for_each(AbortHandle::abort);
    }
}
