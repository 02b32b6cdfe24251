//! Signals as futures.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::{Signal, Signals};
use crate::event_loop::process_mark::ProcessMark;
use crate::event_loop::tasks::executor::current;
use crate::event_loop::tasks::wait_list::{Place, WaitList};

/// Signals of the process, to be awaited on this thread's loop. Which signals are reported, and the
/// effect of a drop, are those of [`Signals`].
///
/// Signals that are raised between two calls of [`recv`](SignalStream::recv) are kept, those of one
/// number as one signal.
///
/// ```
/// use reveille::EventLoop;
/// use reveille::signal::{Signal, SignalStream};
///
/// # fn main() -> std::io::Result<()> {
/// let event_loop = EventLoop::new()?;
/// event_loop.spawn_local(async {
///     let mut signals = SignalStream::new([Signal::INT, Signal::TERM]).expect("two signals");
///     # rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM);
///     println!("ending on {}", signals.recv().await.expect("a signal"));
/// });
/// event_loop.run_until_idle()
/// # }
/// ```
#[must_use = "dropping this restores the signals' former dispositions"]
pub struct SignalStream {
    signals: Signals,
    received: Rc<Received>,
    place: Place,
    process: ProcessMark,
}

#[derive(Default)]
struct Received {
    /// In the order of arrival, each once.
    pending: RefCell<VecDeque<Signal>>,
    waiting: WaitList,
    has_ended: Cell<bool>,
}

/// The callback's end. It is dropped with the source.
struct Receiving(Rc<Received>, ProcessMark);

impl Receiving {
    fn receive(&self, signal: Signal) {
        let mut pending = self.0.pending.borrow_mut();
        if !pending.contains(&signal) {
            pending.push_back(signal);
        }
        drop(pending);
        self.0.waiting.wake_all();
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.0.has_ended.set(true);
        if self.1.is_current() {
            self.0.waiting.wake_all();
        }
    }
}

impl SignalStream {
    /// Receives `signals` from now on.
    ///
    /// # Errors
    /// Same as [`Signals::new`].
    ///
    /// # Panics
    /// If this thread has no loop.
    #[track_caller]
    pub fn new(signals: impl IntoIterator<Item = Signal>) -> io::Result<SignalStream> {
        let received = Rc::new(Received::default());
        let process = ProcessMark::current();
        let receiving = Receiving(Rc::clone(&received), process);
        let signals = Signals::new(&current(), signals, move |_, signal| receiving.receive(signal))?;
        Ok(SignalStream { signals, received, place: Place::default(), process })
    }

    /// Waits for the next signal.
    ///
    /// Cancel safe: a signal is taken only by the poll that returns it.
    ///
    /// # Errors
    /// [`BrokenPipe`](io::ErrorKind::BrokenPipe) if the loop has ended, after the signals that are
    /// kept.
    pub async fn recv(&mut self) -> io::Result<Signal> {
        poll_fn(|context| self.poll_recv(context)).await
    }

    /// Same as [`recv`](SignalStream::recv), for a future written by hand. The waker of the last
    /// poll is woken.
    pub fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Signal>> {
        let received = &self.received;
        if let Some(signal) = received.pending.borrow_mut().pop_front() {
            return Poll::Ready(Ok(signal));
        }
        if received.has_ended.get() || !self.process.is_current() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, "the event loop has ended")));
        }
        received.waiting.wait(&mut self.place, context);
        Poll::Pending
    }

    /// Excludes the signals from what
    /// [`run_until_idle`](crate::EventLoop::run_until_idle) waits for.
    pub fn exclude_from_idle(&self) {
        self.signals.exclude_from_idle();
    }

    /// Ends the effect of [`exclude_from_idle`](SignalStream::exclude_from_idle).
    pub fn include_in_idle(&self) {
        self.signals.include_in_idle();
    }
}

impl fmt::Debug for SignalStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignalStream")
            .field("pending", &self.received.pending.borrow())
            .finish_non_exhaustive()
    }
}
